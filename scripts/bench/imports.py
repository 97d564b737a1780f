"""What `import lrtune` and `lrtune --help` cost beside `import torch`, each in a fresh process.

Run: python scripts/bench/imports.py [--repeats 7]
Prints medians of interleaved repeats and their ratios to `import torch`.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time

HELP = "import sys; sys.argv = ['lrtune', '--help']; from lrtune.cli.commands import main; main()"
COMMANDS = {
    "import torch": "import torch",
    "import lrtune": "import lrtune",
    "lrtune --help": HELP,
    "python": "",
}


def seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(repeats + 1):
        for name, code in COMMANDS.items():
            times[name].append(seconds(code))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}  # 1st: cold
    ratios = {name: value / medians["import torch"] for name, value in medians.items()}
    for name in COMMANDS:
        print(f"{name:14s} {medians[name]:6.3f} s   {ratios[name]:5.1%} of import torch")
    conditions = {"repeats": repeats, "cores": os.cpu_count(), "python": platform.python_version()}
    print(json.dumps({"ratio to import torch": ratios, **conditions}))


if __name__ == "__main__":
    main()
