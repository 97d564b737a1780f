"""Does it help to try first what won elsewhere? Searches with and without, leaving the task out.

    python scripts/bench/prior.py

For each published task that is small, a few master seeds: searches of one round and of two trials a
family, with the prior of all other tasks and without any. What each calls best is trained again
with three fresh seeds. The figure is its loss on validation as a ratio to that without the prior.
"""

import argparse
import json
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from lrtune.engine import FusedPool
from lrtune.judgement import finalists_of
from lrtune.schedule import Schedule
from lrtune.search.final import Final
from lrtune.search.finals import Job, train_finals
from lrtune.search.prior import published
from lrtune.tasks import Task, load_task
from lrtune.tuning import tune

RESULTS = Path(__file__).parents[2] / "studies" / "results" / "bench"
FAMILIES = ("constant", "cosine", "linear", "one_cycle", "step", "wsd")
ROUNDS = (2, 6)  # trials a family
FRESH = (2001, 2002, 2003)

# The task, how it is loaded, and the published tasks that would give it away: of the same data.
TASKS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "digits": ({"model": "mlp", "epochs": 10.0}, ("digits-mlp", "digits-cnn")),
    "breast_cancer": ({}, ("breast-cancer",)),
    "diabetes": ({}, ("diabetes",)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="master seeds")
    parser.add_argument("--out", type=Path, default=RESULTS / "prior.json")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows = []
    for name, each in product(TASKS, ROUNDS):
        for seed in range(args.seeds):
            losses = {use: loss(name, each, seed, use) for use in (False, True)}
            row = {"task": name, "trials a family": each, "seed": seed}
            rows.append(row | {"without": losses[False], "with": losses[True]})
            print(rows[-1], flush=True)
    args.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(summary(rows))


def loss(name: str, each: int, seed: int, use: bool) -> float:
    """Of what a search calls best, on fresh seeds."""
    options, same_data = TASKS[name]
    task = load_task(name, seed=seed, **options)
    prior = published().without(same_data) if use else None
    with tempfile.TemporaryDirectory() as folder:
        run = tune(
            task,
            trials=each * len(FAMILIES),
            families=FAMILIES,
            seed=seed,
            engine="fused",
            slots=12,
            prior=prior,
            out=Path(folder) / "run",
        )
        best = finalists_of(run)[0].schedule
    return float(np.mean(trained(task, best)))


def trained(task: Task, schedule: Schedule) -> list[float]:
    found: list[Final] = []
    train_finals(FusedPool(task, len(FRESH)), [Job(schedule, s) for s in FRESH], found.append)
    return [final.curves.loss[-1] for final in found]


def summary(rows: list[dict[str, Any]]) -> str:
    """In Markdown: geometric means of the ratios, and their standard errors."""
    heads = ["trials a family", *TASKS, "all, ± standard error"]
    lines = [heads, ["---"] * len(heads)]
    for each in ROUNDS:
        logs = {
            name: [
                np.log(row["with"] / row["without"])
                for row in rows
                if (row["task"], row["trials a family"]) == (name, each)
            ]
            for name in TASKS
        }
        everything = np.concatenate(list(logs.values()))
        mean = np.exp(everything.mean())
        error = mean * everything.std(ddof=1) / np.sqrt(len(everything))
        cells = [f"{np.exp(np.mean(found)):.3f}" for found in logs.values()]
        lines.append([str(each), *cells, f"{mean:.3f} ± {error:.3f}"])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main()
