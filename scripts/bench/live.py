"""Does early stopping find better schedules at an equal cost? Whole searches, not replays.

    python scripts/bench/live.py --text tinyshakespeare.txt

Three tasks, five master seeds, the updates of 20 whole trainings each; the same sampler with each
pruner. What each search calls best is trained again with three fresh seeds. Optuna's pruners see
the current weights' values, as people use them.
"""

import argparse
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import torch
from curves import trained
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner
from race_table import markdown
from recorded_tasks import TASKS

from lrtune import Budget, Engine, Listener, Stopping, tune
from lrtune.engine import SerialPool
from lrtune.schedule import Schedule
from lrtune.tasks import Task
from lrtune.verdict.summary import best

RESULTS = Path(__file__).parents[2] / "studies" / "results" / "bench"
CHOSEN = ("digits-mlp-sgd", "diabetes-mlp-adamw", "shakespeare-grams-sgd")
TRAININGS, SLOTS = 20, 8
FRESH = (1001, 1002, 1003)


def pruners(task: Task) -> dict[str, Stopping]:
    """``stopping`` of ``tune`` by the name of what ends trials."""
    every = task.horizon // len(task.checkpoints)

    def as_people_do(pruner: BasePruner | str) -> Stopping:
        return Stopping(pruner, patience=0, audit=0.0)

    hyperband = HyperbandPruner(min_resource=every, max_resource=task.horizon, reduction_factor=3)
    return {
        "lrtune": Stopping(),
        "none": as_people_do("none"),
        "Optuna median": as_people_do(MedianPruner()),
        "Optuna Hyperband": as_people_do(hyperband),
    }


def search(name: str, pruner: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """One search, and its winner trained again."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    task = replace(TASKS[name].make(args), validations=30)
    seen = task if pruner == "lrtune" else replace(task, average=None)
    with tempfile.TemporaryDirectory() as folder:
        run = tune(
            seen,
            budget=Budget(updates=TRAININGS * task.horizon),
            plan=None,
            listener=Listener(),
            peak_lr=TASKS[name].peak_lr,
            seed=seed,
            out=Path(folder),
            engine=Engine("fused", SLOTS, "cpu"),
            stopping=pruners(task)[pruner],
        )
        trials = run.trials()
    row = best(trials, task.objective.direction)
    assert row is not None
    jobs = [(0, Schedule.from_json(row["schedule"]), fresh) for fresh in FRESH]
    finals = [one["loss"][-1] for one in trained(SerialPool(replace(task, average=None)), jobs)]
    return {
        "task": name,
        "pruner": pruner,
        "seed": seed,
        "trials": len(trials),
        "ended": trials["state"].value_counts().to_dict(),
        "family": row["family"],
        "searched": float(row["value"]),
        "confirmed": float(np.mean(finals)),
    }


def table(found: pd.DataFrame) -> str:
    """By task: trials, and the confirmed loss as a ratio to searching without pruning."""
    cells = found.pivot(index=["task", "seed"], columns="pruner", values="confirmed")
    ratios = np.log(cells.div(cells["none"], axis=0))
    rows = []
    for pruner in cells:
        own = found[found["pruner"] == pruner]
        by_task = ratios[pruner].groupby("task").mean()
        spread = ratios[pruner].std() / np.sqrt(len(ratios))
        rows.append(
            {
                "pruner": pruner,
                "trials": own["trials"].mean(),
                **{task: np.exp(value) for task, value in by_task.items()},
                "all": np.exp(ratios[pruner].mean()),
                "standard error": spread,
                "best in": float((cells[pruner] == cells.min(axis=1)).mean()),
            }
        )
    return markdown(pd.DataFrame(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", required=True, help="tiny Shakespeare")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", help="of lrtune, none, ...; results that are there stay")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "live.json")
    args = parser.parse_args()
    names = ("lrtune", "none", "Optuna median", "Optuna Hyperband")
    names = tuple(args.only.split(",")) if args.only else names
    work = [*zip(*product(CHOSEN, names, range(args.seeds)), strict=True)]
    with ProcessPoolExecutor(args.jobs) as pool:
        found = list(pool.map(partial(search, args=args), *work))
    if args.only and args.out.exists():
        before = json.loads(args.out.read_text())
        found += [one for one in before if one["pruner"] not in names]
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(pd.DataFrame(found)))


if __name__ == "__main__":
    main()
