"""What the search itself costs: ask, report, tell, records, with a trainer that does nothing.

Run: python scripts/bench/overhead.py [--trials 1000 5000] [--slots 1] [--repeats 1]
Prints seconds and milliseconds a trial on a journal file, and the growth against n log n.
"""

import argparse
import json
import math
import os
import platform
import statistics
import tempfile
import time
from bisect import bisect_right
from pathlib import Path

import numpy as np
import optuna
import torch

from lrtune.engine import Pool, Progress
from lrtune.engine.pool import Snapshot
from lrtune.search import (
    Limits,
    Loop,
    Search,
    SearchState,
    Space,
    SurrogateSampler,
    frame,
    open_study,
    records,
)
from lrtune.tasks import Split, Task

REPORTS = 20


class IdlePool(Pool):
    """A Pool whose trials cost nothing; losses are a smooth function of (rates, update)."""

    def __init__(self, task: Task, slots: int = 1) -> None:
        self.task = task
        self.slots = slots
        self._checkpoints = task.checkpoints.tolist()
        self._rates: dict[int, np.ndarray] = {}
        self._updates: dict[int, int] = {}

    def start(self, slot: int, rates: np.ndarray, seed: int, *_: object) -> Progress:
        self._rates[slot], self._updates[slot] = rates, 0
        return self._progress(slot, 0)

    def revise(self, slot: int, rates: np.ndarray) -> None:
        self._rates[slot] = rates

    def advance(self) -> list[Progress]:
        checkpoints = self._checkpoints
        return [
            self._progress(slot, checkpoints[bisect_right(checkpoints, update)])
            for slot, update in sorted(self._updates.items())
        ]

    def release(self, slot: int) -> None:
        del self._rates[slot], self._updates[slot]

    def snapshot(self, slot: int) -> Snapshot:
        return Snapshot(0, self._updates[slot], self._rates[slot].copy(), {})

    def restore(self, slot: int, snapshot: Snapshot) -> None:
        self._rates[slot], self._updates[slot] = snapshot.rates, snapshot.update

    def _progress(self, slot: int, update: int) -> Progress:
        start, self._updates[slot] = self._updates[slot], update
        rates = self._rates[slot][:update]
        # Best at a mean rate of 0.02 that ends low; the rates' own noise floor shows at the end.
        loss = 2.3
        if update:
            loss = 0.1 + 0.2 * math.log(rates.mean() / 0.02) ** 2 + 2 * rates[-1] + 1 / update
        metrics = {"cross_entropy": loss, "accuracy": math.exp(-loss)}
        return Progress(slot, update, loss, metrics, losses=np.full(update - start, loss))


def idle_task(validations: int = REPORTS) -> Task:
    """Stands for a task of 400 updates."""
    split = Split(torch.zeros(20, 1), torch.arange(20) % 2)
    return Task(
        name="idle",
        train=split,
        val=split,
        model=torch.nn.Identity,
        batch_size=1,
        epochs=20,
        validations=validations,
    )


def search(trials: int, slots: int) -> float:
    """Seconds for a search of so many trials, its table of trials included."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        space, task = Space(), idle_task()
        journal = Path(folder) / "journal.log"
        study = open_study(
            journal,
            "idle",
            "minimize",
            sampler=SurrogateSampler(space, task.horizon),
            pruner=optuna.pruners.NopPruner(),
        )
        pool = IdlePool(task, slots)
        state = SearchState(Limits(trials=trials))
        Loop(pool, [Search(study, space, pool, state)]).run()
        assert len(frame(records(study))) == trials
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 5000])
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows = {}
    for trials in arguments.trials:
        seconds = statistics.median(
            search(trials, arguments.slots) for _ in range(arguments.repeats)
        )
        rows[trials] = seconds
        print(f"{trials:6,} trials  {seconds:7.2f} s  {1000 * seconds / trials:6.2f} ms a trial")
    first, *others = sorted(rows)
    growth = {
        n: rows[n] / rows[first] / (n * math.log(n) / (first * math.log(first))) for n in others
    }
    for n, ratio in growth.items():
        print(f"from {first:,} to {n:,}: {ratio:.2f} of n log n")
    conditions = {
        "reports a trial": REPORTS,
        "slots": arguments.slots,
        "repeats": arguments.repeats,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "optuna": optuna.__version__,
    }
    print(json.dumps({"seconds": rows, "of n log n": growth, **conditions}))


if __name__ == "__main__":
    main()
