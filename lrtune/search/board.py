"""Board: how a search stands."""

from collections import Counter
from dataclasses import dataclass, field, replace
from math import isfinite

from lrtune.search.budget import Budget, Clock
from lrtune.search.record import Record
from lrtune.search.training import ActiveTrial


@dataclass
class Board:
    """The search as it stands, for whoever watches.

    Attributes:
        budget: of the search, over all sessions.
        minimize: whether the lower value is the better one.
        clock: of the run.
        kept: share of the whole budget that is kept for the confirmation.
        whole: updates that a new trial must find room for; where 0, it may be cut short.
        pace: seconds that an update of a trial takes, as long as none was made here.
        limits: the budget of the whole run; that of the search where None.
        swept: updates that the range test took.
        running: by slot.
        ended: trials by how they ended.
        by_family: the same, family by family.
        bests: the best trial of each family that has a value.
        last: the trial that ended last; None before the first of this session.
        trials: that are over.
        updates: of trials that are over.
    """

    budget: Budget
    minimize: bool = True
    clock: Clock = field(default_factory=Clock)
    kept: float = 0.0
    whole: int = 0
    pace: float = 0.0
    limits: Budget | None = None
    swept: int = 0
    running: dict[int, ActiveTrial] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)
    by_family: dict[str, Counter[str]] = field(default_factory=dict)
    bests: dict[str, Record] = field(default_factory=dict)
    last: Record | None = None
    trials: int = 0
    updates: int = 0

    def add(self, record: Record) -> None:
        """Count a trial that is over."""
        family = record.schedule.family
        self.ended[record.state] += 1
        self.by_family.setdefault(family, Counter())[record.state] += 1
        self.trials += 1
        self.updates += record.updates
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
        """Trials and updates so far, of trials under way in part; seconds of the run."""
        under_way = self.running.values()
        return (
            self.trials + sum(r.updates / len(r.rates) for r in under_way),
            self.updates + sum(r.updates for r in under_way),
            self.clock.seconds,
        )

    @property
    def share(self) -> float:
        """How much of the whole run's budget is spent, 0 ... 1: it grows evenly with the work."""
        limits = self.limits or self.budget
        trials, updates, seconds = self.spent
        after = 0.0
        if self.kept and limits.updates is limits.seconds is None:
            after = self.kept  # trials alone say how long the search is
        elif self.kept:
            limits = replace(limits, trials=None)  # what they leave is the confirmation's
        return (1 - after) * limits.share(trials, self.swept + updates, seconds)

    @property
    def searched(self) -> float:
        """How much of the search's own budget is spent, 0 ... 1."""
        return self.budget.share(*self.spent)

    def may_start(self, queued: int) -> bool:
        """Whether the budget has room for one more; those under way or queued count as whole."""
        under_way = sum(len(r.rates) for r in self.running.values())
        trials = self.trials + len(self.running) + queued
        updates = self.updates + under_way + max(0, self.whole - 1)
        seconds = self.clock.seconds + self.whole * self._pace
        return self.budget.share(trials, updates, seconds) < 1

    @property
    def _pace(self) -> float:
        """Seconds that an update of a trial takes beside the others, as far as is known."""
        seen = [r for r in self.running.values() if r.updates and r.seconds]
        return max((len(self.running) * r.seconds / r.updates for r in seen), default=self.pace)
