"""Diagnosis: a log, and the family that gives its rates."""

from dataclasses import dataclass

import numpy as np

from lrtune.doctor.fit import FamilyFit, fit
from lrtune.doctor.log import Log, by_stair, distinct, stairs


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the rules look at."""

    log: Log  # the rates, by update
    per: int  # updates per step of the scheduler, as it seems from the rates
    fit: FamilyFit | None  # the family nearest to the rates, by step of the scheduler

    @classmethod
    def of(cls, log: Log) -> "Diagnosis":
        """Look at a log."""
        if not np.isfinite(log.rates).all():
            return cls(log, 1, None)
        if (per := stairs(log)) == 1:
            return cls(log, 1, fit(log))
        nearest = fit(log, ("constant", "step"))  # their rates are stairs themselves
        if nearest is None or not nearest.tight:
            nearest = fit(by_stair(log, per))
        return cls(log, per, nearest)

    @property
    def known(self) -> FamilyFit | None:
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
    def peak_at(self) -> float:
        """The update at which the highest rate that is a number is first."""
        rates = self.log.rates
        highest = np.isfinite(rates) & (rates >= self.top * (1 - 1e-7))
        return float(self.log.at[np.argmax(highest)])

    @property
    def horizon(self) -> float | None:
        """Updates that the schedule is for: as it says itself, else as its rates tell."""
        if self.log.horizon:
            return float(self.log.horizon)
        if self.known is None or self.known.horizon is None:
            return None
        return self.known.horizon * (self.per if self.by_step else 1)

    @property
    def rising_at_end(self) -> bool:
        """Whether the highest rate is the last, and nothing says that the rise is over."""
        rates = self.log.rates
        starts = distinct(rates)
        levels = rates[starts]
        if len(levels) < 3 or rates[-1] < self.top * (1 - 1e-9) or rates[0] >= 0.999 * self.top:
            return False
        if len(levels) > 3 and levels.min() > 0:
            factors = np.abs(np.diff(np.log(levels)))
            usual = np.median(factors)
            if np.mean(np.abs(factors - usual) < 0.01 * usual) > 0.6:
                return False  # a closed loop such as greedy, or a range test: up by one factor
        rose = rates[-1] > 1.02 * rates[: starts[-1]].max() or bool(np.all(np.diff(rates) >= 0))
        return bool(len(rates) - starts[-1] <= 1.5 * np.diff(starts).max() and rose)
