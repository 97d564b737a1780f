"""Posteriors of a task made by hand: schedules of a few families, with one good peak rate."""

import numpy as np

from lrtune.model.features import features
from lrtune.model.surrogate import Observations, PeakGuess, Surrogate
from lrtune.model.transfer import nothing, published
from lrtune.schedule import Schedule

GUESS = PeakGuess(float(np.log(0.1)), 1.0)
FAMILIES = ("cosine", "linear", "constant", "wsd")


def schedules(peaks: np.ndarray, families: tuple[str, ...] = FAMILIES) -> list[Schedule]:
    """One of each family at each peak, peak by peak."""
    return [Schedule(family, peak_lr=float(peak)) for peak in peaks for family in families]


def table(found: list[Schedule]) -> np.ndarray:
    return np.array([features(schedule) for schedule in found])


def valley(x: np.ndarray, best: float = 0.1, steepness: float = 0.5) -> np.ndarray:
    """A value for each schedule, lowest at one peak rate and where the rate ends low."""
    return steepness * np.abs(x[:, 0] - np.log(best)) + 0.05 * x[:, 2]


def whole(x: np.ndarray, y: np.ndarray) -> Observations:
    return Observations(x, y, np.zeros(len(y)))


def posterior(known, transfer=None, guess=GUESS):
    return Surrogate(transfer or published(), guess).posterior(known)


NOTHING = nothing()
EMPTY = Observations(np.empty((0, 12)), np.empty(0), np.empty(0))
