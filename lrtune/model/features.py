"""What the model sees: a dozen numbers of a schedule's curve of rates, and values on one Scale."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lrtune.schedule import Schedule
from lrtune.schedule.family import Array

POINTS = 128  # at which a curve is looked at
PARTS = 8  # of the run, whose mean rates are features
LAST = 3  # points: the last 2 % of the run
LOWEST = -7.0  # nats below the peak: what lies below is as good as zero

NAMES = (
    "log_peak",
    "log_mean",
    "log_last",
    *(f"log_mean_{part}" for part in range(1, PARTS + 1)),
    "closed_loop",
)
PEAK = NAMES.index("log_peak")


@lru_cache(maxsize=8192)
def features(schedule: Schedule) -> Array:
    """Of a schedule that is yet to be trained: float64 (12,), in nats but for the last; read-only.

    A closed loop's curve is not known beforehand: its rate is taken as held, and it is marked.
    """
    row: Array = features_table([schedule])[0]
    row.flags.writeable = False
    return row


def features_table(schedules: Sequence[Schedule]) -> Array:
    """Of many at once: float64 (n, 12)."""
    curves = np.array([_curve(schedule) for schedule in schedules]).reshape(-1, POINTS)
    return features_of(
        curves, np.array([s.closed_loop - float(s.schedule_free) for s in schedules])
    )


def _curve(schedule: Schedule) -> Array:
    """Its rates at POINTS places of the run.

    In a mean of all weights an update counts for less the later it is: a schedule-free form is much
    like a linear decay (Defazio et al. 2024), from which its mark tells it apart.
    """
    total = POINTS if schedule.warmup < 0.99 else 100 * POINTS  # it must leave an update after it
    if schedule.closed_loop:
        return schedule.controller(total).rates[_places(total)]
    rates = schedule.rates(total)[_places(total)]
    return rates * (1 - np.arange(POINTS) / POINTS) if schedule.schedule_free else rates


def features_of(
    rates: Array,  # (n, total) learning rate of each update, above 0
    marks: NDArray[np.float64] | NDArray[np.bool_],  # (n,) 1: closed loop; -1: schedule-free
) -> Array:
    """Of curves of rates: log of the peak; of mean, end and parts, relative to the peak."""
    curves = rates[:, _places(rates.shape[1])]
    peaks = rates.max(1, keepdims=True)
    parts = curves.reshape(-1, PARTS, POINTS // PARTS).mean(2)
    means = np.column_stack([curves.mean(1), curves[:, -LAST:].mean(1), parts])
    logs = np.log(np.maximum(means / peaks, np.exp(LOWEST)))
    return np.column_stack([np.log(peaks), logs, marks])


@lru_cache
def _places(total: int) -> NDArray[np.int64]:
    """The updates that are looked at; read-only."""
    places = ((np.arange(POINTS) + 0.5) * total / POINTS).astype(np.int64)
    places.flags.writeable = False
    return places


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
        return np.log(np.maximum(distance, least))

    def back(self, place: float) -> float:
        """A place on the scale as a value, infinite where it is beyond all numbers."""
        with np.errstate(over="ignore"):
            return float(self.sign * (np.exp(place) - self.room + self.origin))
