"""Tasks: what is trained. Torch, never Optuna.

The names load on first use: what a user may say of a task (``options``) needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrtune.tasks.load import load_task
    from lrtune.tasks.metrics import METRICS, Metric
    from lrtune.tasks.models import MODELS
    from lrtune.tasks.splits import Split, Stream
    from lrtune.tasks.task import Task, check_model

_HOMES = {
    "DATASETS": "load",
    "METRICS": "metrics",
    "MODELS": "models",
    "Metric": "metrics",
    "Split": "splits",
    "Stream": "splits",
    "Task": "task",
    "check_model": "task",
    "load_task": "load",
}

__all__ = [
    "DATASETS",
    "METRICS",
    "MODELS",
    "Metric",
    "Split",
    "Stream",
    "Task",
    "check_model",
    "load_task",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lrtune.tasks' has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(f"lrtune.tasks.{_HOMES[name]}"), name)
    return value
