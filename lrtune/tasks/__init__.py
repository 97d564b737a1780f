"""Tasks: what is trained. Torch, never Optuna."""

from lrtune.tasks.datasets import DATASETS
from lrtune.tasks.load import load_task
from lrtune.tasks.metrics import METRICS, Metric
from lrtune.tasks.models import MODELS
from lrtune.tasks.sanity_check import check_model
from lrtune.tasks.split import Split, Stream
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
