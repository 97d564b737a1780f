"""Does a search that is killed again and again end as one that never was?

Run: python scripts/bench/resume.py [--searches 12] [--seed 0]
Each search is killed (SIGKILL) three times, as it stores a random journal entry, and compared with
the unbroken one; its trials are the idle ones of the tests. Exit code 1 if any differs.
"""

import argparse
import random
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
TESTS = HERE.parents[1] / "tests" / "search"
sys.path[:0] = [str(TESTS), str(HERE)]

import test_search as t  # noqa: E402  # the kill, the pool and the comparison of the test


def ends_the_same(slots: int, entries: list[int]) -> bool:
    budget, code = t.Budget(trials=t.TRIALS), t.DIES
    code = code.format(here=str(TESTS), bench=str(HERE), signal="SIGKILL")
    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as broken:
        expected = t.search_in(Path(whole), t.EdgyPool(slots), budget)
        for entry in entries:
            command = [sys.executable, "-c", code, broken, str(slots), str(entry)]
            subprocess.run(command, capture_output=True, check=False)
            t.mend(Path(broken) / "journal.log", stale_seconds=0)
        found = t.search_in(Path(broken), t.EdgyPool(slots), budget)
        return bool(found[t.SAME].equals(expected[t.SAME]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    differ = 0
    for number in range(arguments.searches):
        slots, entries = 1 + number % 3, [random.randint(5, 150) for _ in range(3)]
        same = ends_the_same(slots, entries)
        differ += not same
        print(f"{slots} slots, killed at entries {entries}: {'same' if same else 'DIFFERENT'}")
    print(f"{arguments.searches - differ} of {arguments.searches} the same")
    sys.exit(differ > 0)


if __name__ == "__main__":
    main()
