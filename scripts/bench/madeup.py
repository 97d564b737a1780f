"""A run of many trials, its trainer made up: all the rest is what `lrtune search` does.

The report's benchmark writes its page, the browser's tests look at it.
"""

import math
from bisect import bisect_right
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

import lrtune
from lrtune.engine import Choice, Pool, Progress
from lrtune.engine.pool import Snapshot
from lrtune.run.confirm import confirm
from lrtune.run.folder import Run
from lrtune.search.storage import START
from lrtune.tasks import Task

VALIDATIONS, SLOTS = 25, 16
FLOOR, UNTRAINED, TOO_HIGH = 0.3, 2.3, 0.2  # losses; above this peak rate training may diverge
PARTS = 20  # of the test split
ERROR, EVERY = "RuntimeError: out of memory", 20  # what trials fail with, and which ones


class MadeUpPool(Pool):
    """Losses that fall with the sum of the rates, to a floor that the present rate lifts."""

    placement: dict[str, str] = {"train": "made up", "val": "made up"}  # noqa: RUF012

    slots = SLOTS

    def __init__(self, task: Task, error: str) -> None:
        self.task = task
        self._error = error
        self._admitted = 0
        self._lost: set[int] = set()  # slots whose trial is to fail
        self._checkpoints = task.checkpoints.tolist()
        self._trials: dict[int, Snapshot] = {}

    def start(self, slot: int, rates: NDArray[np.float64], seed: int, *_: object) -> Progress:
        self._admitted += 1
        if self._admitted % EVERY == 0:
            self._lost.add(slot)
        return self._at(slot, Snapshot(seed, 0, rates, {"none": torch.zeros(1)}), 0)

    def revise(self, slot: int, rates: NDArray[np.float64]) -> None:
        before = self._trials[slot]
        self._trials[slot] = Snapshot(before.seed, before.update, rates, before.tensors)

    def advance(self) -> list[Progress]:
        ends = self._checkpoints
        return [
            self._at(slot, trial, ends[bisect_right(ends, trial.update)])
            for slot, trial in sorted(self._trials.items())
        ]

    def evaluate(self, slot: int) -> Progress:
        trial = self._trials[slot]
        return self._at(slot, trial, trial.update)

    def release(self, slot: int) -> None:
        del self._trials[slot]
        self._lost.discard(slot)

    def snapshot(self, slot: int) -> Snapshot:
        return self._trials[slot]

    def restore(self, slot: int, snapshot: Snapshot) -> None:
        self._trials[slot] = snapshot

    def _at(self, slot: int, trial: Snapshot, update: int) -> Progress:
        """The validation at an update, where the trial then is."""
        rates = trial.rates[:update]
        self._trials[slot] = Snapshot(trial.seed, update, trial.rates, trial.tensors)
        key = int(1e9 * float(trial.rates.max()))
        noise = np.random.default_rng([trial.seed, update, key])
        loss = UNTRAINED
        if update:
            left = math.exp(-rates.sum() / (0.01 * len(trial.rates)))
            loss = FLOOR + (UNTRAINED - FLOOR) * left + 0.3 * float(rates[-1]) ** 0.5
            loss *= 1 + 0.01 * noise.standard_normal()
        if rates.max(initial=0.0) > TOO_HIGH * (1 + noise.random()):
            loss = math.nan
        lost = slot in self._lost and update > 0
        return Progress(
            slot,
            update,
            loss,
            {"cross_entropy": loss, "accuracy": math.exp(-loss / 3)},
            averaged=loss * 0.99,
            losses=np.full(update - trial.update, 0.9 * loss),
            seconds=1e-4 * (update - trial.update),
            blocks=(loss * (1 + 0.02 * noise.standard_normal(PARTS))).tolist(),
            error=self._error if lost else None,
        )


def madeup(folder: Path, trials: int, times: int = 1, error: str = ERROR, **options: Any) -> Run:
    """A run on digits, with finals.

    Args:
        folder: the run's.
        trials: that are searched.
        times: how often each is then in the storage, for a long search in a short time.
        error: of those that fail.
        options: of ``tune``; the task and the command too, if they are others.
    """
    task, command = options.pop("task", None), options.pop("command", None)
    task = task or replace(lrtune.load_task("digits", epochs=10), validations=VALIDATIONS)
    choice = Choice("serial", SLOTS, threads=1, why="made up")
    searching, confirming = MadeUpPool(task, error), MadeUpPool(task, error)
    with (
        patch("lrtune.run.tune.choose_pool", lambda *_, **__: (searching, choice)),
        patch("lrtune.run.confirm.choose_pool", lambda *_, **__: (confirming, choice)),
    ):
        run = lrtune.tune(task, budget=lrtune.Budget(trials=trials), out=folder, **options)
        if command is not None:
            settings = run.settings.model_copy(update={"command": command})
            settings.write(folder / "run.json")
        _repeat(run, times)
        confirm(run, task, trainings=28)
    return run


def _repeat(run: Run, times: int) -> None:
    study = run.study()
    trials = study.trials
    for again in range(1, times):
        for trial in trials:
            trial.user_attrs[START]["index"] = again * len(trials) + trial.number
        study.add_trials(trials)
