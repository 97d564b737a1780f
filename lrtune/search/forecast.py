"""What a trial will end with, from what it shows now and the rates that it has still ahead.

A schedule that keeps its rate high looks bad until the rate comes down. So trials are not compared
as they stand: what those that are over still gained from here on, given the rates that they had
left, is learnt from them, and forecast for this one with its uncertainty.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

Array = NDArray[np.float64]

REMAINDER, FALL, RISE = (0.0, 6.0), (-3.0, 7.0), (0.0, 5.0)  # bounds of the features, in nats
# Of the ridge, a trial, for features of unit variance. Never weaker: through five trials and three
# features goes a plane that leaves no error, and says nothing.
STRENGTHS = np.geomspace(0.1, 1e3, 13)
FEATURES = ("remainder", "fall", "rise")
SURE = 1e-12  # an error that is none


def features(
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


@dataclass(frozen=True, slots=True)
class Forecast:
    """Student's t distribution of a final value, on the scale of ``Scale``."""

    mean: float
    spread: float
    freedom: float

    def below(self, bound: float) -> float:
        """The probability that the final value lies below."""
        return float(stdtr(self.freedom, (bound - self.mean) / self.spread))

    def quantile(self, p: float) -> float:
        """The value that it lies below with this probability."""
        return float(self.mean + self.spread * stdtrit(self.freedom, p))


def forecast(
    gains: Array,  # (n,) final value minus the present one, of trials that are over
    known: Array,  # (n, features) of these trials, at the same progress
    signal: float,  # of the trial in question
    ahead: Array,  # (features,) of that trial
) -> Forecast:
    """Ridge regression of the gain on what is ahead; its strength by leaving one out.

    The predictive distribution is that of Bayesian linear regression with this strength, its
    variance scaled to the errors of leaving one out. Needs n of at least 3.
    """
    n = len(gains)
    center, width = known.mean(0), known.std(0)
    used = width > 1e-9
    x = (known[:, used] - center[used]) / width[used]
    # Beyond what was seen, a line says little: at most as far out as the farthest trial.
    reach = np.abs(x).max(0, initial=0.0)
    at = np.clip((ahead[used] - center[used]) / width[used], -reach, reach)
    y = gains - gains.mean()
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    turned, projected = vt @ at, u.T @ y
    best = (np.inf, 0.0, 0.0, 0.0)
    for strength in n * STRENGTHS:
        shrink = s**2 / (s**2 + strength)
        leverage = 1 / n + (u**2) @ shrink
        errors = (y - u @ (shrink * projected)) / (1 - np.minimum(leverage, 0.99))
        score = float(errors @ errors)
        if score < best[0]:
            mean = float(turned @ (s / (s**2 + strength) * projected))
            doubt = 1 / n + float((turned**2 / (s**2 + strength)).sum())
            best = (score, mean, doubt, float(shrink.sum()))
    score, mean, doubt, degrees = best
    freedom = max(1.0, n - 1 - degrees)
    spread = np.sqrt(score / n * (1 + doubt)) + SURE
    return Forecast(float(signal + gains.mean() + mean), float(spread), freedom)


@dataclass(frozen=True, slots=True)
class Scale:
    """A monotone scale on which lower is better and gains are ratios.

    Losses by their logarithm; scores by that of what is missing to 1 where none lies above.
    Anything else by its distance to the best value seen, with some room below that.
    """

    sign: float
    origin: float
    room: float

    @classmethod
    def of(cls, values: Array, minimize: bool) -> "Scale":
        """Fit to all values that are known."""
        sign = 1.0 if minimize else -1.0
        losses = sign * values
        origin = 0.0 if minimize else -1.0
        if len(losses) == 0 or losses.min() > origin:
            return cls(sign, origin, 0.0)
        room = 0.1 * float(np.median(losses) - losses.min()) or 1.0
        return cls(sign, float(losses.min()), room)

    def to(self, values: Array | float) -> Array:
        """Onto the scale; values better than any that it was fitted to count as the best."""
        least = self.room or np.finfo(float).tiny
        distance = self.sign * np.asarray(values, dtype=np.float64) - self.origin + self.room
        found: Array = np.log(np.maximum(distance, least))
        return found

    def back(self, place: float) -> float:
        """A place on the scale as a value, infinite where it is beyond all numbers."""
        with np.errstate(over="ignore"):
            return float(self.sign * (np.exp(place) - self.room + self.origin))
