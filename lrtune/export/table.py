"""The rates themselves: update, rate, as CSV or JSON."""

import json

from lrtune.export.case import Case, cannot_hold
from lrtune.schedule.family import Array
from lrtune.schedule.schedule import Schedule


def csv(schedule: Schedule, total: int) -> str:
    """A line for each update: its number from 0 and its rate, exactly.

    Raises:
        InputError: `total` is not admissible, or the loop is closed.

    Example:
        >>> print(csv(Schedule("linear", peak_lr=0.4), 2), end="")
        update,rate
        0,0.4
        1,0.2
    """
    rates = _rates(schedule, total).tolist()
    return "update,rate\n" + "".join(f"{t},{rate!r}\n" for t, rate in enumerate(rates))


def as_json(schedule: Schedule, total: int) -> str:
    """The schedule, its counts for `total` updates, and the rate of each of them.

    Raises:
        InputError: `total` is not admissible, or the loop is closed.
    """
    rates = _rates(schedule, total).tolist()
    about = {"schedule": schedule.to_dict(), "resolved": schedule.resolve(total), "total": total}
    return json.dumps({**about, "rates": rates}) + "\n"


def _rates(schedule: Schedule, total: int) -> Array:
    if schedule.closed_loop:
        raise cannot_hold(
            Case(schedule, total), "a table", "its rates depend on the validation loss"
        )
    return schedule.rates(total)
