"""What is done next, from what is believed: pure functions of a Posterior."""

import numpy as np
from numpy.typing import NDArray

from lrtune.model.forecast import Forecast
from lrtune.model.surrogate import Posterior
from lrtune.schedule.family import Array

EPSILON = 0.05  # of this and the next, see ``scripts/bench/replay.py``
FIRST = 0.1  # share of the run in which no trial is stopped
DRAWS = 200  # functions that may be the true one, over which is averaged
JOINT = 160  # schedules that are drawn jointly; of more, the most promising ones


def propose(
    posterior: Posterior,
    x: Array,  # (n, features) of the schedules that may be tried
    count: int,
    rng: np.random.Generator,
    under_way: Array | None = None,  # (m, features) of those being trained
) -> list[int]:
    """Which to try next: those that are expected to better the best one by the most.

    Expected improvement (Mockus 1978) over the best mean of the whole trainings, of each beside
    those before it and what is under way. The first of all is the one with the best mean.

    Returns:
        Rows of x, all different, as far as there are so many.
    """
    rows = promising(posterior, x, rng)
    pending = np.empty((0, x.shape[1])) if under_way is None else under_way
    pending = pending[np.lexsort(pending.T)]  # in whatever order they were begun
    if len(pending) > JOINT:  # hardly anything is to be gained beside the others
        pending = pending[np.argsort(posterior.mean(pending), kind="stable")[:JOINT]]
    draws = posterior.draws(np.vstack([x[rows], pending]), DRAWS, rng)
    draws, taken = draws[:, : len(rows)], draws[:, len(rows) :]
    bar = taken.min(1, initial=posterior.best)  # (draws,)
    chosen: list[int] = []
    for _ in range(min(count, len(rows))):
        gain = np.maximum(bar[:, None] - draws, 0).mean(0)
        if np.isinf(bar).all():
            gain = -posterior.mean_and_sd(x[rows])[0]
        gain[chosen] = -np.inf
        place = int(gain.argmax())
        chosen.append(place)
        bar = np.minimum(bar, draws[:, place])
    return [int(rows[place]) for place in chosen]


def expected_gain(posterior: Posterior, x: Array, rng: np.random.Generator) -> float:
    """How much the best of these schedules is expected to be better than the best trained one.

    Returns:
        In standard deviations of a training's noise; infinite before a training was whole.
    """
    if np.isinf(posterior.best) or not len(x):
        return float("inf")
    draws = posterior.draws(x[promising(posterior, x, rng)], DRAWS, rng)
    return float(np.maximum(posterior.best - draws, 0).mean(0).max() / posterior.noise)


def promising(posterior: Posterior, x: Array, rng: np.random.Generator) -> NDArray[np.intp]:
    """At most JOINT rows of x: those that do best, each in a draw of its own."""
    if len(x) <= JOINT:
        return np.arange(len(x))
    mean, sd = posterior.mean_and_sd(x)
    return np.argsort(mean + sd * rng.standard_normal(len(x)), kind="stable")[:JOINT]


def stop(
    forecast: Forecast,
    incumbent: float,  # the value to beat, on the forecast's scale
    progress: float,  # share of the run that is done
    epsilon: float = EPSILON,
) -> tuple[bool, float]:
    """Whether to end a trial, and the probability that its final value beats the incumbent."""
    probability = forecast.below(incumbent)
    return progress >= FIRST and probability < epsilon, probability


def recommend(posterior: Posterior, x: Array) -> int:
    """Which of these is believed to be the best: of those that were trained, not the luckiest."""
    return int(np.argmin(posterior.mean_and_sd(x)[0]))
