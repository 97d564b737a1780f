"""Scale: values of any metric on one axis, on which lower is better and gains are ratios."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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
