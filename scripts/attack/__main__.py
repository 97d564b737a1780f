"""Attack lrtune: kills, full disks, locked databases, damaged files, nonsense for input.

    python scripts/attack --minutes 5

Every attack gets an equal share of the time. What counts as a defect: a trial lost or counted
twice, a result that differs from that of an unbroken search, a traceback, a hang of 30 seconds, a
command that only looks and leaves less than it found. Prints a table, and exits with 1 if there is
a defect; the cases that showed one are in the JSON, and ``--seed`` repeats them.
"""

import argparse
import json
import random
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2] / path) for path in ("tests/search", "scripts/bench")]

from attacks import ATTACKS, attacked  # noqa: E402

RESULTS = Path(__file__).parents[2] / "studies" / "results" / "bench" / "attack.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--only", choices=ATTACKS, action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="with --only: this one alone")
    parser.add_argument("--out", type=Path, help=f"for instance {RESULTS.name}")
    args = parser.parse_args()
    names = args.only or [*ATTACKS]
    if args.case is not None:
        print(ATTACKS[names[0]](random.Random(f"{names[0]} {args.seed} {args.case}")))
        return
    outcomes = {}
    for name in names:
        until = time.monotonic() + 60 * args.minutes / len(names)
        outcomes[name] = attacked(name, args.seed, lambda _, until=until: time.monotonic() < until)
    print("\n| attack | cases | defects | how they ended |\n|---|---:|---:|---|")
    for name, outcome in outcomes.items():
        ends = ", ".join(f"{count} {end}" for end, count in outcome.ends.most_common())
        print(f"| {name} | {outcome.cases:,} | {len(outcome.defects)} | {ends} |")
    if args.out is not None:
        content = {name: vars(outcome) for name, outcome in outcomes.items()}
        args.out.write_text(json.dumps({"seed": args.seed, **content}, indent=1) + "\n")
    sys.exit(any(outcome.defects for outcome in outcomes.values()))


if __name__ == "__main__":
    main()
