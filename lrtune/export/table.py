"""The rates themselves: update, rate, as CSV or JSON."""

import json

from lrtune.export.context import ExportContext, cannot_hold
from lrtune.schedule.family import Array
from lrtune.schedule.schedule import Schedule


def csv(schedule: Schedule, total: int) -> str:
    """A line for each update: its number from 0, its rate, and its momentum where that is cycled.

    Raises:
        InputError: `total` is not admissible, or the loop is closed.

    Example:
        >>> print(csv(Schedule("linear", peak_lr=0.4), 2), end="")
        update,rate
        0,0.4
        1,0.2
    """
    columns = {"rate": _rates(schedule, total)}
    if (momenta := schedule.momenta(total)) is not None:
        columns["momentum"] = momenta
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    lines = (",".join([str(t), *map(repr, row)]) for t, row in enumerate(rows))
    return "\n".join([",".join(["update", *columns]), *lines, ""])


def as_json(schedule: Schedule, total: int) -> str:
    """The schedule, its counts for `total` updates, and the rate of each of them (and momentum).

    Raises:
        InputError: `total` is not admissible, or the loop is closed.
    """
    rates = _rates(schedule, total).tolist()
    about = {"schedule": schedule.to_dict(), "resolved": schedule.resolve(total), "total": total}
    momenta = schedule.momenta(total)
    cycle = {} if momenta is None else {"momenta": momenta.tolist()}
    return json.dumps({**about, "rates": rates, **cycle}) + "\n"


def _rates(schedule: Schedule, total: int) -> Array:
    if schedule.closed_loop:
        raise cannot_hold(
            ExportContext(schedule, total), "a table", "its rates depend on the validation loss"
        )
    return schedule.rates(total)
