"""Looks: at how many seeds a contest is looked at, and how strictly each time."""

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.optimize import brentq

ALPHA = 0.05
SHAPE = 0.25  # of the boundary: 0 is O'Brien and Fleming's, 0.5 Pocock's


def looks(first: int, most: int) -> tuple[int, ...]:
    """Numbers of seeds at which a contest is looked at.

    Example:
        >>> looks(5, 20)
        (5, 10, 20)
    """
    found = [min(first, most)]
    while found[-1] < most:
        found.append(min(most, 2 * found[-1]))
    return tuple(found)


def levels(at: tuple[int, ...], alpha: float = ALPHA) -> tuple[float, ...]:
    """The two-sided level of each look, so that one of them errs with at most ``alpha``.

    They add up to ``alpha``. Levels from the joint distribution of normal means would be a little
    higher, but Student's t at few seeds, and levels shared out among pairs, depend less on each
    other from look to look than that supposes.

    Example:
        >>> [round(level, 4) for level in levels((5, 10, 20))]
        [0.0029, 0.0122, 0.035]
    """
    shape = (np.array(at) / at[-1]) ** (SHAPE - 0.5)

    def shared(scale: float) -> NDArray[np.float64]:
        return 2 * special.ndtr(-scale * shape)

    scale = brentq(lambda scale: shared(scale).sum() - alpha, 0, 10)
    return tuple(shared(scale).tolist())
