"""lrtune: which learning-rate schedule wins on your task, and by how much.

The public names load on first use, so that ``import lrtune`` brings neither torch nor Optuna.
"""

import warnings
from functools import cache
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrtune.engine.devices import Engine
    from lrtune.errors import InputError, ScheduleWarning
    from lrtune.run.confirm import Listener, confirm
    from lrtune.run.folder import open as open
    from lrtune.run.tune import tune
    from lrtune.schedule import FAMILIES, Schedule, load, register
    from lrtune.search import (
        Budget,
        SchedulePruner,
        Space,
        Stopping,
        SurrogateSampler,
        report,
        suggest,
    )
    from lrtune.tasks import Metric, Split, Task, load_task
    from lrtune.verdict.verdict import Plan

_HOMES = {
    "Budget": "lrtune.search",
    "Engine": "lrtune.engine.devices",
    "FAMILIES": "lrtune.schedule",
    "InputError": "lrtune.errors",
    "Listener": "lrtune.run.confirm",
    "Metric": "lrtune.tasks",
    "Plan": "lrtune.verdict.verdict",
    "Schedule": "lrtune.schedule",
    "SchedulePruner": "lrtune.search",
    "ScheduleWarning": "lrtune.errors",
    "Space": "lrtune.search",
    "Split": "lrtune.tasks",
    "Stopping": "lrtune.search",
    "SurrogateSampler": "lrtune.search",
    "Task": "lrtune.tasks",
    "confirm": "lrtune.run.confirm",
    "load": "lrtune.schedule",
    "load_task": "lrtune.tasks",
    "open": "lrtune.run.folder",
    "register": "lrtune.schedule",
    "report": "lrtune.search",
    "suggest": "lrtune.search",
    "tune": "lrtune.run.tune",
}

# Without open: `from lrtune import *` would hide the builtin.
__all__ = [
    "FAMILIES",
    "Budget",
    "Engine",
    "InputError",
    "Listener",
    "Metric",
    "Plan",
    "Schedule",
    "SchedulePruner",
    "ScheduleWarning",
    "Space",
    "Split",
    "Stopping",
    "SurrogateSampler",
    "Task",
    "confirm",
    "load",
    "load_task",
    "register",
    "report",
    "suggest",
    "tune",
]


def __dir__() -> list[str]:
    return sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("lrtune")
    if name not in _HOMES:
        raise AttributeError(f"module 'lrtune' has no attribute {name!r}")
    _quiet()
    globals()[name] = value = getattr(import_module(_HOMES[name]), name)
    return value


@cache
def _quiet() -> None:
    # Optuna brings tqdm, which asks every notebook for ipywidgets; nothing here needs them. Once:
    # whenever filters change, Python forgets which warnings it has shown.
    warnings.filterwarnings("ignore", "IProgress not found")
