"""Seen: what is read off rates before any family is laid through them."""

from dataclasses import dataclass

import numpy as np

from lrtune.doctor.log import Log
from lrtune.schedule.family import Array


@dataclass(frozen=True, slots=True)
class Seen:
    """What is read off the rates before any family is laid through them.

    Attributes:
        top: the highest rate.
        end: updates of the run.
        first, slope: of the line through a linear rise; slope 0 without one.
        changes: updates after the rise at which the rate changes; the first 64.
        levels: the rates before, between and after them, as a fraction of the top.
        turn: the update of the first highest rate.
        low: the lowest rate from there on, as a fraction of the top.
        restarts: updates at which the rate jumps up.
        flat: the update from which the rate stays as it is until the end.
        base: the lowest rate, as a fraction of the top.
        falls: whether the rate never rises but in the warmup.
        dip: the update at which it is lowest before it rises for the first time.
        hidden: the first update that was logged, where a warmup may be over by then; else 0.
        gap: updates between two rates, usually.
    """

    top: float
    end: float
    first: float
    slope: float
    changes: Array
    levels: Array
    turn: float
    low: float
    restarts: Array
    flat: float
    base: float
    falls: bool
    dip: float
    hidden: float
    gap: float

    @classmethod
    def of(cls, log: Log) -> "Seen":
        """Read them off."""
        t, y = log.at, log.rates
        top = float(y.max())
        # Where rates are seldom logged, the first peak may have been missed by a little.
        crest = (y >= 0.9 * top) & (np.r_[y[1:], y[-1]] < y)
        peak = int(np.argmax(crest | (y >= top * (1 - 1e-7))))
        first, slope = _line(t[: peak + 1], y[: peak + 1], top)
        body = y[peak:] if slope else y
        moved = np.flatnonzero(np.abs(np.diff(body)) > 1e-9 * top) + 1
        moved = moved[:64]
        at = (t[peak:] if slope else t)[moved]
        levels = np.r_[body[0], body[moved]] / top
        ups = np.flatnonzero(np.diff(y) > 0.3 * top) + 1
        rises = np.flatnonzero(np.diff(y[peak:]) > 1e-6 * top)
        still = np.flatnonzero(np.abs(np.diff(y)) > 1e-9 * top)
        return cls(
            top=top,
            end=log.end,
            first=first,
            slope=slope,
            changes=at,
            levels=levels,
            turn=float(t[peak]),
            low=float(y[peak:].min()) / top,
            restarts=t[ups[ups > peak]],
            flat=float(t[still[-1] + 1]) if still.size else 0.0,
            base=float(y.min()) / top,
            dip=float(t[peak + int(rises[0])]) if rises.size else float(t[-1]),
            gap=log.gap,
            hidden=float(t[0]) if peak == 0 and t[0] > 0 else 0.0,
            falls=bool(np.all(np.diff(y[peak:]) <= 1e-6 * top)) and (bool(slope) or peak == 0),
        )

    def warmup(self, peak: float) -> float:
        """Updates until the rise reaches a peak; 0 without a rise."""
        return max(0.0, (peak - self.first) / self.slope) if self.slope else 0.0

    def rise(self, at: Array) -> Array:
        """The rates of the rise."""
        return self.first + self.slope * at


def _line(t: Array, y: Array, top: float) -> tuple[float, float]:
    """Intercept and slope of a rise that is a straight line; 0, 0 if there is none."""
    t, y = t[:-1], y[:-1]  # the highest rate belongs to the body
    if not t.size:
        return 0.0, 0.0
    if t.size == 1:  # a rise from zero, or from wherever the first update was
        return (0.0, float(y[0] / t[0])) if t[0] > 0 else (float(y[0]), float(top - y[0]))
    slope, first = np.polyfit(t, y, 1)
    straight = np.abs(first + slope * t - y).max() < 1e-3 * top
    if not straight or slope <= 0 or y[-1] < y[0]:
        return 0.0, 0.0
    return float(first), float(slope)
