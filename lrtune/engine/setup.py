"""Setup: a task on its device, and what every Pool does alike with it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lrtune.engine.allocator import keep_memory
from lrtune.engine.average import newest_shares
from lrtune.engine.blocks import Blocks
from lrtune.engine.feed import Feed, feed
from lrtune.engine.optimizers import check_momentum, settings_of
from lrtune.engine.order import INITIAL_WEIGHTS, reseed
from lrtune.errors import InputError
from lrtune.tasks import Split, Task
from lrtune.tasks.images import augment
from lrtune.tasks.metrics import Metric
from lrtune.tasks.splits import Tree

LOOKS = 4  # at the weights, within the length of an average that nobody asked to be exact
Function = TypeVar("Function", bound=Callable[[Any, Any], Any])
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
        self.loss = self._placed(task.loss)
        self.metrics = tuple(
            replace(m, function=self.loss if m.function is task.loss else self._placed(m.function))
            for m in task.metrics
        )
        self.val = feed(task.val, task, self.device, slots)  # first: it is read more often
        self.train = feed(task.train, task, self.device, slots)
        if self.device.type == "cpu" and not self.train.shared:
            keep_memory()  # a stream's user has said how much there is to be
        self.placement = {"train": self.train.placement, "val": self.val.placement}

    @cached_property
    def checkpoints(self) -> NDArray[np.int64]:
        """As the task's."""
        return self.task.checkpoints

    @cached_property
    def test(self) -> Feed:
        """The test split; validation where there is none."""
        split = self.task.test
        return self.val if split is None else feed(split, self.task, self.device, slots=1)

    def blocks(self) -> Blocks:
        """For the objective on the test split."""
        split = self.task.val if self.task.test is None else self.task.test
        return Blocks(self.objective, split.samples)

    @cached_property
    def newest(self) -> NDArray[np.float64] | None:
        """(horizon,) See ``newest_shares``; None where no weights are averaged."""
        share = self.task.ema or self.task.average
        if share is None:
            return None
        length = share * self.task.horizon
        stride = 1 if self.task.ema else max(1, int(length / LOOKS))
        return newest_shares(length, self.checkpoints, stride)

    @property
    def measured(self) -> tuple[Metric, ...]:
        """The loss, and the task's metrics."""
        loss = Metric("loss", self.loss, "minimize", over="batch")
        return loss, *self.metrics

    @property
    def objective(self) -> Metric:
        """The task's, on the device."""
        return self.metrics[0]

    def _placed(self, function: Function) -> Function:
        """A loss or a metric on the device: those that are modules may hold tensors."""
        if isinstance(function, nn.Module):
            return deepcopy(function).to(self.device)
        return function

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

    def check_momenta(self, momenta: NDArray[np.float64] | None) -> None:
        """The same of a momentum cycle, and refuse any where the optimizer has no momentum."""
        if momenta is None:
            return
        check_momentum(self.task.optimizer)
        if momenta.shape != (self.task.horizon,):
            raise ValueError(f"momenta has shape {momenta.shape}, expected ({self.task.horizon},)")
