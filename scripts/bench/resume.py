"""Does a search that is killed again and again end as one that never was?

Run: python scripts/bench/resume.py [--searches 12] [--seed 0]
Each search is killed (SIGKILL) three times, as it stores a random journal entry, and compared with
the unbroken one; its trials are the idle ones of the tests. Exit code 1 if any differs.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
PATH = [str(HERE.parents[1] / "tests" / "search"), str(HERE)]
sys.path[:0] = PATH

import idle  # noqa: E402
import refereed  # noqa: E402
import test_referee_killed as killed  # noqa: E402

from lrtune.search.storage import mend  # noqa: E402


def ends_the_same(slots: int, entries: list[int]) -> bool:
    with tempfile.TemporaryDirectory() as place:
        whole, broken = Path(place, "whole"), Path(place, "broken")
        expected = killed.whole_search(whole, slots)
        broken.mkdir()
        for entry in entries:
            given = {"path": PATH, "folder": str(broken), "slots": slots, "checkpoints": False}
            command = [sys.executable, "-c", killed.DIES.format(count=entry, **given)]
            ended = subprocess.run(command, capture_output=True, check=False)
            if ended.returncode not in (0, -signal.SIGKILL):
                raise RuntimeError(ended.stderr.decode())
            mend(broken / "journal.log", stale_seconds=0)
        refereed.search_with(broken, refereed.NoisyPool(slots), refereed.RULES)
        same = killed.SAME_ENDS
        return bool(idle.found_in(broken)[same].equals(expected[same]))


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
