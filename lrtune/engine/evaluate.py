"""evaluate: the loss and the metrics of one trial, or of many at once, on a split."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from lrtune.engine.device_task import DeviceTask, attempt, exact, is_out_of_memory
from lrtune.engine.pool import VALIDATION_NOISE, EvalResult, reseed
from lrtune.tasks import Task
from lrtune.tasks.metrics import Metric
from lrtune.tasks.splits import Tree, concat, leaves, tree_map

BLOCKS = 20  # parts
LEAST = 5  # samples of a part

Forward = Callable[[Tree, int], Tree]  # of prepared inputs (n, ...) and n: outputs (K, n, ...)


@torch.no_grad()
def evaluate(
    task: DeviceTask,
    forwards: Sequence[tuple[Forward, tuple[Metric, ...]]],
    vmaps: dict[int, bool],
    blocks: "Blocks | None" = None,
    noise: tuple[int, int] = (0, 0),
) -> list[EvalResult | Exception]:
    """Loss and metrics of K trials on val, or what the task's own functions raise of each.

    Args:
        task: on its device.
        forwards: of the models in evaluation mode with each kind of weights, and what is measured
            of them: see ``DeviceTask.measured``.
        vmaps: see MetricAccumulator.
        blocks: where there are, the trial is one alone and is judged on the test split.
        noise: seed and update, of what a model may draw in evaluation.
    """
    if blocks is not None:
        blocks.begin()
    sums = [MetricAccumulator(metrics, vmaps) for _, metrics in forwards]
    with task.own_generators():
        reseed(task.device, noise[0], VALIDATION_NOISE, noise[1])
        for stored, targets in (task.val if blocks is None else task.test).whole():
            with task.autocast():
                inputs = task.prepare(stored)
            for number, (forward, _) in enumerate(forwards):
                outputs = tree_map(exact, forward(inputs, len(next(leaves(targets)))))
                sums[number].add(outputs, targets)
                if blocks is not None and number == 0:
                    blocks.add(_rows(outputs, 0), targets, partial(_again, forward, inputs))
    return [
        _result(task.task, *values)
        for values in zip(*(each.values() for each in sums), strict=True)
    ]


def _again(forward: Forward, inputs: Tree, rows: Tensor) -> Tree:
    """Outputs of one trial for some of the samples."""
    return tree_map(lambda t: exact(t)[0], forward(_rows(inputs, rows), len(rows)))


def _result(
    task: Task, values: list[float] | Exception, averaged: list[float] | Exception | None = None
) -> EvalResult | Exception:
    """What a validation has found, or the error that a metric raised, of either weights.

    Args:
        task: with the metrics.
        values: the loss and the metrics.
        averaged: the objective alone, of the averaged weights, where they are judged beside.
    """
    if isinstance(values, Exception):
        return values
    if isinstance(averaged, Exception):
        averaged.add_note("on the averaged weights (average=None in Task: judge none beside)")
        return averaged
    loss, *rest = values
    metrics = {metric.name: value for metric, value in zip(task.metrics, rest, strict=True)}
    return EvalResult(loss, metrics, math.nan if averaged is None else averaged[0])


class MetricAccumulator:
    """Metrics of K trials over a split, batch by batch; in one go where that gives the same."""

    def __init__(self, metrics: Sequence[Metric], vmaps: dict[int, bool]) -> None:
        """Count nothing yet.

        Args:
            metrics: what is measured.
            vmaps: whether ``vmap`` is right for a metric, by its function's identity, for not all
                can be hashed; what is missing is found out and put there.
        """
        self._metrics = metrics
        self._vmaps = vmaps
        self._sums: dict[int, Tensor] = {}  # (K,) each
        self._kept: list[tuple[Tree, Tree]] = []
        self._samples = 0
        self._errors: dict[int, Exception] = {}  # by trial

    def add(self, outputs: Tree, targets: Tree) -> None:
        """Take in a batch: outputs (K, n, ...), targets (n, ...)."""
        count = len(next(leaves(targets)))
        self._samples += count
        for number, metric in enumerate(self._metrics):
            if metric.over == "batch":
                scores = count * self._scores(metric, outputs, targets)
                self._sums[number] = self._sums[number] + scores if number in self._sums else scores
        if any(metric.over == "split" for metric in self._metrics):
            self._kept.append((outputs, targets))

    def values(self) -> list[list[float] | Exception]:
        """Of each trial its metrics, in their order, or what one of them raised."""
        columns = [self._column(number).tolist() for number in range(len(self._metrics))]
        rows = zip(*columns, strict=True)
        return [self._errors.get(row, list(values)) for row, values in enumerate(rows)]

    def _column(self, number: int) -> Tensor:
        if number in self._sums:
            return self._sums[number] / self._samples
        outputs, targets = zip(*self._kept, strict=True)
        return self._scores(self._metrics[number], concat(outputs, 1), concat(targets))

    def _scores(self, metric: Metric, outputs: Tree, targets: Tree) -> Tensor:
        """The metric of each trial: float64 (K,)."""
        count, key = len(next(leaves(outputs))), id(metric.function)
        if count == 1 or not self._vmaps.get(key, True):
            return self._one_by_one(metric, outputs, targets)
        scores = _vmapped(metric, outputs, targets)
        if key in self._vmaps and scores is not None:
            return scores
        alone = self._one_by_one(metric, outputs, targets)
        if key not in self._vmaps and not self._errors:
            # Rounding differs; what is wrong differs by more than that.
            self._vmaps[key] = scores is not None and torch.allclose(
                scores, alone, rtol=1e-4, atol=1e-6, equal_nan=True
            )
        # The first time too: a validation has the same bits whatever the pool has seen before.
        fits = self._vmaps.get(key, False) and not self._errors
        return scores if scores is not None and fits else alone

    def _one_by_one(self, metric: Metric, outputs: Tree, targets: Tree) -> Tensor:
        first = next(leaves(outputs))
        scores = torch.full((len(first),), torch.nan, dtype=torch.float64, device=first.device)
        for row in range(len(first)):
            if row not in self._errors:
                score = attempt(partial(metric.function, _rows(outputs, row), targets))
                if isinstance(score, Exception):
                    self._errors[row] = score
                else:
                    scores[row] = score
        return scores


def _vmapped(metric: Metric, outputs: Tree, targets: Tree) -> Tensor | None:
    """None where the function cannot be."""

    def run(outputs: Tree) -> Tensor:
        return torch.as_tensor(metric.function(outputs, targets)).double()

    try:
        scores: Tensor = torch.vmap(run)(outputs)
    except Exception as error:  # whatever a user's function may raise of a batched tensor
        if is_out_of_memory(error):
            raise
        return None
    return scores if scores.dim() == 1 else None


def _rows(tree: Tree, rows: int | Tensor) -> Tree:
    return tree_map(lambda tensor: tensor[rows] if tensor.dim() else tensor, tree)


class Blocks:
    """One trial's metric on the parts of a split: how much it hangs on the samples that are there.

    Which sample belongs to which part is drawn, the same in every run: files often come class by
    class. But where a sample has many classes to predict, as a piece of text has, those of a
    part are neighbours, for neighbours are alike.

    A metric of single samples has a mean on each part. Of one that needs all of them, R² say, the
    jackknife gives what each part adds: as many times the whole as there are parts, less the rest
    without this part that many times less one (Tukey 1958). For a mean, both are the same.
    """

    def __init__(self, metric: Metric, samples: int) -> None:
        """Count nothing yet.

        Args:
            metric: of a task.
            samples: of the split.
        """
        self._metric = metric
        self._samples = samples
        self.begin()

    def begin(self) -> None:
        """Count from the first sample on, whatever there was before."""
        samples = self._samples
        self._count = min(BLOCKS, samples // LEAST)
        self._parts = torch.arange(samples) * self._count // samples  # of each sample
        self._seen = 0
        self._sums = [0.0] * self._count
        self._kept: list[tuple[Tree, Tree]] = []

    def add(self, outputs: Tree, targets: Tree, again: Callable[[Tensor], Tree]) -> None:
        """Take in a batch, in the order of the samples.

        Args:
            outputs: (n, ...), or numbers of the whole batch, as a loss that a model computes.
            targets: (n, ...).
            again: computes the outputs of some rows anew, for such a number of a part.
        """
        if self._count < 2:
            return
        first = next(leaves(targets))
        size = len(first)
        if not self._seen and (first.numel() == size or first.is_floating_point()):
            order = torch.Generator().manual_seed(0)
            self._parts = self._parts[torch.randperm(len(self._parts), generator=order)]
        if self._metric.over == "split":
            self._kept.append((outputs, targets))
        else:
            whole = all(output.dim() for output in leaves(outputs))
            of = partial(_rows, outputs) if whole else again
            if isinstance(attempt(lambda: self._sum_up(of, targets, size)), Exception):
                self._count = 0
        self._seen += size

    def _sum_up(self, of: Callable[[Tensor], Tree], targets: Tree, size: int) -> None:
        here = self._parts[self._seen : self._seen + size]
        for part in here.unique().tolist():
            rows = (here == part).nonzero().flatten()
            whole = int((self._parts == part).sum())
            score = float(self._metric.function(of(rows), _rows(targets, rows)))
            self._sums[part] += score * len(rows) / whole

    def scores(self) -> list[float]:
        """One per part; none where there are too few samples, or the metric cannot be of a part."""
        if self._count < 2:
            return []
        if self._metric.over == "batch":
            return self._sums
        scores = attempt(self._jackknife)
        return [] if isinstance(scores, Exception) else scores

    def _jackknife(self) -> list[float]:
        outputs, targets = concat(self._kept)
        whole = float(self._metric.function(outputs, targets))
        scores = []
        for part in range(self._count):
            rest = self._score(outputs, targets, (self._parts != part).nonzero().flatten())
            scores.append(self._count * whole - (self._count - 1) * rest)
        return scores

    def _score(self, outputs: Tree, targets: Tree, rows: Tensor) -> float:
        return float(self._metric.function(_rows(outputs, rows), _rows(targets, rows)))
