"""Does a search that is killed again and again end as one that never was?

Run: python scripts/bench/resume.py [--searches 12] [--seed 0]
Each search is killed (SIGKILL) three times, as it stores a random journal entry, and compared with
the unbroken one; every second has checkpoints. Its trials are the idle ones of the tests. Exit code
1 if any differs.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2] / "tests" / "search")]

import idle  # noqa: E402

from lrtune.search.journal import mend  # noqa: E402


def ends_the_same(slots: int, entries: list[int], checkpoint: bool) -> bool:
    how = {"stopping": idle.EVERYTHING, "checkpoint": checkpoint}
    with tempfile.TemporaryDirectory() as place:
        expected = idle.pruned_in(Path(place, "whole"), idle.NoisyPool(slots), **how)
        broken = Path(place, "broken")
        for entry in entries:
            idle.killed(broken, slots, "SIGKILL", entry, "entry", checkpoint)
            mend(broken / "journal.log", stale_seconds=0)
        found = idle.pruned_in(broken, idle.NoisyPool(slots), **how)
    same = idle.frame(found)[idle.SAME], idle.frame(expected)[idle.SAME]
    return bool(same[0].equals(same[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    differ = 0
    for number in range(arguments.searches):
        slots, entries = 1 + number % 3, [random.randint(1, 100) for _ in range(3)]
        same = ends_the_same(slots, entries, checkpoint=number % 2 == 1)
        differ += not same
        print(f"{slots} slots, killed at entries {entries}: {'same' if same else 'DIFFERENT'}")
    print(f"{arguments.searches - differ} of {arguments.searches} the same")
    sys.exit(differ > 0)


if __name__ == "__main__":
    main()
