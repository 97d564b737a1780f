"""What the search itself costs: ask, report, tell, records, with a trainer that does nothing.

Run: python scripts/bench/overhead.py [--trials 1000 5000] [--repeats 1]
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
from pathlib import Path

import numpy as np
import optuna
import torch

from lrtune.engine import Progress
from lrtune.search import Budget, FamilySampler, Search, Space, frame, open_study, records
from lrtune.tasks import Split, Task

REPORTS = 20


class IdlePool:
    """A Pool whose trials cost nothing and whose losses are those of a smooth bowl of the rates."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.slots = 1
        self._update = 0

    def admit(self, slot: int, rates: np.ndarray, seed: int) -> Progress:
        self._rates, self._update = rates, 0
        return self._progress(2.3, np.empty(0))

    def revise(self, slot: int, rates: np.ndarray) -> None:
        self._rates = rates

    def advance(self) -> list[Progress]:
        start, self._update = self._update, self._update + self.task.horizon // REPORTS
        loss = 0.1 + abs(math.log(self._rates[self._update - 1] / 0.01)) / 10 + 1 / self._update
        return [self._progress(loss, np.full(self._update - start, loss))]

    def release(self, slot: int) -> None:
        pass

    def _progress(self, loss: float, losses: np.ndarray) -> Progress:
        metrics = {"cross_entropy": loss, "accuracy": math.exp(-loss)}
        return Progress(0, self._update, loss, metrics, losses)


def search(trials: int) -> float:
    """Seconds for a search of so many trials, its table of trials included."""
    split = Split(torch.zeros(20, 1), torch.arange(20) % 2)
    task = Task(
        name="idle",
        train=split,
        val=split,
        model=torch.nn.Identity,
        batch_size=1,
        epochs=REPORTS,
        validations=REPORTS,
    )
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        space = Space()
        journal = Path(folder) / "journal.log"
        study = open_study(
            journal,
            "idle",
            "minimize",
            sampler=FamilySampler(space),
            pruner=optuna.pruners.NopPruner(),
        )
        Search(study, space, IdlePool(task), Budget(trials=trials)).run()
        assert len(frame(records(study))) == trials
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 5000])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows = {}
    for trials in arguments.trials:
        seconds = statistics.median(search(trials) for _ in range(arguments.repeats))
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
        "repeats": arguments.repeats,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "optuna": optuna.__version__,
    }
    print(json.dumps({"seconds": rows, "of n log n": growth, **conditions}))


if __name__ == "__main__":
    main()
