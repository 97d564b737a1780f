"""Attack lrtune: kills, full disks, outages, little memory, damaged files, nonsense for input.

    nice -n 15 python scripts/attack --minutes 5

Every attack has a share of the time, and a process of its own. What counts as a defect: a trial
lost or counted twice, a result that differs from that of an unbroken search, a traceback, a hang of
30 seconds, a secret that is told, a command that only looks and leaves less than it found. Prints a
table, and exits with 1 if there is a defect; ``--only NAME --seed S --case N`` repeats it.
"""

import argparse
import json
import logging
import os
import pickle
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2] / path) for path in ("tests/search", "scripts/bench")]

from attacks import ATTACKS, Outcome, attacked  # noqa: E402
from forks import warm  # noqa: E402

RESULTS = Path(__file__).parents[2] / "studies" / "results" / "bench" / "attack.json"
# Shares of the time, where it is not 1: what takes seconds a case, and what milliseconds.
SHARES = {"killed searches": 8, "killed commands": 6, "killed workers": 3, "little memory": 2}
SHARES |= {"options": 0.3, "study files": 0.3, "schedules": 0.3, "texts": 0.3}


def apart(use: Callable[[], Any]) -> Any:
    """What it returns, in a fork: torch's threads and the like stay there."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reads)
        with os.fdopen(writes, "wb") as pipe:
            pickle.dump(use(), pipe)
        sys.exit()
    os.close(writes)
    with os.fdopen(reads, "rb") as pipe:
        found = pipe.read()
    os.waitpid(child, 0)
    return pickle.loads(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--cases", type=int, help="of each attack, in place of a time")
    parser.add_argument("--only", choices=ATTACKS, action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="with --only: this one alone")
    parser.add_argument("--out", type=Path, help=f"for instance {RESULTS.name}")
    args = parser.parse_args()
    names = args.only or [*ATTACKS]
    warm()
    for name in ("lrtune", "optuna"):  # they tell of each outage
        logging.getLogger(name).setLevel(logging.ERROR)
    if args.case is not None:
        print(ATTACKS[names[0]](random.Random(f"{names[0]} {args.seed} {args.case}")))
        return
    outcomes: dict[str, Outcome] = {}
    end, left = time.monotonic() + 60 * args.minutes, sum(SHARES.get(name, 1) for name in names)
    for name in names:  # what one leaves of its time, the next ones have
        share = SHARES.get(name, 1) / left
        left -= SHARES.get(name, 1)
        until = time.monotonic() + share * (end - time.monotonic())

        def more(cases: int, until: float = until) -> bool:
            return cases < args.cases if args.cases else cases == 0 or time.monotonic() < until

        outcomes[name] = apart(lambda name=name, more=more: attacked(name, args.seed, more))
        print(f"{name}: {outcomes[name].cases:,} cases", file=sys.stderr, flush=True)
        if args.out is not None:
            content = {name: vars(outcome) for name, outcome in outcomes.items()}
            args.out.write_text(json.dumps({"seed": args.seed, **content}, indent=1) + "\n")
    print("\n| attack | cases | defects | how they ended |\n|---|---:|---:|---|")
    for name, outcome in outcomes.items():
        ends = ", ".join(f"{count:,} {end}" for end, count in outcome.ends.most_common())
        print(f"| {name} | {outcome.cases:,} | {len(outcome.defects)} | {ends} |")
    sys.exit(any(outcome.defects for outcome in outcomes.values()))


if __name__ == "__main__":
    main()
