"""What a predictor scores that ignores its inputs: whatever is no better has learnt nothing."""

import math
from typing import Any

import torch
from torch import Tensor

from lrtune.tasks.split import Split
from lrtune.tasks.task import Task

MOST = 50_000  # targets that are looked at


def ignorant(task: Task) -> dict[str, dict[str, float]]:
    """Its metrics by split: val, and test where there is one.

    It predicts the frequencies of the classes in training, or the mean of the numbers. Empty where
    the targets are neither, or are streamed; a metric that cannot be computed of it is left out.
    """
    if not isinstance(task.train, Split) or not isinstance(task.train.targets, Tensor):
        return {}
    told = _prediction(task.train.targets, task.classes)
    if told is None:
        return {}
    found = {}
    for name in ("val", "test"):
        split = getattr(task, name)
        if isinstance(split, Split) and isinstance(split.targets, Tensor):
            targets = split.targets[: max(1, MOST // max(1, split.targets[0].numel()))]
            shape = targets.shape + told.shape if told.ndim else targets.shape
            found[name] = _metrics(task, told.expand(shape), targets)
    return found


def _prediction(targets: Tensor, classes: int | None) -> Tensor | None:
    """Log frequencies (classes,), or a mean ()."""
    if targets.is_floating_point():
        return targets.double().mean().to(targets.dtype)
    if classes is None:
        return None
    counts = torch.bincount(targets.flatten().long(), minlength=classes).double() + 1
    return (counts / counts.sum()).log().float()


def _metrics(task: Task, outputs: Tensor, targets: Any) -> dict[str, float]:
    found = {}
    for metric in task.metrics:
        try:
            value = float(metric.function(outputs, targets))
        except Exception:  # of a user's own metric, which may want another form
            continue
        if math.isfinite(value):
            found[metric.name] = value
    return found
