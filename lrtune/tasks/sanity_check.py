"""check_model: a sanity check of a task before any search; and what a dummy predictor scores."""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from itertools import repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrtune.errors import InputError, described, one_line
from lrtune.tasks.groups import check_effect
from lrtune.tasks.images import augment, draw
from lrtune.tasks.metrics import Metric, logits_of
from lrtune.tasks.splits import (
    Rows,
    Split,
    Stream,
    concat,
    laid_out,
    row_hashes,
    sample_types,
    spread,
    tree_map,
)
from lrtune.tasks.stream import take
from lrtune.tasks.task import Task

CHECKED = 256  # validation samples that the metrics are tried on,
AT_ONCE = 32
OUTPUTS = (
    "the model gives {}, no tensor: make samples dictionaries with labels, from which it computes "
    "its loss, or give the task loss=, a function of (outputs, targets)"
)
TOKENS = ": a token or label beyond the model's vocab_size or num_labels, or too many tokens"
DUMMY_TARGETS = 50_000  # that the dummy predictor is scored on


def check_model(task: Task) -> int:
    """Train on two samples and validate on some; the number of trainable parameters.

    Raises:
        InputError: model, loss, metrics and data do not fit together.
    """
    with torch.random.fork_rng(devices=[]):
        model, again = task.fresh_model(), task.model()
        if again is model:
            raise InputError(f"{task.name}: model gave the same object twice: make a fresh one")
        if any(isinstance(p, nn.UninitializedParameter) for p in model.parameters()):
            raise InputError(
                f"{task.name}: model has lazy layers, which have no shapes before a batch: "
                "give the model a sample where it is made: model(inputs[:2])"
            )
        model = model.to(memory_format=task.layout)
        prepare = deepcopy(task.prepare)
        with _named(task, "training"):
            loss = _loss(task, model.train(), prepare.train())
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            raise InputError(f"{task.name}: loss returned {one_line(loss)}, not a scalar tensor")
        parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        if not parameters or not loss.requires_grad:
            raise InputError(f"{task.name}: nothing to train: no parameter reaches the loss")
        with _named(task, "training"):
            check_effect(task.groups, model, loss)
        with torch.no_grad():
            _check_metrics(task, model.eval(), prepare.eval())
    return parameters


def _loss(task: Task, model: nn.Module, prepare: nn.Module) -> object:
    # Two samples, because batch norm in training has no variance of one.
    stored = _some(task.train, np.arange(min(2, task.batch_size, task.train.samples)))
    before = Split(*tree_map(torch.clone, tuple(stored)))
    numbers = draw(task.augment, np.random.default_rng(0), 1, stored.samples)[0]
    drawn = torch.as_tensor(numbers)
    inputs, parts = augment(task.augment, prepare(stored.inputs), stored.targets, drawn)
    outputs = task.outputs(model, laid_out(inputs, task.layout))
    if task.loss is F.cross_entropy and not isinstance(outputs, Tensor):
        raise ValueError(OUTPUTS.format(type(outputs).__name__))
    if task.classes is not None and logits_of(outputs).shape[-1] < task.classes:
        raise ValueError(f"{logits_of(outputs).shape[-1]} outputs for {task.classes} classes")
    with warnings.catch_warnings():
        # Shapes that torch stretches to fit make a loss of every sample against every other.
        warnings.filterwarnings("error", message="Using a target size")
        losses = [(weight, task.loss(outputs, targets)) for weight, targets in parts]
    if (row_hashes(stored) != row_hashes(before)).any():
        raise ValueError("changes its batch in place: it would change the data: work on a copy")
    odd = [loss for _, loss in losses if not isinstance(loss, Tensor)]
    return odd[0] if odd else sum(weight * loss for weight, loss in losses)


def _check_metrics(task: Task, model: nn.Module, prepare: nn.Module) -> None:
    rows = spread(task.val.samples, CHECKED)
    labels = task.val.labels
    if labels is not None and labels.dim() == 1:  # one of each class, which some metrics need
        rows = np.union1d(rows, np.unique(labels.numpy(), return_index=True)[1])
    parts = [_some(task.val, rows[i : i + AT_ONCE]) for i in range(0, len(rows), AT_ONCE)]
    with _named(task, "validation"):
        inputs = (laid_out(prepare(part.inputs), task.layout) for part in parts)
        outputs = concat([task.outputs(model, each) for each in inputs])
    targets = concat([part.targets for part in parts])
    functions = {"loss": task.loss} | {f"metric {m.name}": m.function for m in task.metrics}
    for name, function in functions.items():
        with _named(task, name):
            value: Any = function(outputs, targets)
            if isinstance(value, Tensor) and value.numel() != 1:
                raise ValueError(f"returned a tensor {tuple(value.shape)}, not one number")
            judges = name in ("loss", f"metric {task.objective.name}")
            if judges and not math.isfinite(value):
                raise ValueError(
                    f"{float(value)} on {len(rows)} samples of val, untrained: expected a finite "
                    "number"
                )


def _some(split: Split | Stream, rows: Rows) -> Split:
    return take(split, rows.tolist()) if isinstance(split, Stream) else split.take(rows)


@contextmanager
def _named(task: Task, what: str) -> Iterator[None]:
    """Whatever the user's own code may raise, in one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        given = task.train.first.inputs
        names = [f"{name} " for name in given] if isinstance(given, Mapping) else repeat("")
        inputs = [
            f"{name}{shape} {dtype}"
            for name, (dtype, shape) in zip(names, sample_types(given), strict=False)
        ]
        hint = TOKENS if isinstance(error, IndexError) and task.keywords else ""
        raise InputError(
            f"{task.name}: {what} fails on the data (model {task.model_name}, inputs "
            f"{' and '.join(inputs)}): {described(error)}{hint}"
        ) from error


def dummy_scores(task: Task) -> dict[str, dict[str, float]]:
    """Metrics of a predictor that ignores its inputs, by split: val, and test where there is one.

    Whatever is no better has learnt nothing. It predicts the frequencies of the classes in
    training, or the mean of the numbers. Empty where the targets are neither, or are streamed; a
    metric that cannot be computed of it is left out.
    """
    if not isinstance(task.train, Split) or not isinstance(task.train.targets, Tensor):
        return {}
    seen = task.train.targets
    if seen.is_floating_point():
        prediction = seen.double().mean().to(seen.dtype)  # ()
    elif task.classes is None:
        return {}
    else:
        counts = torch.bincount(seen.flatten().long(), minlength=task.classes).double() + 1
        prediction = (counts / counts.sum()).log().float()  # (classes,)
    scores = {}
    for name in ("val", "test"):
        split = getattr(task, name)
        if not isinstance(split, Split) or not isinstance(split.targets, Tensor):
            continue
        targets = split.targets[: max(1, DUMMY_TARGETS // max(1, split.targets[0].numel()))]
        outputs = prediction.expand(targets.shape + prediction.shape)
        values = {metric.name: _score(metric, outputs, targets) for metric in task.metrics}
        scores[name] = {metric: value for metric, value in values.items() if math.isfinite(value)}
    return scores


def _score(metric: Metric, outputs: Tensor, targets: Tensor) -> float:
    try:
        return float(metric.function(outputs, targets))
    except Exception:  # of a user's own metric, which may want another form
        return math.nan
