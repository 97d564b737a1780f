"""Blocks: a metric on the parts of a split, for how much it hangs on the samples that are there."""

import torch
from torch import Tensor

from lrtune.engine.tally import attempt
from lrtune.tasks.metrics import Metric
from lrtune.tasks.splits import Tree, concat, leaves, tree_map

BLOCKS = 20  # parts
LEAST = 5  # samples of a part


class Blocks:
    """One trial's metric, batch by batch in the order of the samples.

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

    def add(self, outputs: Tree, targets: Tree) -> None:
        """Take in a batch: outputs and targets (n, ...)."""
        if self._count < 2:
            return
        first = next(leaves(targets))
        size = len(first)
        if not self._seen and (first.numel() == size or first.is_floating_point()):
            order = torch.Generator().manual_seed(0)
            self._parts = self._parts[torch.randperm(len(self._parts), generator=order)]
        if self._metric.over == "split":
            self._kept.append((outputs, targets))
        elif isinstance(attempt(lambda: self._sum_up(outputs, targets, size)), Exception):
            self._count = 0
        self._seen += size

    def _sum_up(self, outputs: Tree, targets: Tree, size: int) -> None:
        here = self._parts[self._seen : self._seen + size]
        for part in here.unique().tolist():
            rows = (here == part).nonzero().flatten()
            whole = int((self._parts == part).sum())
            score = self._score(_rows(outputs, rows), _rows(targets, rows))
            self._sums[part] += score * len(rows) / whole

    def scores(self) -> list[float]:
        """One a part; none where there are too few samples, or the metric cannot be of a part."""
        if self._count < 2:
            return []
        if self._metric.over == "batch":
            return self._sums
        found = attempt(self._jackknife)
        return [] if isinstance(found, Exception) else found

    def _jackknife(self) -> list[float]:
        outputs, targets = concat(self._kept)
        whole, found = self._score(outputs, targets), []
        for part in range(self._count):
            kept = (self._parts != part).nonzero().flatten()
            rest = self._score(_rows(outputs, kept), _rows(targets, kept))
            found.append(self._count * whole - (self._count - 1) * rest)
        return found

    def _score(self, outputs: Tree, targets: Tree) -> float:
        return float(self._metric.function(outputs, targets))


def _rows(tree: Tree, rows: Tensor) -> Tree:
    return tree_map(lambda tensor: tensor[rows.to(tensor.device)], tree)
