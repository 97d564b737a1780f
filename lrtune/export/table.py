"""The rates themselves: update, rate, as CSV or JSON."""

import json

from lrtune.export.context import ExportContext, cannot_hold
from lrtune.schedule.family import Array


def csv(ctx: ExportContext) -> str:
    """A line for each update: its number from 0, its rate, and its momentum where that is cycled.

    Raises:
        InputError: the loop is closed.

    Example:
        >>> from lrtune.schedule import Schedule
        >>> print(csv(ExportContext(Schedule("linear", peak_lr=0.4), 2)), end="")
        update,rate
        0,0.4
        1,0.2
    """
    columns = {"rate": _rates(ctx)}
    if (momenta := ctx.schedule.momenta(ctx.total)) is not None:
        columns["momentum"] = momenta
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    lines = (",".join([str(t), *map(repr, row)]) for t, row in enumerate(rows))
    return "\n".join([",".join(["update", *columns]), *lines, ""])


def as_json(ctx: ExportContext) -> str:
    """The schedule, its counts for `total` updates, and the rate of each of them (and momentum).

    Raises:
        InputError: the loop is closed.
    """
    schedule, total, rates = ctx.schedule, ctx.total, _rates(ctx).tolist()
    about = {"schedule": schedule.to_dict(), "resolved": schedule.resolve(total), "total": total}
    momenta = schedule.momenta(total)
    cycle = {} if momenta is None else {"momenta": momenta.tolist()}
    return json.dumps({**about, "rates": rates, **cycle}) + "\n"


def _rates(ctx: ExportContext) -> Array:
    if ctx.schedule.closed_loop:
        raise cannot_hold(ctx, "a table", "its rates depend on the validation loss")
    return ctx.schedule.rates(ctx.total)
