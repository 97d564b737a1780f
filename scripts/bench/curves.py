"""Record whole trainings under random schedules: what ``replay.py`` replays and transfer learns.

    python scripts/bench/curves.py --images CIFAR_FOLDER --text tinyshakespeare.txt

For each task of ``recorded_tasks.py`` its range test, 160 schedules drawn at random over all
families and 3 decades of the peak rate, one training each with one seed; then the best schedules
of eight families with three more seeds. Two Parquet files a task in ``studies/results/curves/``;
what is there is not trained again, so that several processes may share the work by ``--only``.
"""

import argparse
import json
import math
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import torch
from recorded_tasks import TASKS

from lrtune.engine import FusedPool, Pool, SerialPool, range_test
from lrtune.engine.optimizers import settings_of
from lrtune.engine.range_test import FEWEST_UPDATES, UPDATES
from lrtune.schedule import Controller, Schedule
from lrtune.search.early_stopping import diverged
from lrtune.search.space import FAMILY, SEARCHABLE, Space
from lrtune.search.storage import Curves
from lrtune.tasks import Task

CURVES = Path(__file__).parents[2] / "studies" / "results" / "curves"
SCHEDULES, SEEDS = 160, (1, 2, 3)
REPEATED = 8  # families whose best schedule is trained with other seeds too
VALIDATIONS = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, help="CIFAR-10 as a folder of images")
    parser.add_argument("--text", required=True, help="tiny Shakespeare")
    parser.add_argument("--only", help=f"of {','.join(TASKS)}")
    parser.add_argument("--schedules", type=int, default=SCHEDULES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=CURVES)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    (args.out / "range_tests").mkdir(parents=True, exist_ok=True)
    for name in args.only.split(",") if args.only else TASKS:
        path = args.out / f"{name}.parquet"
        if not path.exists():
            began = time.perf_counter()
            task = replace(TASKS[name].make(args), validations=VALIDATIONS)
            swept(task, name).to_parquet(args.out / "range_tests" / path.name, index=False)
            table = recorded(task, drawn(name, TASKS[name].peak_lr, args.schedules))
            described(table, task, name).to_parquet(path, compression="zstd", index=False)
            seconds = time.perf_counter() - began
            print(f"{name}: {len(table)} trainings of {task.horizon}, {seconds:.0f} s", flush=True)


def swept(task: Task, name: str) -> pd.DataFrame:
    """The range test as ``lrtune search`` makes it, one row a seed."""
    updates = min(UPDATES, max(FEWEST_UPDATES, task.horizon // 3))
    test = range_test(task, updates=updates)
    rows = [
        {"task": name, "seed": seed, "rate": test.rates.tolist(), "loss": losses.tolist()}
        for seed, losses in enumerate(test.losses)
    ]
    return pd.DataFrame(rows)


def described(table: pd.DataFrame, task: Task, name: str) -> pd.DataFrame:
    """Every row says what was trained, too."""
    settings = {k: v for k, v in settings_of(task.optimizer, task.settings).items() if k != "lr"}
    with torch.random.fork_rng(devices=[]):
        parameters = sum(p.numel() for p in task.model().parameters())
    about: dict[str, Any] = {
        "model": task.model_name,
        "parameters": parameters,
        "optimizer": task.optimizer,
        "settings": json.dumps(settings, default=str),
        "batch_size": task.batch_size,
        "samples": task.train.samples,
        "horizon": task.horizon,
    }
    return pd.concat([table.assign(task=name), pd.DataFrame([about] * len(table))], axis=1)


def drawn(name: str, peak_lr: tuple[float, float], count: int) -> list[Schedule]:
    """Random schedules, the families in turn; others for every task."""
    space = Space(SEARCHABLE, peak_lr)
    sampler = optuna.samplers.RandomSampler(seed=zlib.crc32(name.encode()))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler)
    found = []
    for number in range(count):
        family = SEARCHABLE[number % len(SEARCHABLE)]
        trial = study.ask(space.distributions(family))
        found.append(space.schedule({FAMILY: family, **trial.params}))
    return found


def recorded(task: Task, schedules: list[Schedule]) -> pd.DataFrame:
    """All rows of a task."""
    # Where a step is bound by overhead, side by side; choosing by the clock is for quiet machines.
    small = task.model_name in ("mlp", "grams")
    pool = FusedPool(task, 32) if small else SerialPool(task, 1, "cpu")
    first = pd.DataFrame(trained(pool, [(i, s, 0) for i, s in enumerate(schedules)]))
    done = first[first["state"] == "complete"]
    order = done["loss"].map(lambda curve: curve[-1]).sort_values().index
    best = done.loc[order].drop_duplicates("family")
    numbers = [n for n in best["number"] if not schedules[n].closed_loop][:REPEATED]
    jobs = [(number, schedules[number], seed) for number in numbers for seed in SEEDS]
    table = pd.concat([first, pd.DataFrame(trained(pool, jobs))], ignore_index=True)
    return table.sort_values(["seed", "number"], ignore_index=True)


@dataclass
class _Training:
    number: int
    schedule: Schedule
    seed: int
    rates: np.ndarray
    controller: Controller | None
    untrained: float
    curves: Curves = field(default_factory=Curves)


def trained(pool: Pool, jobs: list[tuple[int, Schedule, int]]) -> Iterator[dict[str, Any]]:
    """Whole trainings side by side, a row each as it ends; one that diverges ends there."""
    queue, running = list(jobs), dict[int, _Training]()
    horizon = pool.task.horizon
    while queue or running:
        for slot in range(pool.slots):
            if queue and slot not in running:
                number, schedule, seed = queue.pop(0)
                loop = schedule.controller(horizon) if schedule.closed_loop else None
                rates = schedule.rates(horizon) if loop is None else loop.rates
                untrained = pool.start(slot, rates, seed).loss
                running[slot] = _Training(number, schedule, seed, rates, loop, untrained)
        for progress in pool.advance():
            training = running[progress.slot]
            if progress.error is not None:
                raise SystemExit(f"{training.schedule}: {progress.error}")
            training.curves.add(progress, training.rates)
            if training.controller is not None:
                training.controller.observe(progress.update, progress.loss)
                training.rates = training.controller.rates
                pool.revise(progress.slot, training.rates)
            losses = training.curves.loss
            lost = diverged(losses, training.untrained) or not math.isfinite(losses[-1])
            if lost or progress.update == horizon:
                pool.release(progress.slot)
                del running[progress.slot]
                yield row_of(training, "diverged" if lost else "complete")


def row_of(training: _Training, state: str) -> dict[str, Any]:
    curves = training.curves
    return {
        "number": training.number,
        "family": training.schedule.family,
        "schedule": training.schedule.to_json(),
        "seed": training.seed,
        "state": state,
        "untrained": training.untrained,
        "step": curves.step,
        "loss": curves.loss,
        "averaged": curves.averaged,
        "train_loss": curves.train_loss,
        "rate": curves.rate,
    }


if __name__ == "__main__":
    main()
