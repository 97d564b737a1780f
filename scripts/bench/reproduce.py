"""Does a search with another master seed come to the same verdict?

    python scripts/bench/reproduce.py studies/digits.toml --first 1 --last 16

The study file is searched and confirmed as a user would, once with each master seed: other trials,
initial weights and, where the data are cut here, another cut into train, val and test. A run that
is there goes on where it stopped. The verdict is the same where the same families are the best.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="a study file")
    parser.add_argument("--first", type=int, default=1, help="master seed")
    parser.add_argument("--last", type=int, default=16)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "reproduce")
    parser.add_argument("--out", type=Path, help="JSON; studies/results/bench/reproduce.json, say")
    args = parser.parse_args()
    rows = []
    for seed in range(args.first, args.last + 1):
        run = args.runs / f"{args.study.stem}-{seed}"
        words = ["search", str(args.study), "--no-transfer", "--seed", str(seed), "--quiet"]
        command = [sys.executable, "-m", "lrtune", *words, "--out", str(run)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows.append({"seed": seed, **told(json.loads((run / "verdict.json").read_text()))})
        print(line(rows[-1]), flush=True)
    if args.out is not None:
        args.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(summary(rows))


def told(verdict: dict[str, Any]) -> dict[str, Any]:
    """Of a verdict what is compared, and how far behind the others are."""
    behind = [row for row in verdict["families"] if row["place"] == "behind"]
    kept = ("family", "gap", "gap_low", "gap_high", "p")
    return {
        "best": sorted(verdict["answer"]["families"]),
        "why": verdict["answer"]["why"],
        "score": verdict["families"][0]["mean"],
        "behind": [{name: row[name] for name in kept} for row in behind],
        "lost": [row["family"] for row in verdict["families"] if row["place"] == "lost"],
        "absent": [row["family"] for row in verdict["absent"]],
    }


def line(row: dict[str, Any]) -> str:
    """A master seed's verdict, for the terminal."""
    behind = [f"{one['family']} by {one['gap']:.3g}" for one in row["behind"]]
    gone = [f"{name} {why}" for why in ("lost", "absent") for name in row[why]]
    left = ", ".join([*behind, *gone]) or "none"
    return f"seed {row['seed']}: {', '.join(row['best'])} ({row['score']:.4g}); others: {left}"


def summary(rows: list[dict[str, Any]]) -> str:
    """How often the most frequent verdict came."""
    (families, count), *_ = Counter(tuple(row["best"]) for row in rows).most_common()
    return f"{count} of {len(rows)} the same: {', '.join(families)}"


if __name__ == "__main__":
    main()
