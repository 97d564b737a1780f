"""Running: a trial in a slot, and how one is noted down to go on later."""

import math
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray

from lrtune.engine import Progress
from lrtune.engine.checkpoint import Note
from lrtune.engine.pool import Snapshot
from lrtune.schedule import Controller, Schedule
from lrtune.search.record import Curves, Ending, Judge, Record
from lrtune.search.store import START


def better(value: float, averaged: float, minimize: bool) -> float:
    """The better of a value and that of the averaged weights, which may be NaN."""
    if not math.isfinite(averaged):
        return value
    return min(value, averaged) if minimize else max(value, averaged)


class Observer:
    """What has rates that a closed loop may change."""

    rates: NDArray[np.float64]  # (horizon,)
    controller: Controller | None  # of a closed loop
    curves: Curves

    def observe(self, update: int, loss: float) -> bool:
        """Let a closed loop see a validation: is it one?"""
        if self.controller is None:
            return False
        self.controller.observe(update, loss)
        self.rates = self.controller.rates
        return True

    def look_back(self) -> None:
        """Let a closed loop see all that was seen before."""
        for update, loss in zip(self.curves.step, self.curves.loss, strict=True):
            self.observe(update, loss)


@dataclass(slots=True)
class Running(Observer):
    """A trial in a slot."""

    trial: optuna.Trial
    schedule: Schedule
    rates: NDArray[np.float64]  # (horizon,)
    controller: Controller | None  # of a closed loop
    untrained: Progress
    seconds: float
    curves: Curves = field(default_factory=Curves)
    updates: int = 0  # done
    audit: dict[str, Any] | None = None  # see Record

    @property
    def index(self) -> int:
        """Which of the search's trials this is."""
        return int(self.trial.user_attrs[START]["index"])

    def signals(self, objective: str, minimize: bool, judge: Judge) -> list[float]:
        """At each validation the better of current and averaged weights; or the best so far."""
        seen = zip(self.curves.metrics.get(objective, ()), self.curves.averaged, strict=True)
        values = [better(value, averaged, minimize) for value, averaged in seen]
        return values if judge == "last" else [*accumulate(values, min if minimize else max)]

    def record(self, ending: Ending, objective: str, judged_at: int | None, seed: int) -> Record:
        """What is stored of a trial that is over."""
        return Record(
            number=self.index,
            optuna_number=self.trial.number,
            schedule=self.schedule,
            params=self.trial.params,
            state=ending.state,
            reason=ending.reason,
            evidence=ending.evidence,
            audit=self.audit,
            value=None if judged_at is None else self.curves.at(judged_at)[objective],
            judged_at=judged_at,
            curves=self.curves,
            resolved=self.schedule.resolve(len(self.rates)),
            updates=self.updates,
            seconds=self.seconds,
            seed=seed,
        )


def rates_of(schedule: Schedule, horizon: int) -> tuple[NDArray[np.float64], Controller | None]:
    """The rates that a trial starts with, and what will change them in a closed loop."""
    if not schedule.closed_loop:
        return schedule.rates(horizon), None
    controller = schedule.controller(horizon, mode="min")
    return controller.rates, controller


def note_of(running: Running) -> Note:
    """What a Snapshot does not know of a trial, as JSON can hold it."""
    untrained = running.untrained
    return {
        "seconds": running.seconds,
        "untrained": {"loss": untrained.loss, "metrics": untrained.metrics},
        "curves": asdict(running.curves),
    }


def taken_up(trial: optuna.Trial, schedule: Schedule, snapshot: Snapshot, note: Note) -> Running:
    """A trial as it was when it was noted down."""
    rates, controller = rates_of(schedule, len(snapshot.rates))
    return Running(
        trial,
        schedule,
        rates,
        controller,
        untrained=Progress(0, 0, **note["untrained"]),
        seconds=note["seconds"],
        curves=Curves(**note["curves"]),
        updates=snapshot.update,
    )
