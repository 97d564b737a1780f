"""Budget and Board: when a search stops, and how it stands."""

from collections import Counter
from dataclasses import dataclass, field

from lrtune.errors import InputError
from lrtune.search.record import Record
from lrtune.search.running import Running


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

    def share(self, trials: float, updates: float, seconds: float) -> float:
        """How much of it is spent, 0 ... 1."""
        spent = ((trials, self.trials), (updates, self.updates), (seconds, self.seconds))
        return min(1.0, max(done / limit for done, limit in spent if limit is not None))


@dataclass
class Board:
    """The search as it stands, for whoever watches."""

    budget: Budget
    running: dict[int, Running] = field(default_factory=dict)  # by slot
    ended: Counter[str] = field(default_factory=Counter)  # trials by how they ended
    by_family: Counter[str] = field(default_factory=Counter)  # trials by family
    best: Record | None = None
    trials: int = 0  # that are over
    updates: int = 0  # of trials that are over
    seconds: float = 0.0  # of trials that are over

    def add(self, record: Record, minimize: bool) -> None:
        """Count a trial that is over."""
        self.ended[record.state] += 1
        self.by_family[record.schedule.family] += 1
        self.trials += 1
        self.updates += record.updates
        self.seconds += record.seconds
        if record.value is not None and (
            self.best is None
            or self.best.value is None
            or (record.value < self.best.value if minimize else record.value > self.best.value)
        ):
            self.best = record

    @property
    def share(self) -> float:
        """How much of the budget is spent, 0 ... 1, trials under way counted in part."""
        parts = [r.updates / len(r.rates) for r in self.running.values()]
        updates = sum(r.spent for r in self.running.values())
        seconds = sum(r.seconds for r in self.running.values())
        return self.budget.share(
            self.trials + sum(parts), self.updates + updates, self.seconds + seconds
        )

    def may_start(self, queued: int) -> bool:
        """Whether the budget has room for one more; those under way or queued count as whole."""
        whole = sum(len(r.rates) - r.forked for r in self.running.values())
        seconds = sum(r.seconds for r in self.running.values())
        trials = self.trials + len(self.running) + queued
        return self.budget.share(trials, self.updates + whole, self.seconds + seconds) < 1
