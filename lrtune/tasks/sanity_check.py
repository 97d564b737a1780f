"""A sanity check: a user's model, loss and metrics on a few samples, before any search."""

import math
import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrtune.errors import InputError, one_line
from lrtune.tasks.augment import augment
from lrtune.tasks.split import Rows, Split, Stream, row_hashes, spread
from lrtune.tasks.stream import take
from lrtune.tasks.task import Task
from lrtune.tasks.tree import Tree, concat, laid_out, leaves, tree_map

CHECKED = 256  # validation samples that the metrics are tried on,
AT_ONCE = 32


def check_model(task: Task) -> int:
    """Train on two samples and validate on some; the number of trainable parameters.

    Raises:
        InputError: model, loss, metrics and data do not fit together.
    """
    with torch.random.fork_rng(devices=[]):
        model = _tried(task, "model", task.model)
        if not isinstance(model, nn.Module):
            raise InputError(f"{task.name}: model made {type(model).__name__}, not an nn.Module")
        if _tried(task, "model", task.model) is model:
            raise InputError(f"{task.name}: model gave the same object twice: make a fresh one")
        model = model.to(memory_format=task.layout)
        prepare = deepcopy(task.prepare)
        loss = _tried(task, "training", lambda: _loss(task, model.train(), prepare.train()))
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            raise InputError(f"{task.name}: loss returned {one_line(loss)}, not a scalar tensor")
        parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        if not parameters or not loss.requires_grad:
            raise InputError(f"{task.name}: nothing to train: no parameter reaches the loss")
        with torch.no_grad():
            _try_metrics(task, model.eval(), prepare.eval())
    return parameters


def _loss(task: Task, model: nn.Module, prepare: nn.Module) -> object:
    # Two samples, because batch norm in training has no variance of one.
    stored = _some(task.train, np.arange(min(2, task.batch_size, task.train.samples)))
    before = Split(*tree_map(torch.clone, tuple(stored)))
    inputs, parts = augment(task.augment, prepare(stored.inputs), stored.targets)
    outputs = model(laid_out(inputs, task.layout))
    if task.classes is not None and outputs.shape[-1] < task.classes:
        raise ValueError(f"{outputs.shape[-1]} outputs for {task.classes} classes")
    with warnings.catch_warnings():
        # Shapes that torch stretches to fit make a loss of every sample against every other.
        warnings.filterwarnings("error", message="Using a target size")
        losses = [(weight, task.loss(outputs, targets)) for weight, targets in parts]
    if (row_hashes(stored) != row_hashes(before)).any():
        raise ValueError("changes its batch in place: it would change the data: work on a copy")
    odd = [loss for _, loss in losses if not isinstance(loss, Tensor)]
    return odd[0] if odd else sum(weight * loss for weight, loss in losses)


def _try_metrics(task: Task, model: nn.Module, prepare: nn.Module) -> None:
    rows = _telling(task.val)
    parts = [_some(task.val, rows[i : i + AT_ONCE]) for i in range(0, len(rows), AT_ONCE)]

    def validate() -> Tree:
        return concat([model(laid_out(prepare(part.inputs), task.layout)) for part in parts])

    outputs = _tried(task, "validation", validate)
    targets = concat([part.targets for part in parts])
    functions = {"loss": task.loss} | {f"metric {m.name}": m.function for m in task.metrics}
    judged = ("loss", f"metric {task.objective.name}")
    for name, function in functions.items():

        def figure(name: str = name, function: Callable[[Any, Any], Any] = function) -> None:
            value = function(outputs, targets)
            if isinstance(value, Tensor) and value.numel() != 1:
                raise ValueError(f"returned a tensor {tuple(value.shape)}, not one number")
            if name in judged and not math.isfinite(value):
                raise ValueError(
                    f"{float(value)} on {len(rows)} samples of val, untrained: "
                    "expected a finite number"
                )

        _tried(task, name, figure)


def _some(split: Split | Stream, rows: Rows) -> Split:
    return take(split, rows.tolist()) if isinstance(split, Stream) else split.take(rows)


def _telling(split: Split | Stream) -> Rows:
    """Rows spread over a split, and one of each class: without it, some metrics are undefined."""
    rows = spread(split.samples, CHECKED)
    labels = split.labels
    if labels is not None and labels.dim() == 1:
        rows = np.union1d(rows, np.unique(labels.numpy(), return_index=True)[1])
    return rows


def _tried(task: Task, what: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # whatever the user's own code may raise
        said = " ".join(str(error).split())[:300]
        inputs = [(tuple(leaf.shape[1:]), leaf.dtype) for leaf in leaves(task.train.first.inputs)]
        raise InputError(
            f"{task.name}: {what} fails on the data (model {task.model_name}, inputs "
            f"{' and '.join(f'{s} {d}' for s, d in inputs)}): {type(error).__name__}: {said}"
        ) from error
