"""Record: one trial as stored, and its Curves."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lrtune.engine import Progress
from lrtune.errors import InputError
from lrtune.schedule import Schedule

End = Literal["complete", "pruned", "plateaued", "diverged", "failed"]
Judge = Literal["last", "best"]  # by the weights at the end, or by those that validated best
JUDGES: tuple[Judge, ...] = get_args(Judge)


def judge_of(name: str) -> Judge:
    """Which weights of a training count, by name.

    Raises:
        InputError: neither of JUDGES.
    """
    for judge in JUDGES:
        if judge == name:
            return judge
    raise InputError(f"judge={name!r}: one of {', '.join(JUDGES)}")


def better(value: float, averaged: float, minimize: bool) -> float:
    """The better of a value and that of the averaged weights, which may be NaN."""
    if not math.isfinite(averaged):
        return value
    return min(value, averaged) if minimize else max(value, averaged)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a trial ended, why, and the figures behind that."""

    state: End
    reason: str
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Curves:
    """What was seen at each validation, one entry each."""

    step: list[int] = field(default_factory=list)  # updates done
    loss: list[float] = field(default_factory=list)  # validation loss
    train_loss: list[float] = field(default_factory=list)  # mean since the last validation
    rate: list[float] = field(default_factory=list)  # rate of the last update
    metrics: dict[str, list[float]] = field(default_factory=dict)  # on the validation split
    averaged: list[float] = field(default_factory=list)  # the objective of the averaged weights

    def add(self, progress: Progress, rates: NDArray[np.float64]) -> None:
        """Append a validation of a trial of these rates."""
        self.step.append(progress.update)
        self.loss.append(progress.loss)
        self.train_loss.append(float(progress.losses.mean()))
        self.rate.append(float(rates[progress.update - 1]))
        for name, value in progress.metrics.items():
            self.metrics.setdefault(name, []).append(value)
        self.averaged.append(progress.averaged)

    def judged(self, metric: str, minimize: bool, judge: Judge) -> int:
        """The update whose weights a training is judged by so far: the first of equals."""
        if judge == "last":
            return self.step[-1]
        values = self.metrics[metric]
        return self.step[values.index(min(values) if minimize else max(values))]

    def at(self, update: int) -> dict[str, float]:
        """The metrics of the validation after this update."""
        place = self.step.index(update)
        return {name: values[place] for name, values in self.metrics.items()}


@dataclass(frozen=True, slots=True)
class Record:
    """One trial as stored.

    Attributes:
        number: which of the search's trials; a trial repeated after a kill keeps its number.
        optuna_number: its number in the Optuna study.
        schedule: what it trained with.
        params: the Optuna parameters that the schedule came from.
        state: how it ended.
        reason: why.
        evidence: of one that was pruned or has plateaued, the figures of its forecast, see
            Decision.
        audit: of a trial that was to be pruned and trained on, to see whether that would have been
            right: ``update`` and the figures of the forecast; None of others.
        value: the objective on validation; None unless complete.
        judged_at: the update whose weights that is of; None where there is no value.
        curves: what was seen on the way.
        resolved: the schedule's settings in the field's terms, for this horizon.
        updates: what it cost, in updates.
        seconds: what it cost, in seconds of training and validation.
        seed: of everything random that it met.
    """

    number: int
    optuna_number: int
    schedule: Schedule
    params: dict[str, Any]
    state: End
    reason: str
    value: float | None
    curves: Curves
    resolved: dict[str, Any]
    updates: int
    seconds: float
    seed: int
    judged_at: int | None = None
    evidence: dict[str, Any] = field(default_factory=dict)
    audit: dict[str, Any] | None = None
