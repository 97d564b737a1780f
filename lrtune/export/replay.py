"""Replay: a closed loop's rates as they were, as an open-loop schedule."""

from collections.abc import Sequence

import numpy as np

from lrtune.errors import InputError
from lrtune.schedule.family import MAX_LENGTH
from lrtune.schedule.schedule import Schedule


def replay(schedule: Schedule, total: int, losses: Sequence[tuple[int, float]]) -> Schedule:
    """The `sequence` of constants, after the warmup, that a closed loop came to.

    Args:
        schedule: of a closed-loop family.
        total: the updates of that run.
        losses: (update, validation loss) of each of its validations.

    Raises:
        InputError: the loop is open, or it changed its rate too often for a schedule to say.

    Example:
        >>> plateau = Schedule("plateau", peak_lr=0.5, knobs={"patience": 0})
        >>> replay(plateau, 8, [(2, 1.0), (4, 0.9), (6, 0.9)]).rates(8).round(3).tolist()
        [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.05, 0.05]
    """
    controller = schedule.controller(total)
    for update, loss in losses:
        controller.observe(update, loss)
    rates = controller.rates
    warmup: int = schedule.resolve(total)["warmup_steps"]
    # Where the rate changes, but for the rise before it.
    changes = [t for t in (np.flatnonzero(np.diff(rates)) + 1).tolist() if t > warmup]
    if len(changes) >= MAX_LENGTH:
        raise InputError(
            f"{schedule.family}: its rate changed {len(changes)} times in this run: expected at "
            f"most {MAX_LENGTH - 1}, more does not make a schedule"
        )
    ends = [*changes, total]
    parts = [Schedule("constant", float(rates[end - 1])) for end in ends]
    rise = (schedule.warmup, schedule.warmup_start)
    if len(parts) == 1:
        return Schedule("constant", parts[0].peak_lr, *rise)
    milestones = [(end - warmup) / (total - warmup) for end in ends[:-1]]
    knobs = {"schedules": parts, "milestones": milestones}
    return Schedule("sequence", max(part.peak_lr for part in parts), *rise, knobs=knobs)
