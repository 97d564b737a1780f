"""EXPORTERS: a schedule as source code for a training framework, or as a table."""

from importlib import import_module

from lrtune.errors import InputError
from lrtune.export.context import ExportContext, FoundOptimizer
from lrtune.schedule.family import unknown
from lrtune.schedule.schedule import Schedule

__all__ = ["ALIASES", "EXPORTERS", "RATES_ALONE", "TABLES", "FoundOptimizer", "export"]

# target -> module:function, ExportContext -> text. None needs the framework to write for it.
EXPORTERS: dict[str, str] = {
    "torch": "lrtune.export.torch:torch",
    "lightning": "lrtune.export.lightning:lightning",
    "huggingface": "lrtune.export.huggingface:huggingface",
    "timm": "lrtune.export.timm:timm",
    "keras": "lrtune.export.keras:keras",
    "optax": "lrtune.export.optax:optax",
    "csv": "lrtune.export.table:csv",
    "json": "lrtune.export.table:as_json",
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
    module, _, function = EXPORTERS[to].partition(":")
    context = ExportContext(schedule, total, optimizer)
    text: str = getattr(import_module(module), function)(context)
    return text
