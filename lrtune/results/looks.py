"""Looks: at how many seeds a contest is looked at, and how strictly each time."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.optimize import brentq

# Of equals, one is called the winner in less than 5 %: the rest is for those who drop out while
# more than two are in, and so that a simulation's own chance does not carry it over.
ALPHA = 0.045
# Of the boundary, 0 is O'Brien and Fleming's, 0.5 Pocock's: a winner is named late, for the sake of
# power; who is clearly behind leaves early, for it saves trainings.
WINNER, BEHIND = 0.0, 0.25


@dataclass(frozen=True, slots=True)
class Look:
    """A look at a contest.

    Attributes:
        seeds: after how many.
        winner: level of the claim that one is better than all others.
        behind: level at which some are left behind while several stay in.
    """

    seeds: int
    winner: float
    behind: float


@cache
def looks(first: int, most: int) -> tuple[Look, ...]:
    """The looks at a contest, whose seeds double.

    Example:
        >>> [look.seeds for look in looks(5, 20)]
        [5, 10, 20]
    """
    at = [min(first, most)]
    while at[-1] < most:
        at.append(min(most, 2 * at[-1]))
    each = zip(at, levels(at, WINNER), levels(at, BEHIND), strict=True)
    return tuple(Look(*one) for one in each)


def levels(at: Sequence[int], shape: float, alpha: float = ALPHA) -> tuple[float, ...]:
    """The two-sided level of each look, so that one of them errs with at most ``alpha``.

    They add up to ``alpha``. Levels from the joint distribution of normal means would be a little
    higher, but Student's t at few seeds, and levels shared out among pairs, depend less on each
    other from look to look than that supposes.

    Example:
        >>> [round(level, 4) for level in levels((5, 10, 20), BEHIND)]
        [0.0024, 0.0107, 0.0319]
    """
    bound = (np.array(at) / at[-1]) ** (shape - 0.5)

    def shared(scale: float) -> NDArray[np.float64]:
        return 2 * special.ndtr(-scale * bound)

    scale = brentq(lambda scale: shared(scale).sum() - alpha, 0, 10)
    return tuple(shared(scale).tolist())
