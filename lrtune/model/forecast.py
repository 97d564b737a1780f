"""What a trial will end with, from what it shows so far and the rates that it has still ahead.

A schedule that keeps its rate high looks bad until the rate comes down. So trials are not compared
as they stand: how much such a trial still gains from here on is a line in what is ahead of it and
what it shows, whose coefficients other tasks teach at first, and this task's own whole trainings
more and more. Losses fall a hundredfold on one task and by a hundredth on another, so gains are in
units of what this task's whole trainings fell by, and a trial is seen beside what they showed after
as many updates: what lags behind them gains more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from lrtune.model.features import PEAK
from lrtune.model.transfer import Transfer
from lrtune.schedule.family import Array

REMAINDER, FALL, RISE = (0.0, 6.0), (-3.0, 7.0), (0.0, 5.0)  # bounds, in nats
SLOPE, ABOVE, BEHIND = (-1.0, 1.0), (0.0, 1.0), (-1.0, 2.0)  # bounds, in units of the task's fall
SURE = 1e-9  # an error that is none
LEAST_UNIT = 1e-4  # nats: what a task falls by that does not
# Of ``shorter_training``.
OVERFIT = 0.15  # rise after the best, as a share of the fall before: less may be noise
LEAST_OVERFIT = 0.02  # nats of it
LEAST_SHIFT = 0.35  # nats by which the peak is lower at least
OVERFIT_DOUBT = 0.5  # standard deviation of what it comes to, a share of the rise

AHEAD = ("one", "remainder", "fall", "rise", "slope", "above", "fallen")


def ahead(
    rates: Array,  # (horizon,) positive
    updates: Sequence[int] | NDArray[np.int64],  # done so far, 1 ... horizon
) -> Array:
    """What is ahead of a schedule after so many updates, (updates, 3), in nats.

    remainder: of all rates, the sum over that so far; fall: from the present rate to the last;
    rise: from the present rate to the highest to come.
    """
    done = np.asarray(updates)
    sums = np.cumsum(rates)
    now = rates[done - 1]
    to_come = np.maximum.accumulate(rates[::-1])[::-1]  # the highest from each update on
    return np.column_stack(
        [
            np.clip(np.log(sums[-1] / sums[done - 1]), *REMAINDER),
            np.clip(np.log(now / rates[-1]), *FALL),
            np.clip(np.log(to_come[np.minimum(done, len(rates) - 1)] / now), *RISE),
        ]
    )


def shown(
    steps: Sequence[int] | NDArray[np.int64],  # (n,) updates done at each validation
    signal: Array,  # (n,) what was seen there, on a Scale
) -> Array:
    """What a curve shows at each of its validations, (n, 3), in nats.

    slope: what the last doubling of the updates brought, below 0 where it got better; above: how
    far it lies above its best; fallen: how far below its first.
    """
    at = np.asarray(steps, dtype=np.float64)
    half = np.interp(at / 2, at, signal)
    best = np.minimum.accumulate(signal)
    return np.column_stack([signal - half, signal - best, signal[:1] - signal])


def design(rates: Array, steps: Sequence[int] | NDArray[np.int64], signal: Array) -> Array:
    """All that a forecast goes by at each validation, (n, 7): see AHEAD."""
    return np.hstack([np.ones((len(signal), 1)), ahead(rates, steps), shown(steps, signal)])


@dataclass(frozen=True, slots=True)
class Forecast:
    """Student's t distribution of a final value, on a Scale."""

    mean: float
    spread: float
    freedom: float

    @property
    def variance(self) -> float:
        """Of it; where it has none, of what is nearest to it that has."""
        return float(_variance(np.float64(self.spread), self.freedom))

    def below(self, bound: float) -> float:
        """The probability that the final value lies below."""
        return float(stdtr(self.freedom, (bound - self.mean) / self.spread))

    def quantile(self, p: float) -> float:
        """The value that it lies below with this probability."""
        return float(self.mean + self.spread * stdtrit(self.freedom, p))


def _variance(spread: Array | np.float64, freedom: float) -> Array:
    freedom = max(freedom, 2.5)
    return np.asarray(spread**2 * freedom / (freedom - 2))


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What whole trainings of a task showed after as many updates."""

    level: float | None  # their signal then, on a Scale; None where there are none
    unit: float  # what they fall by in all, in nats

    @classmethod
    def of(
        cls,
        known: Array,  # (n, 7) of whole trainings: see ``design``
        signals: Array,  # (n,) shown then, on a Scale
        finals: Array,  # (n,) shown at the end
    ) -> "Yardstick":
        """The medians of these trainings."""
        if not len(finals):
            return cls(None, 1.0)
        fallen, above = known[:, AHEAD.index("fallen")], known[:, AHEAD.index("above")]
        fall = np.maximum(fallen + above, fallen + signals - finals)
        return cls(float(np.median(signals)), max(LEAST_UNIT, float(np.median(fall))))

    def units(self, own: Array) -> Array:
        """In which trials are measured, (n,): their own fall where nothing of the task is known."""
        if self.level is not None:
            return np.full(len(own), self.unit)
        fall = own[:, AHEAD.index("fallen")] + own[:, AHEAD.index("above")]
        return np.maximum(fall, LEAST_UNIT)

    def measure(
        self,
        own: Array,  # (n, 7) of any trials
        signals: Array,  # (n,) shown by them
    ) -> Array:
        """What the line is in, (n, 7): of trials in their units, and beside the task's level."""
        units, measured = self.units(own), own.copy()
        behind = np.zeros(len(own)) if self.level is None else signals - self.level
        for column, (shown, bounds) in enumerate(
            ((own[:, 4], SLOPE), (own[:, 5], ABOVE), (behind, BEHIND)), 4
        ):
            measured[:, column] = np.minimum(np.maximum(shown / units, bounds[0]), bounds[1])
        return measured


