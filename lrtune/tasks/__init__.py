"""Tasks: what is trained. Torch, never Optuna.

The names load on first use: what a user may say of a task (``options``) needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrtune.tasks.load import load_task
    from lrtune.tasks.metrics import METRICS, Metric
    from lrtune.tasks.models import MODELS
    from lrtune.tasks.sanity_check import check_model
    from lrtune.tasks.splits import Split, Stream
    from lrtune.tasks.task import Task

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
    for module in (
        ("splits", "metrics", "task", "sanity_check", "models", "load") if name in __all__ else ()
    ):
        home = import_module(f"lrtune.tasks.{module}")
        if hasattr(home, name):
            globals()[name] = value = getattr(home, name)
            return value
    raise AttributeError(f"module 'lrtune.tasks' has no attribute {name!r}")
