"""What a trial will end with, from what it shows so far and the rates that it has still ahead.

A schedule that keeps its rate high looks bad until the rate comes down. So trials are not compared
as they stand: how much such a trial still gains from here on is a line in what is ahead of it and
what it shows, whose coefficients other tasks teach at first, and this task's own whole trainings
more and more.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from lrtune.model.transfer import Transfer

Array = NDArray[np.float64]

REMAINDER, FALL, RISE = (0.0, 6.0), (-3.0, 7.0), (0.0, 5.0)  # bounds, in nats
SLOPE, ABOVE = (-2.0, 1.0), (0.0, 1.0)
SURE = 1e-9  # an error that is none
AHEAD = ("one", "remainder", "fall", "rise", "slope", "above")


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
    """What a curve shows at each of its validations, (n, 2).

    slope: what the last doubling of the updates brought, below 0 where it got better; above: how
    far it lies above its best.
    """
    at = np.asarray(steps, dtype=np.float64)
    half = np.interp(at / 2, at, signal)
    best = np.minimum.accumulate(signal)
    return np.column_stack([np.clip(signal - half, *SLOPE), np.clip(signal - best, *ABOVE)])


def design(rates: Array, steps: Sequence[int] | NDArray[np.int64], signal: Array) -> Array:
    """All that a forecast goes by at each validation, (n, 6): see AHEAD."""
    one = np.ones((len(signal), 1))
    return np.hstack([one, ahead(rates, steps), shown(steps, signal)])


@dataclass(frozen=True, slots=True)
class Forecast:
    """Student's t distribution of a final value, on a Scale."""

    mean: float
    spread: float
    freedom: float

    @property
    def variance(self) -> float:
        """Of it; where it has none, of what is nearest to it that has."""
        freedom = max(self.freedom, 2.5)
        return self.spread**2 * freedom / (freedom - 2)

    def below(self, bound: float) -> float:
        """The probability that the final value lies below."""
        return float(stdtr(self.freedom, (bound - self.mean) / self.spread))

    def quantile(self, p: float) -> float:
        """The value that it lies below with this probability."""
        return float(self.mean + self.spread * stdtrit(self.freedom, p))


@dataclass(frozen=True, slots=True)
class Gain:
    """What a trial still gains after so much of its run, as far as is known.

    Attributes:
        mean: float64 (6,): coefficients of what is ahead.
        spread: float64 (6, 6): their covariance, in units of the error's variance.
        shape: of that variance, an inverse gamma's.
        scale: of it.
    """

    mean: Array
    spread: Array
    shape: float
    scale: float

    def forecast(
        self,
        signal: float,  # of the trial in question, on a Scale
        own: Array,  # (6,) what it has ahead and shows: see ``design``
    ) -> Forecast:
        """What that trial ends with."""
        doubt = 1 + float(own @ self.spread @ own)
        spread = float(np.sqrt(self.scale / self.shape * doubt)) + SURE
        return Forecast(float(signal + own @ self.mean), spread, 2 * self.shape)


def learn_gain(
    transfer: Transfer,
    averaged: bool,  # whether signals are the better of current and averaged weights
    progress: float,  # share of the run that is done, 0 ... 1
    known: Array,  # (n, 6) of the task's whole trainings, at the same progress
    gains: Array,  # (n,) of these: final value minus the one shown, on a Scale
) -> Gain:
    """Bayesian linear regression of the gain, its prior what other tasks teach."""
    place = int(np.abs(transfer.progress - progress).argmin())
    kind = int(averaged)
    mean, spread = transfer.gain[kind, place], transfer.gain_spread[kind, place]
    shape, scale = transfer.error[kind, place].tolist()
    if not len(gains):
        return Gain(mean, spread, shape, scale)
    precision = np.linalg.inv(spread)
    after = precision + known.T @ known
    pull = precision @ mean + known.T @ gains
    fitted = np.linalg.solve(after, pull)
    quadratic = float(gains @ gains + mean @ precision @ mean - fitted @ pull)
    doubt = np.asarray(np.linalg.inv(after), dtype=np.float64)
    return Gain(fitted, doubt, shape + len(gains) / 2, scale + max(0.0, quadratic) / 2)
