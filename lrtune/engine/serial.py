"""SerialPool: one slot after the other. Runs any model."""

import time
import traceback
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lrtune.engine.optimizers import make_optimizer, settings_of
from lrtune.engine.order import (
    INITIAL_WEIGHTS,
    UPDATE_NOISE,
    VALIDATION_NOISE,
    BatchOrder,
    reseed,
)
from lrtune.engine.pool import Progress
from lrtune.errors import InputError
from lrtune.tasks import Task

EVALUATION_BATCH = 1024


@dataclass(slots=True)
class _Trial:
    """What occupies a slot."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    rates: list[float]
    seed: int
    update: int = 0


class SerialPool:
    """The Pool with plain autograd: data resident on the device, torch's fused optimizers."""

    def __init__(self, task: Task, slots: int = 1, device: str = "cpu") -> None:
        """Move the data to the device.

        Args:
            task: what is trained.
            slots: K, at least 1; here they take turns.
            device: as torch names it: cpu, cuda, cuda:1.
        """
        settings_of(task.optimizer, task.settings)
        if slots < 1:
            raise InputError(f"slots={slots}: at least 1")
        self.task = task
        self.slots = slots
        self._device = torch.device(device)
        if self._device.type == "cuda" and self._device.index is None:
            self._device = torch.device("cuda", torch.cuda.current_device())
        self._prepare = deepcopy(task.prepare).to(self._device)
        self._train, self._val = (
            [tensor.to(self._device) for tensor in split] for split in (task.train, task.val)
        )
        self._order = BatchOrder(len(task.train.targets), task.batch_size, self._device)
        self._checkpoints = task.checkpoints
        self._trials: list[_Trial | None] = [None] * slots

    def admit(self, slot: int, rates: NDArray[np.float64], seed: int) -> Progress:
        """See Pool."""
        if self._trials[slot] is not None:
            raise RuntimeError(f"slot {slot} is occupied: release it first")
        _check_rates(rates, self.task.horizon)
        with self._own_generators():
            reseed(self._device, seed, INITIAL_WEIGHTS)
            model = self.task.model().to(self._device)
        optimizer = make_optimizer(self.task.optimizer, self.task.settings, model)
        trial = _Trial(model, optimizer, rates.tolist(), seed)
        self._trials[slot] = trial
        return self._guarded(slot, trial, train=False)

    def revise(self, slot: int, rates: NDArray[np.float64]) -> None:
        """See Pool."""
        trial = self._trials[slot]
        if trial is None:
            raise RuntimeError(f"slot {slot} is free: there is nothing to revise")
        _check_rates(rates, self.task.horizon)
        trial.rates = rates.tolist()

    def advance(self) -> list[Progress]:
        """See Pool."""
        return [
            self._guarded(slot, trial, train=True)
            for slot, trial in enumerate(self._trials)
            if trial is not None
        ]

    def release(self, slot: int) -> None:
        """See Pool."""
        self._trials[slot] = None

    def try_updates(self, count: int) -> None:
        """Train a throw-away trial for ``count`` updates at rate zero, to see what they take."""
        with self._own_generators():
            model = self.task.model().to(self._device).train()
            optimizer = make_optimizer(self.task.optimizer, self.task.settings, model)
            trial = _Trial(model, optimizer, [0.0] * count, seed=0)
            for trial.update in range(count):
                self._step(trial)

    def _guarded(self, slot: int, trial: _Trial, *, train: bool) -> Progress:
        """A segment and its validation; an error of the model becomes the trial's end."""
        start = time.perf_counter()
        losses: NDArray[np.float64] = np.empty(0)
        try:
            if train:
                losses = self._segment(trial)
            loss, metrics = self._validate(trial)
        except Exception as error:  # whatever a user's model may raise ends this trial alone
            return Progress(
                slot,
                trial.update,
                float("nan"),
                {},
                seconds=time.perf_counter() - start,
                error=f"{type(error).__name__}: {error}",
                traceback=traceback.format_exc(),
            )
        seconds = time.perf_counter() - start
        return Progress(slot, trial.update, loss, metrics, losses, seconds)

    def _segment(self, trial: _Trial) -> NDArray[np.float64]:
        if trial.update == self.task.horizon:
            raise RuntimeError("the trial is over: release its slot")
        stop = int(self._checkpoints[np.searchsorted(self._checkpoints, trial.update, "right")])
        trial.model.train()
        losses = []
        with self._own_generators():
            while trial.update < stop:
                losses.append(self._step(trial))
                trial.update += 1
        return torch.stack(losses).double().cpu().numpy()

    def _step(self, trial: _Trial) -> Tensor:
        index = self._order.batch(trial.seed, trial.update)
        reseed(self._device, trial.seed, UPDATE_NOISE, trial.update)
        for group in trial.optimizer.param_groups:
            group["lr"] = trial.rates[trial.update]
        inputs, targets = (tensor[index] for tensor in self._train)
        with self._autocast():
            loss = self.task.loss(trial.model(self._prepare(inputs)), targets)
        trial.optimizer.zero_grad()
        loss.backward()
        trial.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def _validate(self, trial: _Trial) -> tuple[float, dict[str, float]]:
        trial.model.eval()
        inputs, targets = self._val
        with self._own_generators(), self._autocast():
            reseed(self._device, trial.seed, VALIDATION_NOISE, trial.update)
            parts = [trial.model(self._prepare(part)) for part in inputs.split(EVALUATION_BATCH)]
        outputs = torch.cat(parts)
        # Autocast's bfloat16 is scored in float32; a float64 model keeps its digits.
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        metrics = {m.name: float(m.function(outputs, targets)) for m in self.task.metrics}
        return float(self.task.loss(outputs, targets)), metrics

    def _autocast(self) -> AbstractContextManager[object]:
        if self._device.type == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return nullcontext()

    def _own_generators(self) -> AbstractContextManager[object]:
        """Whatever is drawn inside leaves the caller's generators as they were."""
        return torch.random.fork_rng([self._device] if self._device.type == "cuda" else [])


def _check_rates(rates: NDArray[np.float64], horizon: int) -> None:
    if rates.shape != (horizon,):
        raise ValueError(f"rates has shape {rates.shape}, expected ({horizon},)")
