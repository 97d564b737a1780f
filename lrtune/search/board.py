"""Budget and Board: when a search stops, and how it stands."""

import math
from collections import Counter
from dataclasses import dataclass, field
from math import isfinite

from lrtune.errors import InputError
from lrtune.search.record import Record
from lrtune.search.training import ActiveTrial


@dataclass(frozen=True, slots=True)
class Budget:
    """When to stop: at whichever limit comes first; each counts the whole run, sessions before too.

    Attributes:
        trials: how many.
        updates: how many, over all trials.
        seconds: of training and validation.
    """

    trials: int | None = None
    updates: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse a budget that is none."""
        for name in ("trials", "updates", "seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name}={value}: a positive number")
        if self.trials is None and self.updates is None and self.seconds is None:
            raise InputError("no budget: give trials, updates or seconds")

    def most(self, horizon: int) -> float:
        """Updates that it allows where a trial has so many; infinity where only time is a limit."""
        trials = math.inf if self.trials is None else self.trials * horizon
        return min(trials, math.inf if self.updates is None else self.updates)

    def share(self, trials: float, updates: float, seconds: float) -> float:
        """How much of it is spent, 0 ... 1."""
        spent = ((trials, self.trials), (updates, self.updates), (seconds, self.seconds))
        return min(1.0, max(done / limit for done, limit in spent if limit is not None))


@dataclass
class Board:
    """The search as it stands, for whoever watches.

    Attributes:
        budget: of the whole run.
        minimize: whether the lower value is the better one.
        running: by slot.
        ended: trials by how they ended.
        by_family: the same, family by family.
        bests: the best trial of each family that has a value.
        last: the trial that ended last; None before the first of this session.
        trials: that are over.
        updates: of trials that are over.
        seconds: of trials that are over.
    """

    budget: Budget
    minimize: bool = True
    running: dict[int, ActiveTrial] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)
    by_family: dict[str, Counter[str]] = field(default_factory=dict)
    bests: dict[str, Record] = field(default_factory=dict)
    last: Record | None = None
    trials: int = 0
    updates: int = 0
    seconds: float = 0.0

    def add(self, record: Record) -> None:
        """Count a trial that is over."""
        family = record.schedule.family
        self.ended[record.state] += 1
        self.by_family.setdefault(family, Counter())[record.state] += 1
        self.trials += 1
        self.updates += record.updates
        self.seconds += record.seconds
        if record.value is None or not isfinite(record.value):
            return
        known = self.bests.get(family)
        if known is None or self.loss_of(record) < self.loss_of(known):
            self.bests[family] = record

    def loss_of(self, record: Record) -> float:
        """The value of a trial that has one, the lower the better."""
        assert record.value is not None
        return record.value if self.minimize else -record.value

    @property
    def best(self) -> Record | None:
        """The best trial; the first of equals."""
        return min(self.bests.values(), key=lambda r: (self.loss_of(r), r.number), default=None)

    @property
    def spent(self) -> tuple[float, float, float]:
        """Trials, updates and seconds so far, of trials under way in part."""
        under_way = self.running.values()
        return (
            self.trials + sum(r.updates / len(r.rates) for r in under_way),
            self.updates + sum(r.updates for r in under_way),
            self.seconds + sum(r.seconds for r in under_way),
        )

    @property
    def share(self) -> float:
        """How much of the budget is spent, 0 ... 1."""
        return self.budget.share(*self.spent)

    def may_start(self, queued: int) -> bool:
        """Whether the budget has room for one more; those under way or queued count as whole."""
        whole = sum(len(r.rates) for r in self.running.values())
        seconds = sum(r.seconds for r in self.running.values())
        trials = self.trials + len(self.running) + queued
        return self.budget.share(trials, self.updates + whole, self.seconds + seconds) < 1
