"""EXPORTERS: a schedule as source code for a training framework."""

from importlib import import_module

from lrtune.schedule.checks import unknown
from lrtune.schedule.schedule import Schedule

# target -> module:function, (schedule, total) -> source
EXPORTERS: dict[str, str] = {
    "torch": "lrtune.export.snippet:snippet",
}


def export(schedule: Schedule, *, to: str, total: int) -> str:
    """Stand-alone source code of `schedule` for a run of `total` updates.

    Raises:
        InputError: `to` is not in `EXPORTERS`, or `total` is not admissible.

    Example:
        >>> from lrtune.schedule import Schedule
        >>> source = export(Schedule("cosine", peak_lr=0.1), to="torch", total=100)
        >>> "CosineAnnealingLR(optimizer, T_max=100, eta_min=0.0)" in source
        True
    """
    if to not in EXPORTERS:
        raise unknown("export target", to, EXPORTERS)
    module, _, function = EXPORTERS[to].partition(":")
    source: str = getattr(import_module(module), function)(schedule, total)
    return source
