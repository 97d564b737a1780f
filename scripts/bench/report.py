"""What the report of a long search costs: seconds to write, bytes, plotly's own script apart.

Run: python scripts/bench/report.py [--trials 1000] [--repeats 5]
The trials come through the whole search and its finals; their trainer is made up.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
from madeup import VALIDATIONS, madeup
from plotly.offline import get_plotlyjs

from lrtune.run.folder import Run

OUT = Path(__file__).parents[2] / "studies" / "results" / "bench" / "report.json"


def measure(run: Run, repeats: int) -> dict[str, Any]:
    """Wall and processor seconds of ``Run.write``: the records read, report and table written."""
    run.write()  # what is imported on the way is not the report's
    wall, cpu = [], []
    for _ in range(repeats):
        start, spent = time.perf_counter(), time.process_time()
        run.write()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - spent)
    script = len(get_plotlyjs().encode())
    page = (run.folder / "report.html").stat().st_size
    return {
        "seconds": statistics.median(wall),
        "processor seconds": statistics.median(cpu),
        "all seconds": wall,
        "bytes": page,
        "of which plotly's script": script,
        "of which ours": page - script,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        run = madeup(Path(folder) / "run", args.trials)
        trials = run.trials()
        found = measure(run, args.repeats)
    found |= {
        "trials": len(trials),
        "ended": trials["state"].value_counts().to_dict(),
        "families": int(trials["family"].nunique()),
        "validations": VALIDATIONS,
        "repeats": args.repeats,
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("optuna", "pandas", "plotly")},
        "date": date.today().isoformat(),
    }
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
