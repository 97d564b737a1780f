"""Does a search with another master seed come to the same answer?

    python scripts/bench/reproduce.py digits --out studies/results/bench/reproduce.json

The task is searched and confirmed as a user would, once with each master seed: other trials,
initial weights and, where the data are cut here, another cut into train, val and test. A run that
is there goes on where it stopped. Nothing is learnt from other tasks (``--no-transfer``), since
this one may be among them. Told of each: what is recommended, whether it ends low (the last
twentieth of the run below a fifth of the peak rate), whether a tuned constant is told apart from
it, and the cost. Recommendations are in the same group where both end low or neither does.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import lrtune

ROOT = Path(__file__).parents[2]
END, LOW = 0.05, 0.2  # shares: of the run, of the peak rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", help="a task or a study file")
    parser.add_argument("--first", type=int, default=1, help="master seed")
    parser.add_argument("--last", type=int, default=32)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "reproduce")
    parser.add_argument("--out", type=Path, help="JSON; studies/results/bench/reproduce.json, say")
    args = parser.parse_args()
    rows = []
    for seed in range(args.first, args.last + 1):
        run = args.runs / f"{Path(args.task).stem}-{seed}"
        words = ["search", args.task, "--no-transfer", "--seed", str(seed), "--quiet"]
        command = [sys.executable, "-m", "lrtune", *words, "--out", str(run)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows.append({"seed": seed, **told(run)})
        print(line(rows[-1]), flush=True)
        if args.out is not None:
            args.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(summary(rows))


def told(folder: Path) -> dict[str, Any]:
    """Of a run what is compared."""
    run = lrtune.open(folder)
    verdict = run.verdict()
    assert verdict is not None
    use = verdict.answer.recommended
    schedule = run.best()
    assert schedule is not None
    rates = schedule.rates(verdict.horizon)
    over = {gain.over: gain for gain in verdict.answer.gains}
    gain = over.get("constant")
    return {
        "recommended": use,
        "low": bool(rates[-max(1, round(END * len(rates))) :].mean() < LOW * rates.max()),
        "constant": use == "constant",
        "told apart": bool(gain and gain.sure),
        "gain": gain and gain.gain,
        "p": gain and gain.p,
        "trainings": (run.trials()["updates"].sum() + verdict.trained) / verdict.horizon,
        "seconds": run.settings.elapsed,
    }


def line(row: dict[str, Any]) -> str:
    """A master seed's answer, for the terminal."""
    end = "ends low" if row["low"] else "stays high"
    gain = "" if row["gain"] is None else f", {row['gain']:.3g} over constant (p {row['p']:.2g})"
    cost = f"{row['trainings']:.0f} trainings, {row['seconds']:.0f} s"
    return f"seed {row['seed']}: {row['recommended']} {end}{gain}; {cost}"


def summary(rows: list[dict[str, Any]]) -> str:
    """How often the same group came, and the constant was told apart."""
    (low, count), *_ = Counter(row["low"] for row in rows).most_common(1)
    group = "ends low" if low else "stays high"
    apart = sum(row["told apart"] for row in rows)
    names = ", ".join(f"{n} {c}" for n, c in Counter(r["recommended"] for r in rows).most_common())
    most = max(row["trainings"] for row in rows)
    return (
        f"{count} of {len(rows)} {group}; a tuned constant told apart in {apart}; at most "
        f"{most:.0f} trainings; recommended: {names}"
    )


if __name__ == "__main__":
    main()
