"""EXPORTERS: a schedule as source code for a training framework, or its rates as a table."""

import json
from collections.abc import Sequence
from importlib import import_module

import numpy as np

from lrtune.errors import InputError
from lrtune.export.source import ExportContext, FoundOptimizer, cannot_hold
from lrtune.schedule.family import MAX_LENGTH, Array, unknown
from lrtune.schedule.schedule import Schedule

__all__ = ["ALIASES", "EXPORTERS", "RATES_ALONE", "TABLES", "FoundOptimizer", "export", "replay"]

# target -> module:function, ExportContext -> text. None needs the framework to write for it.
EXPORTERS: dict[str, str] = {
    "torch": "lrtune.export.torch:torch",
    "lightning": "lrtune.export.torch:lightning",
    "huggingface": "lrtune.export.huggingface:huggingface",
    "timm": "lrtune.export.timm:timm",
    "keras": "lrtune.export.keras:keras",
    "optax": "lrtune.export.optax:optax",
    "csv": "lrtune.export:csv",
    "json": "lrtune.export:as_json",
}
ALIASES = {"pytorch": "torch"}  # other names that people type
# Their schedules say what the rate is, and nothing of momentum.
RATES_ALONE = ("keras", "optax")
TABLES = ("csv", "json")  # no source code


def export(
    schedule: Schedule, *, to: str, total: int, optimizer: FoundOptimizer | None = None
) -> str:
    """`schedule` for a run of `total` updates, as stand-alone source code or as a table.

    Args:
        schedule: what to write out.
        to: a name in `EXPORTERS`, or another name of one.
        total: the number of updates of the whole run, on which its counts depend.
        optimizer: what its peak was found with; targets that make an optimizer make this one.

    Raises:
        InputError: `to` is not in `EXPORTERS` or cannot hold the family or its momentum cycle, or
            `total` is not admissible.

    Example:
        >>> from lrtune.schedule import Schedule
        >>> source = export(Schedule("cosine", peak_lr=0.1), to="torch", total=100)
        >>> "CosineAnnealingLR(optimizer, T_max=100, eta_min=0.0)" in source
        True
    """
    to = ALIASES.get(to, to)
    if to not in EXPORTERS:
        raise unknown("export target", to, EXPORTERS)
    if schedule.cycles_momentum and to in RATES_ALONE:
        others = ", ".join(target for target in EXPORTERS if target not in RATES_ALONE)
        raise InputError(
            f"{to} cannot hold the momentum cycle of {schedule.family}: its schedules are of the "
            f"rate alone; export to {others}, or the schedule without base_momentum and "
            "max_momentum"
        )
    if schedule.schedule_free and to != "torch":
        raise InputError(
            f"{to} cannot hold schedule_free: it is an optimizer of the package schedulefree; "
            "export to torch"
        )
    module, _, function = EXPORTERS[to].partition(":")
    context = ExportContext(schedule, total, optimizer)
    text: str = getattr(import_module(module), function)(context)
    return text


def csv(ctx: ExportContext) -> str:
    """A line per update: its number from 0, its rate, and its momentum where that is cycled.

    Example:
        >>> from lrtune.schedule import Schedule
        >>> print(csv(ExportContext(Schedule("linear", peak_lr=0.4), 2)), end="")
        update,rate
        0,0.4
        1,0.2
    """
    import pandas as pd

    table = pd.DataFrame({"rate": _rates(ctx)})
    if (momenta := ctx.schedule.momenta(ctx.total)) is not None:
        table["momentum"] = momenta
    return table.to_csv(index_label="update")


def as_json(ctx: ExportContext) -> str:
    """The schedule, its counts for `total` updates, and the rate of each of them (and momentum)."""
    schedule, total, rates = ctx.schedule, ctx.total, _rates(ctx).tolist()
    about = {"schedule": schedule.to_dict(), "resolved": schedule.resolve(total), "total": total}
    momenta = schedule.momenta(total)
    cycle = {} if momenta is None else {"momenta": momenta.tolist()}
    return json.dumps({**about, "rates": rates, **cycle}) + "\n"


def _rates(ctx: ExportContext) -> Array:
    if ctx.schedule.closed_loop:
        raise cannot_hold(ctx, "a table", "its rates depend on the validation loss")
    return ctx.schedule.rates(ctx.total)


def replay(schedule: Schedule, total: int, losses: Sequence[tuple[int, float]]) -> Schedule:
    """The rates that a closed loop came to, as an open loop: a sequence of constants.

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
