"""The rules that end a trial early, beside the forecast: pure functions of its curve."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DIVERGENCE_FACTOR = 2.0
DIVERGENCE_VALIDATIONS = 2

# A future is flat where the rate stays within these factors, and spent where less is left.
FALLS_BY, RISES_BY = 2.0, 1.5
LEFT = 0.01


def diverged(
    losses: Sequence[float],  # at each validation so far: the loss, or any figure to minimise
    untrained: float,  # the same before the first update
) -> str | None:
    """Why this trial has diverged, or None.

    Non-finite once, or above twice the loss of the untrained model for two validations running
    (one alone may be the spike of a rate that is about to fall).
    """
    if not losses:
        return None
    if not math.isfinite(losses[-1]):
        return f"loss is {losses[-1]} at validation {len(losses)}"
    # A loss that may be negative has no scale that "twice" could mean.
    bound = DIVERGENCE_FACTOR * untrained
    recent = losses[-DIVERGENCE_VALIDATIONS:]
    if untrained > 0 and len(recent) == DIVERGENCE_VALIDATIONS and min(recent) > bound:
        return (
            f"loss {losses[-1]:.4g} above twice that of the untrained model ({untrained:.4g}) "
            f"for {DIVERGENCE_VALIDATIONS} validations"
        )
    return None


def plateaued(
    signal: Sequence[float],  # at each validation so far, lower is better, gains are ratios: a log
    ahead: NDArray[np.float64] | None,  # the present rate and all to come; None of a closed loop
    left: float,  # share of the sum of all rates that is to come, 0 ... 1
    *,
    patience: int,  # validations without an improvement
    min_delta: float,  # the least improvement that counts, as a share of the value
) -> str | None:
    """Why this trial will not improve any more, or None.

    A flat curve at a high rate with a decay still to come is no plateau: the rate must stay as it
    is, or be as good as spent. What a closed loop will do is not known: waiting for a plateau is
    its way to lower the rate.
    """
    if len(signal) <= patience:
        return None
    before, recent = min(signal[:-patience]), min(signal[-patience:])
    if recent < before + math.log1p(-min_delta):
        return None
    said = f"no better by {min_delta:.1%} in {patience} validation{'s'[: patience > 1]}"
    if left < LEFT:
        return f"{said}, and {left:.1%} of all rates left"
    if ahead is None:
        return None
    fall, rise = ahead[0] / ahead.min(), ahead.max() / ahead[0]
    if fall < FALLS_BY and rise < RISES_BY:
        return f"{said}, and the rate stays within a factor {max(fall, rise):.2g}"
    return None
