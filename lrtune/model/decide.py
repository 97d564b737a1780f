"""What is done next, from what is believed: pure functions of a Posterior."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrtune.model.forecast import Forecast
from lrtune.model.surrogate import Posterior

Array = NDArray[np.float64]

EPSILON = 0.1  # of these and the next two, see ``scripts/bench/replay.py``
FIRST = 0.1  # share of the run in which no trial is stopped
CAUTION = 3  # with so many whole trainings known, epsilon is half of what it will be
DRAWS = 200  # functions by which the probability of being best is counted
LEADERS = 20  # schedules of a family, among which its best one is
JOINT = 160  # schedules that are drawn jointly; of more, the most promising ones


def propose(
    posterior: Posterior,
    x: Array,  # (n, features) of the schedules that may be tried
    count: int,
    rng: np.random.Generator,
) -> list[int]:
    """Which to try next: the best one of each of ``count`` functions that may be the true one.

    All different, as far as there are so many.
    """
    rows = promising(posterior, x, JOINT, rng)
    chosen: list[int] = []
    for draw in posterior.draws(x[rows], count, rng):
        order = rows[np.argsort(draw, kind="stable")]
        chosen += [int(row) for row in order if int(row) not in chosen][:1]
    return chosen


def promising(
    posterior: Posterior, x: Array, most: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """At most so many rows of x: those that do best, each in a draw of its own."""
    if len(x) <= most:
        return np.arange(len(x))
    mean, sd = posterior.mean_and_sd(x)
    return np.argsort(mean + sd * rng.standard_normal(len(x)), kind="stable")[:most]


@dataclass(frozen=True, slots=True)
class Stop:
    """Whether a trial is to end.

    Attributes:
        now: whether.
        probability: that it will still be better than the best.
        threshold: below which it ends.
    """

    now: bool
    probability: float
    threshold: float


def stop(
    forecast: Forecast,
    incumbent: float,  # the value to beat, on the forecast's scale
    progress: float,  # share of the run that is done
    whole: int,  # trainings that came to their end
    epsilon: float = EPSILON,
) -> Stop:
    """End a trial whose final value is unlikely to beat the incumbent; be slow at first."""
    threshold = epsilon * whole / (whole + CAUTION)
    probability = forecast.below(incumbent)
    return Stop(progress >= FIRST and probability < threshold, probability, threshold)


def recommend(posterior: Posterior, x: Array) -> int:
    """Which of these is believed to be the best: of those that were trained, not the luckiest."""
    return int(np.argmin(posterior.mean_and_sd(x)[0]))
