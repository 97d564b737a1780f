"""Blocks: a metric on the parts of a split, for how much it hangs on the samples that are there."""

import torch
from torch import Tensor

from lrtune.tasks.metrics import Metric
from lrtune.tasks.tree import Tree, concat, leaves, tree_map

BLOCKS = 20  # parts, of neighbouring samples
LEAST = 5  # samples of a part


class Blocks:
    """One trial's metric, batch by batch in the order of the samples.

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
        self._count = min(BLOCKS, samples // LEAST)
        self._samples = samples
        self._seen = 0
        self._sums = [0.0] * self._count
        self._kept: list[tuple[Tree, Tree]] = []

    def add(self, outputs: Tree, targets: Tree) -> None:
        """Take in a batch: outputs and targets (n, ...)."""
        size = len(next(leaves(targets)))
        if self._metric.over == "split":
            self._kept.append((outputs, targets))
        for block in range(self._count) if self._metric.over == "batch" else ():
            start, stop = (max(0, min(size, end - self._seen)) for end in self._ends(block))
            if start < stop:
                rows = slice(start, stop)
                score = self._score(_rows(outputs, rows), _rows(targets, rows))
                first, last = self._ends(block)
                self._sums[block] += score * (stop - start) / (last - first)
        self._seen += size

    def scores(self) -> list[float]:
        """One a part; none where there are too few samples for two of them."""
        if self._count < 2:
            return []
        if self._metric.over == "batch":
            return self._sums
        outputs, targets = concat(self._kept)
        whole, found = self._score(outputs, targets), []
        for block in range(self._count):
            first, last = self._ends(block)
            kept = torch.cat([torch.arange(first), torch.arange(last, self._samples)])
            rest = self._score(_rows(outputs, kept), _rows(targets, kept))
            found.append(self._count * whole - (self._count - 1) * rest)
        return found

    def _ends(self, block: int) -> tuple[int, int]:
        return (
            block * self._samples // self._count,
            (block + 1) * self._samples // self._count,
        )

    def _score(self, outputs: Tree, targets: Tree) -> float:
        return float(self._metric.function(outputs, targets))


def _rows(tree: Tree, rows: slice | Tensor) -> Tree:
    return tree_map(lambda tensor: tensor[rows], tree)
