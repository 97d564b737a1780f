"""Setup: a task on its device, and what every Pool does alike with it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lrtune.engine.allocator import keep_memory
from lrtune.engine.feed import feed
from lrtune.engine.optimizers import settings_of
from lrtune.engine.order import INITIAL_WEIGHTS, reseed
from lrtune.errors import InputError
from lrtune.tasks import Split, Task
from lrtune.tasks.augment import augment
from lrtune.tasks.tree import Tree, concat, leaves, tree_map

Parts = list[tuple[Tensor | float, Tree]]  # weights, and the targets that they belong to


class Setup:
    """Data where it fits, loss and prepare on the device, and the rules that all Pools share."""

    def __init__(self, task: Task, slots: int, device: str) -> None:
        settings_of(task.optimizer, task.settings)
        if slots < 1:
            raise InputError(f"slots={slots}: at least 1")
        self.task = task
        self.device = torch.device(device)
        if self.device.type == "cpu":
            self.device = torch.device("cpu")  # cpu:0 is the same one, but not equal to it
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", torch.cuda.current_device())
        self.prepare = deepcopy(task.prepare).to(self.device).eval()
        loss = task.loss
        self.loss = deepcopy(loss).to(self.device) if isinstance(loss, nn.Module) else loss
        self.val = feed(task.val, task, self.device, slots)  # first: it is read more often
        self.train = feed(task.train, task, self.device, slots)
        if self.device.type == "cpu" and not self.train.shared:
            keep_memory()  # a stream's user has said how much there is to be
        self.placement = {"train": self.train.placement, "val": self.val.placement}

    @cached_property
    def checkpoints(self) -> NDArray[np.int64]:
        """As the task's."""
        return self.task.checkpoints

    def end_of_segment(self, update: int) -> int:
        """The next validation after this update.

        Raises:
            RuntimeError: there is none.
        """
        if update == self.task.horizon:
            raise RuntimeError("the trial is over: release its slot")
        return int(self.checkpoints[np.searchsorted(self.checkpoints, update, "right")])

    def model(self, seed: int) -> nn.Module:
        """A fresh model in training mode."""
        with self.own_generators():
            reseed(self.device, seed, INITIAL_WEIGHTS)
            model = self.task.model().to(self.device).train()
        return model.to(memory_format=self.task.layout)

    def inputs(self, batch: Split) -> tuple[Tree, Parts]:
        """A stored batch as the model takes it, augmented; generators are to be seeded before."""
        return augment(self.task.augment, self.prepare(batch.inputs), batch.targets)

    def loss_of(self, outputs: Tree, parts: Parts) -> Tensor:
        """The loss, of mixed targets too."""
        losses = [self.loss(outputs, targets) for _, targets in parts]
        if len(parts) == 1:
            return losses[0]
        return torch.stack([w * one for (w, _), one in zip(parts, losses, strict=True)]).sum()

    def autocast(self) -> AbstractContextManager[object]:
        """The task's precision."""
        kind = self.device.type
        if (self.task.precision or ("bfloat16" if kind == "cuda" else "float32")) == "bfloat16":
            return torch.autocast(kind, torch.bfloat16)
        return nullcontext()

    def own_generators(self) -> AbstractContextManager[object]:
        """Whatever is drawn inside leaves the caller's generators as they were."""
        return torch.random.fork_rng([self.device] if self.device.type == "cuda" else [])

    @contextmanager
    def training(self) -> Iterator[None]:
        """``prepare`` in training mode, generators of its own."""
        self.prepare.train()
        try:
            with self.own_generators():
                yield
        finally:
            self.prepare.eval()

    def check_rates(self, rates: NDArray[np.float64]) -> None:
        """Refuse a table of another length than the horizon."""
        if rates.shape != (self.task.horizon,):
            raise ValueError(f"rates has shape {rates.shape}, expected ({self.task.horizon},)")


class Tally:
    """The loss and the metrics of one trial over a split, batch by batch."""

    def __init__(self, setup: Setup) -> None:
        self._metrics = setup.task.metrics
        self._by_batch: dict[str, Callable[[Tree, Tree], Tensor | float]] = {"": setup.loss}
        self._by_batch |= {m.name: m.function for m in self._metrics if m.over == "batch"}
        self._by_split = {m.name: m.function for m in self._metrics if m.over == "split"}
        self._sums = dict.fromkeys(self._by_batch, torch.zeros((), dtype=torch.float64))
        self._kept: list[tuple[Tree, Tree]] = []
        self._samples = 0

    def add(self, outputs: Tree, targets: Tree) -> None:
        """Take in a batch."""
        outputs = tree_map(_exact, outputs)
        count = len(next(leaves(targets)))
        self._samples += count
        for name, function in self._by_batch.items():
            figure = torch.as_tensor(function(outputs, targets), dtype=torch.float64)
            self._sums[name] = self._sums[name].to(figure.device) + count * figure
        if self._by_split:
            self._kept.append((outputs, targets))

    def figures(self) -> tuple[float, dict[str, float]]:
        """The loss, and the metrics in the task's order."""
        means = {name: float(total) / self._samples for name, total in self._sums.items()}
        if self._by_split:
            means |= {name: float(f(*concat(self._kept))) for name, f in self._by_split.items()}
        return means[""], {m.name: means[m.name] for m in self._metrics}


def _exact(outputs: Tensor) -> Tensor:
    """Autocast's bfloat16 is scored in float32; a float64 model keeps its digits."""
    if not outputs.is_floating_point():
        return outputs
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))
