"""The rules that end a trial early: pure functions of its curve."""

import math
from collections.abc import Sequence

DIVERGENCE_FACTOR = 2.0
DIVERGENCE_VALIDATIONS = 2


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
