"""Is a range test of many short trainings at constant rates better than a sweep?

    python scripts/bench/range_test.py --runs DIR

Of each finished run in DIR: the bracket of three sweeps under a rising rate, as a search has it,
and of trainings at 24 constant rates, judged by the mean training loss of their last quarter, with
the same rules for both; three times, on seeds of their own. ``cost`` counts updates, those of the
sweeps being 1. A bracket is good if the range that would be searched around it holds the peaks that
won (each family's best, of the better half of the families), and the better the narrower it is.
Note that the runs were searched around a sweep's bracket, where there was one.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from lrtune.engine import FusedPool, range_test
from lrtune.engine.range_test import FEWEST_UPDATES, UPDATES, RangeTest, suggest_range
from lrtune.tasks import Task, load_task
from lrtune.tuning import AROUND_BRACKET, FALLBACK_PEAK_LR

RESULTS = Path(__file__).parents[2] / "studies" / "results" / "bench"
TASKS = {  # of a run: the data and the model
    "digits-mlp": ("digits", "mlp"),
    "digits-cnn": ("digits", "cnn"),
    "diabetes": ("diabetes", "mlp"),
}
RATES, SEEDS, REPEATS = 24, 3, 3
SHARES = {"short": 8, "long": 2}  # of a sweep's updates, that a constant rate gets
Array = Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--only", default=",".join(TASKS))
    args = parser.parse_args()
    out = RESULTS / "range-test.json"
    rows = json.loads(out.read_text()) if out.exists() else {}
    for name in args.only.split(","):
        rows[name] = row(name, args.runs / name)
        out.write_text(json.dumps(rows, indent=1) + "\n")
        for way, found in rows[name]["ways"].items():
            print(name, rows[name]["peaks"], way, json.dumps(found), flush=True)


def row(name: str, folder: Path) -> dict[str, Any]:
    """All ways of finding a bracket for the task of a run."""
    kept = json.loads((folder / "run.json").read_text())
    data, model = TASKS[name]
    task = load_task(data, model=model)
    best = json.loads((folder / "best.json").read_text())
    task = replace(task, epochs=best["horizon"] * task.batch_size / task.train.samples)
    task = replace(task, optimizer=best["optimizer"]["name"])
    peaks = winners(folder)
    updates = min(UPDATES, max(FEWEST_UPDATES, task.horizon // 3))
    ways: dict[str, list[RangeTest]] = {"sweeps": []} | {way: [] for way in SHARES}
    for repeat in range(REPEATS):
        seeds = range(SEEDS * repeat, SEEDS * (repeat + 1))
        ways["sweeps"].append(range_test(task, updates=updates, seeds=seeds, make=FusedPool))
        rates = np.geomspace(1e-6, 10.0, RATES)
        losses = constant(task, rates, updates // min(SHARES.values()), seeds)
        for way, share in SHARES.items():
            last = losses[:, :, : updates // share][:, :, -max(1, updates // share // 4) :]
            ways[way].append(suggest_range(rates, last.mean(2)))
    return {
        "peaks": [round(float(peak), 6) for peak in sorted(peaks)],
        "bracket of the run": kept["peak_lr"],
        "updates of a sweep": updates,
        "ways": {way: judged(found, peaks) | {"cost": cost(way)} for way, found in ways.items()},
        "torch": torch.__version__,
    }


def winners(folder: Path) -> Array:
    """The peaks of each family's best trial, of the better half of the families."""
    trials = pd.read_parquet(folder / "trials.parquet")
    trials = trials[trials.state == "complete"]
    direction = json.loads((folder / "best.json").read_text())["objective"]["direction"]
    sign = -1 if direction == "maximize" else 1
    best = trials.assign(cost=sign * trials.value).sort_values("cost").groupby("family").head(1)
    return best.peak_lr.to_numpy()[: max(3, len(best) // 2)]


def cost(way: str) -> float:
    return 1.0 if way == "sweeps" else RATES / SHARES[way]


def constant(task: Task, rates: Array, updates: int, seeds: range) -> Array:
    """Training losses (seeds, rates, updates) at constant rates."""
    epochs = updates * task.batch_size / task.train.samples
    short = replace(task, epochs=epochs, validations=1, average=None)
    pool = FusedPool(short, len(rates))
    found = []
    for seed in seeds:
        for slot, rate in enumerate(rates):
            pool.admit(slot, np.full(short.horizon, rate), seed)
        found.append([progress.losses for progress in pool.advance()])
        for slot in range(len(rates)):
            pool.release(slot)
    return np.array(found)


def judged(found: list[RangeTest], peaks: Array) -> dict[str, Any]:
    """Of each repeat the bracket, the winners in the ranges around it, their width in decades."""
    brackets, held, decades = [], [], []
    for test in found:
        one = test.suggestion
        brackets.append(None if one is None else [one.base_lr, one.max_lr])
        low, high = (
            FALLBACK_PEAK_LR
            if one is None
            else (AROUND_BRACKET[0] * one.base_lr, AROUND_BRACKET[1] * one.max_lr)
        )
        held.append(float(((peaks >= low) & (peaks <= high)).mean()))
        decades.append(float(np.log10(high / low)))
    return {"brackets": brackets, "winners held": held, "decades": decades}


if __name__ == "__main__":
    main()
