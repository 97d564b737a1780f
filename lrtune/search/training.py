"""Training: what is in a slot, and how one is noted down to go on later."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray

from lrtune.engine import Pool, Progress
from lrtune.engine.checkpoint import Note
from lrtune.engine.pool import Snapshot
from lrtune.schedule import Controller, Schedule
from lrtune.search.record import Curves, Ending, Judge, Record, better
from lrtune.search.store import START

TRIAL = "trial "  # what the keys of a search's trials begin with


@dataclass(slots=True, kw_only=True)
class Training(ABC):
    """One training in a slot.

    Attributes:
        schedule: what it trains with.
        seed: of everything random that it meets.
        rates: float64 (horizon,): of all updates, those to come as they are planned now.
        controller: what changes them, of a closed loop.
        untrained: the validation before the first update.
        curves: what was seen since.
        updates: done.
        seconds: of training and validation.
        best: what it was at its best validation, where that is to be judged on test.
    """

    schedule: Schedule
    seed: int
    rates: NDArray[np.float64]
    controller: Controller | None
    untrained: Progress
    curves: Curves = field(default_factory=Curves)
    updates: int = 0
    seconds: float = 0.0
    best: Snapshot | None = None

    @property
    @abstractmethod
    def key(self) -> str:
        """Of it in a checkpoint: the same in every session."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Of it, for a person."""

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

    def note(self) -> Note:
        """What a Snapshot does not know of it, as JSON can hold it."""
        untrained = {"loss": self.untrained.loss, "metrics": self.untrained.metrics}
        return {
            "schedule": self.schedule.to_json(),
            "seconds": self.seconds,
            "untrained": untrained,
            "curves": asdict(self.curves),
        }


def from_scratch(pool: Pool, slot: int, schedule: Schedule, seed: int) -> dict[str, Any]:
    """Put a new training in a free slot: its fields."""
    horizon = pool.task.horizon
    rates, controller = rates_of(schedule, horizon)
    untrained = pool.start(slot, rates, seed, schedule.momenta(horizon))
    found = {"schedule": schedule, "seed": seed, "rates": rates, "controller": controller}
    return found | {"untrained": untrained, "seconds": untrained.seconds}


def as_it_was(schedule: Schedule, snapshot: Snapshot, note: Note) -> dict[str, Any]:
    """The fields of a training as it was when it was noted down."""
    rates, controller = rates_of(schedule, len(snapshot.rates))
    return {
        "schedule": schedule,
        "seed": snapshot.seed,
        "rates": rates,
        "controller": controller,
        "untrained": Progress(0, 0, **note["untrained"]),
        "curves": Curves(**note["curves"]),
        "updates": snapshot.update,
        "seconds": note["seconds"],
    }


def rates_of(schedule: Schedule, horizon: int) -> tuple[NDArray[np.float64], Controller | None]:
    """The rates that a training starts with, and what will change them in a closed loop."""
    if not schedule.closed_loop:
        return schedule.rates(horizon), None
    controller = schedule.controller(horizon, mode="min")
    return controller.rates, controller


@dataclass(slots=True, kw_only=True)
class ActiveTrial(Training):
    """A trial of the search that is under way.

    Attributes:
        trial: Optuna's.
        audit: see Record.
    """

    trial: optuna.Trial
    audit: dict[str, Any] | None = None

    @property
    def index(self) -> int:
        """Which of the search's trials this is."""
        return int(self.trial.user_attrs[START]["index"])

    @property
    def key(self) -> str:
        """By its index."""
        return trial_key(self.index)

    @property
    def name(self) -> str:
        """By its index."""
        return f"trial {self.index}"

    def signals(self, objective: str, minimize: bool, judge: Judge) -> list[float]:
        """At each validation the better of current and averaged weights; or the best so far."""
        seen = zip(self.curves.metrics.get(objective, ()), self.curves.averaged, strict=True)
        values = [better(value, averaged, minimize) for value, averaged in seen]
        return values if judge == "last" else [*accumulate(values, min if minimize else max)]

    def record(self, ending: Ending, objective: str, judged_at: int | None) -> Record:
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
            seed=self.seed,
        )


def trial_key(index: int) -> str:
    """Of a trial in a checkpoint."""
    return f"{TRIAL}{index}"
