"""Case: a log, what is read off it, and what is known of what was meant."""

from dataclasses import dataclass

import numpy as np

from lrtune.doctor.fit import Fit, fit
from lrtune.doctor.log import Log, by_stair, distinct, stairs
from lrtune.schedule.family import Array

STAIRS = ("constant", "step")  # families whose rates are stairs themselves
# Of the peak: a decay that ends above it has been cut short. Our own search draws cosines that end
# at nearly a third, on purpose.
ANNEALED = 1 / 3


@dataclass(frozen=True, slots=True)
class Case:
    """What the findings look at.

    Attributes:
        log: the rates, by update.
        per: updates to a step of the scheduler, as it seems from the rates.
        fit: the family that explains the rates by step of the scheduler; None without one.
        warmup: updates that the warmup was to take; None: not said.
    """

    log: Log
    per: int
    fit: Fit | None
    warmup: int | None = None

    @classmethod
    def of(cls, log: Log, warmup: int | None = None) -> "Case":
        """Look at a log."""
        if not np.isfinite(log.rates).all():
            return cls(log, 1, None, warmup)
        per = stairs(log)
        if per == 1:
            return cls(log, 1, fit(log), warmup)
        found = fit(log, STAIRS)
        if found is None or not found.tight:
            found = fit(by_stair(log, per))
        return cls(log, per, found, warmup)

    @property
    def known(self) -> Fit | None:
        """The fit, if it explains the rates."""
        return self.fit if self.fit and self.fit.tight else None

    @property
    def by_step(self) -> bool:
        """Whether the fit is by stairs rather than by updates."""
        return self.fit is not None and len(self.fit.rates) != len(self.log.rates)

    @property
    def top(self) -> float:
        """The highest rate that is a number."""
        finite = self.log.rates[np.isfinite(self.log.rates)]
        return float(finite.max()) if finite.size else 0.0

    @property
    def peak_at(self) -> int:
        """Where the highest rate that is a number is first."""
        rates = self.log.rates
        return int(np.argmax(np.isfinite(rates) & (rates >= self.top * (1 - 1e-7))))

    @property
    def horizon(self) -> float | None:
        """Updates that the schedule is for: as it says itself, else as its rates tell."""
        if self.log.horizon:
            return float(self.log.horizon)
        if self.known is None or self.known.horizon is None:
            return None
        return self.known.horizon * (self.per if self.by_step else 1)

    @property
    def rise(self) -> float:
        """Updates of the warmup; 0 without one."""
        if self.known is not None and self.known.family != "one_cycle":
            return self.known.warmup * (self.per if self.by_step else 1)
        return float(self.log.at[self.peak_at])

    @property
    def rising_at_end(self) -> bool:
        """Whether the highest rate is the last, and nothing says that the rise is over."""
        levels = distinct(self.log.rates)
        if len(levels) < 3 or self.log.rates[-1] < self.top * (1 - 1e-9):
            return False
        if _by_one_factor(self.log.rates[levels]):
            return False
        stay = len(self.log.rates) - levels[-1]
        before = int(np.max(np.diff(levels)))
        rose = self.log.rates[-1] > 1.02 * self.log.rates[: levels[-1]].max()
        grew = bool(np.all(np.diff(self.log.rates) >= 0))
        return stay <= 1.5 * before and (rose or grew) and self.log.rates[0] < 0.999 * self.top


def _by_one_factor(levels: Array) -> bool:
    """Whether most rates are the one before times or over one factor.

    So go a closed loop such as greedy, up as long as the loss goes down, and a range test.
    """
    if len(levels) < 4 or levels.min() <= 0:
        return False
    steps = np.abs(np.diff(np.log(levels)))
    usual = float(np.median(steps))
    return float(np.mean(np.abs(steps - usual) < 0.01 * usual)) > 0.6
