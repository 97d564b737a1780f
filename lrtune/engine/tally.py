"""Tally: what a validation measures, of one trial or of many at once."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from lrtune.errors import InputError
from lrtune.tasks import Task
from lrtune.tasks.metrics import Metric
from lrtune.tasks.splits import Tree, concat, leaves, tree_map

T = TypeVar("T")


class Figures(NamedTuple):
    """Of a trial at a validation; see Progress."""

    loss: float
    metrics: dict[str, float]
    averaged: float


class Scorer:
    """Metrics of K trials on the same targets: in one go where that gives the same."""

    def __init__(self) -> None:
        # By the function's identity, for not all can be hashed: whether vmap is right.
        self._together: dict[int, bool] = {}

    def rows(
        self, metric: Metric, outputs: Tree, targets: Tree, errors: dict[int, Exception]
    ) -> Tensor:
        """The metric of each trial: float64 (K,).

        Args:
            metric: of a task.
            outputs: tensors (K, n, ...).
            targets: tensors (n, ...).
            errors: where what the metric raises is put, by trial.
        """
        count, key = len(next(leaves(outputs))), id(metric.function)
        if count > 1 and self._together.get(key, True):
            found = _vmapped(metric, outputs, targets)
            if key not in self._together:
                alone = self._one_by_one(metric, outputs, targets, errors)
                # Rounding differs; what is wrong differs by more than that.
                self._together[key] = found is not None and torch.allclose(
                    found, alone, rtol=1e-4, atol=1e-6, equal_nan=True
                )
                return alone
            if found is not None:
                return found
        return self._one_by_one(metric, outputs, targets, errors)

    def _one_by_one(
        self, metric: Metric, outputs: Tree, targets: Tree, errors: dict[int, Exception]
    ) -> Tensor:
        some = next(leaves(outputs))
        found = torch.full((len(some),), torch.nan, dtype=torch.float64, device=some.device)
        for row in range(len(some)):
            if row not in errors:
                figure = attempt(partial(metric.function, _row(outputs, row), targets))
                if isinstance(figure, Exception):
                    errors[row] = figure
                else:
                    found[row] = figure
        return found


class Tally:
    """Metrics of K trials over a split, batch by batch."""

    def __init__(self, metrics: Sequence[Metric], scorer: Scorer) -> None:
        """Count nothing yet.

        Args:
            metrics: what is measured.
            scorer: of these and other metrics of the task.
        """
        self._metrics = metrics
        self._scorer = scorer
        self._sums: dict[int, Tensor] = {}  # (K,) each
        self._kept: list[tuple[Tree, Tree]] = []
        self._samples = 0
        self._errors: dict[int, Exception] = {}

    def add(self, outputs: Tree, targets: Tree) -> None:
        """Take in a batch: outputs (K, n, ...), targets (n, ...)."""
        outputs = tree_map(exact, outputs)
        count = len(next(leaves(targets)))
        self._samples += count
        for number, metric in enumerate(self._metrics):
            if metric.over == "batch":
                found = count * self._scorer.rows(metric, outputs, targets, self._errors)
                self._sums[number] = self._sums[number] + found if number in self._sums else found
        if any(metric.over == "split" for metric in self._metrics):
            samples_first = tree_map(lambda tensor: tensor.transpose(0, 1), outputs)
            self._kept.append((samples_first, targets))

    def figures(self) -> list[list[float] | Exception]:
        """Of each trial its metrics, in their order, or what one of them raised."""
        columns = [self._column(number).tolist() for number in range(len(self._metrics))]
        rows = zip(*columns, strict=True)
        return [self._errors.get(row, list(values)) for row, values in enumerate(rows)]

    def _column(self, number: int) -> Tensor:
        if number in self._sums:
            return self._sums[number] / self._samples
        samples_first, targets = concat(self._kept)
        outputs = tree_map(lambda tensor: tensor.transpose(0, 1), samples_first)
        return self._scorer.rows(self._metrics[number], outputs, targets, self._errors)


def figures_of(
    task: Task, judged: list[float] | Exception, averaged: list[float] | Exception | None = None
) -> Figures | Exception:
    """What a validation has found, or the error that a metric raised, of either weights.

    Args:
        task: with the metrics.
        judged: the loss and the metrics.
        averaged: the objective alone, of the averaged weights, where they are judged beside.
    """
    if isinstance(judged, Exception):
        return judged
    if isinstance(averaged, Exception):
        averaged.add_note("on the averaged weights (average=None in Task: judge none beside)")
        return averaged
    loss, *values = judged
    metrics = {metric.name: v for metric, v in zip(task.metrics, values, strict=True)}
    return Figures(loss, metrics, math.nan if averaged is None else averaged[0])


def _vmapped(metric: Metric, outputs: Tree, targets: Tree) -> Tensor | None:
    """None where the function cannot be."""

    def run(outputs: Tree) -> Tensor:
        return torch.as_tensor(metric.function(outputs, targets)).double()

    try:
        found: Tensor = torch.vmap(run)(outputs)
    except Exception as error:  # whatever a user's function may raise of a batched tensor
        if is_out_of_memory(error):
            raise
        return None
    return found if found.dim() == 1 else None


def _row(tree: Tree, row: int) -> Tree:
    return tree_map(lambda tensor: tensor[row], tree)


def exact(outputs: Tensor) -> Tensor:
    """Autocast's bfloat16 is scored in float32; a float64 model keeps its digits."""
    if not outputs.is_floating_point():
        return outputs
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def attempt(function: Callable[[], T]) -> T | Exception:
    """What a function of the task's gives, or raises of one trial."""
    try:
        return function()
    except InputError:  # the data's fault, not the trial's: all of the search stops
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return error


def is_out_of_memory(error: Exception) -> bool:
    """Whether there would be room for less."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for words in ("allocate memory", "_ALLOC_FAILED"))
