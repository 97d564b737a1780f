"""What is done next, from what is believed: pure functions of a Posterior."""

from collections.abc import Sequence
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


def guess(posterior: Posterior, x: Array) -> int:
    """Which of these to use before anything is trained: the best one over all likely peaks."""
    return int(np.argmin(posterior.mean_and_sd(x)[0]))


def recommend(posterior: Posterior, x: Array) -> int:
    """Which of these, all trained to their end, is believed to be the best: not the luckiest."""
    return int(np.argmin(posterior.mean_and_sd(x)[0]))


@dataclass(frozen=True, slots=True)
class FamilySummary:
    """What is believed of a family.

    Attributes:
        family: its name.
        best: row of its schedule that is believed to be the best.
        value: of that one, on the values' scale; with the noise between seeds left out.
        low: 5 % quantile of it.
        high: 95 % quantile.
        probability: that the best of all schedules is one of this family.
    """

    family: str
    best: int
    value: float
    low: float
    high: float
    probability: float


def family_summary(
    posterior: Posterior,
    families: Sequence[str],  # (n,) of each schedule
    x: Array,  # (n, features)
    rng: np.random.Generator,
) -> list[FamilySummary]:
    """Each family's best schedule, the most promising family first."""
    names, kinds = np.array(families), list(dict.fromkeys(families))
    mean, _ = posterior.mean_and_sd(x)
    order = np.argsort(mean, kind="stable")
    rows = np.concatenate([order[names[order] == name][:LEADERS] for name in kinds])
    draws = posterior.draws(x[rows], DRAWS, rng)
    winners = names[rows[draws.argmin(1)]]
    found = []
    for name in kinds:
        first = int(np.flatnonzero(names[rows] == name)[0])
        best = int(rows[first])
        low, high = np.quantile(draws[:, first], [0.05, 0.95])
        value, low, high = posterior.values(np.array([mean[best], low, high])).tolist()
        found.append(FamilySummary(name, best, value, low, high, float((winners == name).mean())))
    return sorted(found, key=lambda one: (-one.probability, one.value))
