"""What a schedule is to the model: a dozen numbers of its curve of rates, whatever its family."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lrtune.schedule import Schedule

Array = NDArray[np.float64]

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


def features(schedule: Schedule) -> Array:
    """Of a schedule that is yet to be trained: float64 (12,), in nats but for the last.

    A closed loop's curve is not known beforehand: its rate is taken as held, and it is marked.
    """
    return _features(schedule).copy()


@lru_cache(maxsize=8192)
def _features(schedule: Schedule) -> Array:
    total = POINTS if schedule.warmup < 0.99 else 100 * POINTS  # it must leave an update after it
    if schedule.closed_loop:
        return features_of(schedule.controller(total).rates, closed_loop=True)
    return features_of(schedule.rates(total))


def features_of(
    rates: Array | Sequence[float],  # (total,) learning rate of each update, above 0
    closed_loop: bool = False,
) -> Array:
    """Of a curve of rates: log of the peak; of mean, end and parts, relative to the peak."""
    table = np.asarray(rates, dtype=np.float64)
    places = ((np.arange(POINTS) + 0.5) * len(table) / POINTS).astype(np.int64)
    curve = table[places]
    peak = float(table.max())
    parts = curve.reshape(PARTS, -1).mean(1)
    relative = np.array([curve.mean(), curve[-LAST:].mean(), *parts]) / peak
    logs = np.log(np.maximum(relative, np.exp(LOWEST)))
    return np.array([np.log(peak), *logs, float(closed_loop)])
