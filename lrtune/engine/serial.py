"""SerialPool: one slot after the other. Runs any model."""

import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from lrtune.engine.average import Average
from lrtune.engine.feed import feed
from lrtune.engine.optimizers import make_optimizer, settings_of
from lrtune.engine.order import INITIAL_WEIGHTS, UPDATE_NOISE, VALIDATION_NOISE, reseed
from lrtune.engine.pool import Progress
from lrtune.errors import InputError
from lrtune.tasks import Split, Task
from lrtune.tasks.augment import augment
from lrtune.tasks.tree import Tree, concat, laid_out, leaves, tree_map


@dataclass(slots=True)
class _Trial:
    """What occupies a slot."""

    slot: int
    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: Average | None
    rates: list[float]
    seed: int
    update: int = 0
    # Of the present segment:
    losses: Tensor = field(default_factory=lambda: torch.empty(0))
    seconds: float = 0.0
    error: str | None = None
    traceback: str = ""

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """An error of the user's model becomes this trial's end and nobody else's."""
        try:
            yield
        except InputError:  # the data's fault, not the trial's: all of the search stops
            raise
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"
            self.traceback = traceback.format_exc()


class SerialPool:
    """The Pool with plain autograd and torch's fused optimizers."""

    def __init__(self, task: Task, slots: int = 1, device: str = "cpu") -> None:
        """Move the data to the device where it fits.

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
        loss = task.loss
        self._loss = deepcopy(loss).to(self._device) if isinstance(loss, nn.Module) else loss
        self._val = feed(task.val, task, self._device, slots)  # first: it is read more often
        self._train = feed(task.train, task, self._device, slots)
        self.placement = {"train": self._train.placement, "val": self._val.placement}
        self._checkpoints = task.checkpoints
        self._trials: list[_Trial | None] = [None] * slots

    def admit(self, slot: int, rates: NDArray[np.float64], seed: int) -> Progress:
        """See Pool."""
        if self._trials[slot] is not None:
            raise RuntimeError(f"slot {slot} is occupied: release it first")
        _check_rates(rates, self.task.horizon)
        trial = self._trials[slot] = self._fresh(slot, rates.tolist(), seed)
        return self._progress(trial)

    def revise(self, slot: int, rates: NDArray[np.float64]) -> None:
        """See Pool."""
        trial = self._trials[slot]
        if trial is None:
            raise RuntimeError(f"slot {slot} is free: there is nothing to revise")
        _check_rates(rates, self.task.horizon)
        trial.rates = rates.tolist()

    def advance(self) -> list[Progress]:
        """See Pool."""
        reached = []
        for group in self._in_step():
            self._train_segment(group)
            reached += [self._progress(trial) for trial in group]
        return sorted(reached, key=lambda progress: progress.slot)

    def release(self, slot: int) -> None:
        """See Pool."""
        trial, self._trials[slot] = self._trials[slot], None
        others = {(other.seed, other.update) for other in self._trials if other is not None}
        if trial is not None and (trial.seed, trial.update) not in others:
            self._train.forget(trial.seed, trial.update)

    def try_updates(self, count: int) -> None:
        """Train a throw-away trial for ``count`` updates at rate zero, to see what they take."""
        trial = self._fresh(0, [0.0] * count, seed=0)
        self._prepare.train()
        with self._own_generators():
            for trial.update, batch in enumerate(self._train.updates(0, 0, count)):
                self._step(trial, batch)

    def _fresh(self, slot: int, rates: list[float], seed: int) -> _Trial:
        with self._own_generators():
            reseed(self._device, seed, INITIAL_WEIGHTS)
            model = self.task.model().to(self._device).train()
            model = model.to(memory_format=self.task.layout)
        share = self.task.ema
        average = None if share is None else Average(model, share * self.task.horizon)
        return _Trial(slot, model, make_optimizer(self.task, model), average, rates, seed)

    def _in_step(self) -> list[list[_Trial]]:
        """The trials that see the same batches together, where reading those is dear."""
        groups: dict[object, list[_Trial]] = {}
        for trial in self._trials:
            if trial is not None:
                key = (trial.seed, trial.update) if self._train.shared else trial.slot
                groups.setdefault(key, []).append(trial)
        return list(groups.values())

    def _train_segment(self, group: list[_Trial]) -> None:
        start, seed = group[0].update, group[0].seed
        if start == self.task.horizon:
            raise RuntimeError("the trial is over: release its slot")
        stop = int(self._checkpoints[np.searchsorted(self._checkpoints, start, "right")])
        began = time.perf_counter()
        self._prepare.train()
        for trial in group:
            trial.model.train()
            trial.error = None
            # Room for all: a small tensor kept from each step would lie between the large ones
            # that come and go, and no gap would ever fit the next one.
            trial.losses = torch.empty(stop - start, dtype=torch.float64, device=self._device)
        with self._own_generators():
            for done, batch in enumerate(self._train.updates(seed, start, stop)):
                alive = [trial for trial in group if trial.error is None]
                if not alive:
                    break
                for trial in alive:
                    with trial.guarded():
                        trial.losses[done] = self._step(trial, batch)
                        trial.update += 1
        for trial in group:
            trial.seconds = (time.perf_counter() - began) / len(group)

    def _step(self, trial: _Trial, batch: Split) -> Tensor:
        reseed(self._device, trial.seed, UPDATE_NOISE, trial.update)
        with self._autocast():
            inputs = self._prepare(batch.inputs)
            inputs, parts = augment(self.task.augment, inputs, batch.targets)
            outputs = trial.model(laid_out(inputs, self.task.layout))
            losses = [self._loss(outputs, targets) for _, targets in parts]
            loss = losses[0]
            if len(parts) > 1:  # mixed targets
                loss = torch.stack(
                    [w * one for (w, _), one in zip(parts, losses, strict=True)]
                ).sum()
        for group in trial.optimizer.param_groups:
            group["lr"] = trial.rates[trial.update] * group["lr_ratio"]
        trial.optimizer.zero_grad()
        loss.backward()
        if self.task.clip_norm is not None:
            clip_grad_norm_(trial.model.parameters(), self.task.clip_norm)
        trial.optimizer.step()
        if trial.average is not None:
            trial.average.update(trial.model)
        return loss.detach()

    def _progress(self, trial: _Trial) -> Progress:
        """Validate, and tell of the segment."""
        start = time.perf_counter()
        loss, metrics = float("nan"), dict[str, float]()
        losses = trial.losses.cpu().numpy()
        if trial.error is None:
            with trial.guarded():
                loss, metrics = self._validate(trial)
        seconds = trial.seconds + time.perf_counter() - start
        told = Progress(
            trial.slot,
            trial.update,
            loss,
            metrics,
            losses if trial.error is None else np.empty(0),
            seconds,
            trial.error,
            trial.traceback,
        )
        trial.seconds = 0.0
        return told

    @torch.no_grad()
    def _validate(self, trial: _Trial) -> tuple[float, dict[str, float]]:
        """The loss and the metrics on val, of the averaged weights where there are any."""
        model = trial.model if trial.average is None else trial.average.model
        model.eval()
        self._prepare.eval()
        by_batch = {m.name: m.function for m in self.task.metrics if m.over == "batch"}
        by_split = {m.name: m.function for m in self.task.metrics if m.over == "split"}
        sums = dict.fromkeys(("", *by_batch), torch.zeros((), dtype=torch.float64))
        kept: list[tuple[Tree, Tree]] = []
        samples = 0
        with self._own_generators():
            reseed(self._device, trial.seed, VALIDATION_NOISE, trial.update)
            for inputs, targets in self._val.whole():
                with self._autocast():
                    outputs = tree_map(
                        _exact, model(laid_out(self._prepare(inputs), self.task.layout))
                    )
                count = len(next(leaves(targets)))
                samples += count
                for name, function in {"": self._loss, **by_batch}.items():
                    figure = torch.as_tensor(function(outputs, targets), dtype=torch.float64)
                    sums[name] = sums[name].to(figure.device) + count * figure
                if by_split:
                    kept.append((outputs, targets))
        means = {name: float(total) / samples for name, total in sums.items()}
        if by_split:
            means |= {name: float(f(*concat(kept))) for name, f in by_split.items()}
        return means[""], {m.name: means[m.name] for m in self.task.metrics}

    def _autocast(self) -> AbstractContextManager[object]:
        kind = self._device.type
        if (self.task.precision or ("bfloat16" if kind == "cuda" else "float32")) == "bfloat16":
            return torch.autocast(kind, torch.bfloat16)
        return nullcontext()

    def _own_generators(self) -> AbstractContextManager[object]:
        """Whatever is drawn inside leaves the caller's generators as they were."""
        return torch.random.fork_rng([self._device] if self._device.type == "cuda" else [])


def _exact(outputs: Tensor) -> Tensor:
    """Autocast's bfloat16 is scored in float32; a float64 model keeps its digits."""
    if not outputs.is_floating_point():
        return outputs
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def _check_rates(rates: NDArray[np.float64], horizon: int) -> None:
    if rates.shape != (horizon,):
        raise ValueError(f"rates has shape {rates.shape}, expected ({horizon},)")
