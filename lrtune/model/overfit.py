"""Overfit: a training that was better on the way says what less training would have come to.

Rate times updates is what moves the weights, so a run that was best after a third of it tells of
the same curve at a third of its peak rate, which no other trial may have tried.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lrtune.model.features import PEAK

Array = NDArray[np.float64]

RISE = 0.15  # of what the curve had fallen by, as much as counts: less may be noise
LEAST = 0.02  # nats of it
SHIFT = 0.35  # nats by which the peak is lower at least
DOUBT = 0.5  # standard deviation of what less training comes to, a share of the rise


class Less(NamedTuple):
    """A schedule that was not trained, and what it would have come to.

    Attributes:
        x: float64 (features,): those of the schedule that was, at a lower peak.
        y: on a Scale.
        variance: of that, beside the noise between seeds.
    """

    x: Array
    y: float
    variance: float


def less(
    x: Array,  # (features,) of the schedule
    rates: Array,  # (horizon,) that it had
    steps: Sequence[int] | NDArray[np.int64],  # (n,) updates done at each validation
    signal: Array,  # (n,) what was seen there, on a Scale
    final: float,  # what the training came to
) -> Less | None:
    """What less of it would have come to; None where it was not clearly better on the way."""
    if not len(signal):
        return None
    wide = np.concatenate([signal[:1], signal, signal[-1:]])
    curve = np.median([wide[:-2], wide[1:-1], wide[2:]], axis=0)  # one lucky validation is nothing
    best = int(curve.argmin())
    rise = min(final, float(curve[-1])) - float(curve[best])
    if best == 0 or rise < max(RISE * float(signal[0] - curve[best]), LEAST):
        return None
    shift = float(np.log(rates[: steps[best]].sum() / rates.sum()))
    if shift > -SHIFT:
        return None
    lower = x.copy()
    lower[PEAK] += shift
    return Less(lower, float(curve[best]), (DOUBT * rise) ** 2)