@dataclass(frozen=True, slots=True)
class Gain:
    """What a trial still gains after so much of its run, as far as is known."""

    mean: Array  # (7,) coefficients of what ``Yardstick.measure`` tells
    spread: Array  # (7, 7) their covariance, in units of the error's variance
    shape: float  # of that variance, an inverse gamma's
    scale: float  # of it
    yardstick: Yardstick  # in whose units gains are

    def forecast(self, signal: float, own: Array) -> Forecast:
        """What a single trial ends with."""
        mean, spread = self._places(np.array([signal]), own[None])
        return Forecast(float(mean[0]), float(spread[0]), 2 * self.shape)

    def moments(
        self,
        signals: Array,  # (n,) of the trials in question, on a Scale
        own: Array,  # (n, 7) what they have ahead and show: see ``design``
    ) -> Array:
        """Mean and variance of what these trials end with: (n, 2)."""
        means, spreads = self._places(signals, own)
        return np.column_stack([means, _variance(spreads, 2 * self.shape)])

    def _places(self, signals: Array, own: Array) -> tuple[Array, Array]:
        """Means and spreads (n,)."""
        rows, units = self.yardstick.measure(own, signals), self.yardstick.units(own)
        doubts = 1 + ((rows @ self.spread) * rows).sum(1)
        spreads = units * np.sqrt(self.scale / self.shape * doubts) + SURE
        return signals + units * (rows @ self.mean), spreads


def learn_gain(
    transfer: Transfer,
    averaged: bool,  # whether signals are the better of current and averaged weights
    progress: float,  # share of the run that is done, 0 ... 1
    known: Array,  # (n, 7) of the task's whole trainings, at the same progress: see ``design``
    signals: Array,  # (n,) shown by these then, on a Scale
    finals: Array,  # (n,) and at the end
) -> Gain:
    """Bayesian linear regression of the gain, its prior what other tasks teach."""
    place = int(np.abs(transfer.progress - progress).argmin())
    kind = int(averaged)
    mean, spread = transfer.gain[kind, place], transfer.gain_spread[kind, place]
    shape, scale = transfer.error[kind, place].tolist()
    yardstick = Yardstick.of(known, signals, finals)
    if not len(finals):
        return Gain(mean, spread, shape, scale, yardstick)
    rows, gains = yardstick.measure(known, signals), (finals - signals) / yardstick.unit
    precision = np.linalg.inv(spread)
    after = precision + rows.T @ rows
    pull = precision @ mean + rows.T @ gains
    fitted = np.linalg.solve(after, pull)
    quadratic = float(gains @ gains + mean @ precision @ mean - fitted @ pull)
    doubt = np.asarray(np.linalg.inv(after), dtype=np.float64)
    sharper = shape + len(gains) / 2
    return Gain(fitted, doubt, sharper, scale + max(0.0, quadratic) / 2, yardstick)


class ShorterTraining(NamedTuple):
    """A schedule that was not trained, and what it would have come to."""

    x: Array  # (features,) of the schedule that was trained, at a lower peak
    y: float  # on a Scale
    variance: float  # of that, beside the noise between seeds


def shorter_training(
    x: Array,  # (features,) of the schedule
    rates: Array,  # (horizon,) that it had
    steps: Sequence[int] | NDArray[np.int64],  # (n,) updates done at each validation
    signal: Array,  # (n,) what was seen there, on a Scale
    final: float,  # what the training came to
) -> ShorterTraining | None:
    """What less training would have come to; None where it was not clearly better on the way.

    Rate times updates is what moves the weights, so a run that was best after a third of it tells
    of the same curve at a third of its peak rate, which no other trial may have tried.
    """
    if not len(signal):
        return None
    wide = np.concatenate([signal[:1], signal, signal[-1:]])
    curve = np.median([wide[:-2], wide[1:-1], wide[2:]], axis=0)  # one lucky validation is nothing
    best = int(curve.argmin())
    rise = min(final, float(curve[-1])) - float(curve[best])
    if best == 0 or rise < max(OVERFIT * float(signal[0] - curve[best]), LEAST_OVERFIT):
        return None
    shift = float(np.log(rates[: steps[best]].sum() / rates.sum()))
    if shift > -LEAST_SHIFT:
        return None
    lower = x.copy()
    lower[PEAK] += shift
    return ShorterTraining(lower, float(curve[best]), (OVERFIT_DOUBT * rise) ** 2)
