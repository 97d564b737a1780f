"""SerialPool: one slot after the other. Runs any model."""

import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lrtune.engine.checkpoint import whole
from lrtune.engine.device_task import (
    DeviceTask,
    Parts,
    attempt,
    compile_alone,
    is_out_of_memory,
    numbers_of,
    to_host,
)
from lrtune.engine.evaluate import Blocks, Forward, evaluate
from lrtune.engine.graphs import capture
from lrtune.engine.optimizers import (
    capture_settings,
    cooled,
    decay_weights,
    make_optimizer,
    packed,
    set_momentum,
    unpacked,
)
from lrtune.engine.pool import (
    NO_SETTINGS,
    SCHEDULE_FREE,
    SMOOTHING,
    UPDATE_NOISE,
    Array,
    EvalResult,
    Pool,
    Progress,
    Snapshot,
    check_free,
    reseed,
)
from lrtune.errors import InputError
from lrtune.tasks import Split, Task
from lrtune.tasks.groups import COOLDOWN, RATIO
from lrtune.tasks.splits import Tree, laid_out, leaves, tree_map

BATCH_NORMS = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm
GATHERED = 50  # updates whose batches give the statistics of averaged weights


class Average:
    """Weights and floating-point buffers, averaged over the last updates by torch's EMA.

    Torch's AveragedModel copies its count to the device at each look, averages whole numbers, and
    with a decay that changes would be part of a cycle, so that the memory of a trial that is over
    would wait for the collector.

    Attributes:
        model: with averaged weights.
        updates: how many there have been.
    """

    def __init__(self, model: nn.Module, shares: Array) -> None:
        """Begin with the model as it is.

        Args:
            model: whose weights are averaged.
            shares: (horizon,), see ``ema_shares``.
        """
        self.model = deepcopy(model)
        self.updates = 0
        self._shares = shares

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after an update, if this one is looked at."""
        share = float(self._shares[self.updates])
        self.updates += 1
        if not share:
            return
        means, newest = [], []
        for (_, mean), (_, new) in zip(_tensors(self.model), _tensors(model), strict=True):
            if mean.is_floating_point():
                means.append(mean)
                newest.append(new)
            else:  # an index or a count has no mean
                mean.copy_(new)
        get_ema_multi_avg_fn(1 - share)(means, newest, self.updates)


class Captured:
    """One update of a model that stays, on CUDA as one graph from the third call on.

    A graph repeats the kernels of one call on the tensors of that call. So it is not made of what
    waits for the device, which may decide by what it reads there, nor of what changes or draws
    something on the host.
    """

    def __init__(
        self, update: Callable[[Split], Tensor], modules: Sequence[object], device: torch.device
    ) -> None:
        """Wait for the first call.

        Args:
            update: of a batch; gives the loss.
            modules: whose numbers no update may change.
            device: where all tensors are.
        """
        self._update = update
        self._modules = modules
        self._device = device
        self._never = device.type != "cuda"
        self._calls = 0
        self._batch: Split | None = None  # the tensors that the graph reads
        self._replay: Callable[[], Tensor] | None = None
        self._stream = None if self._never else torch.cuda.Stream(device)

    def __call__(self, batch: Split) -> Tensor:
        """The loss, which the next call overwrites."""
        if self._never:
            return self._update(batch)
        if self._batch is None:
            self._batch = Split(*tree_map(torch.clone, tuple(batch)))
        for ours, new in zip(leaves(self._batch), leaves(batch), strict=True):
            ours.copy_(new, non_blocking=True)
        if self._replay is None:
            self._calls += 1
            if self._calls < 3:
                return self._warm_up(self._batch)
            try:
                self._replay = self._capture(self._batch)
            except Exception as error:  # nothing has been computed so far
                if is_out_of_memory(error):
                    raise
                self._never = True
                return self._update(self._batch)
        return self._replay()

    def _warm_up(self, batch: Split) -> Tensor:
        """An update as it is, on the graph's stream; the second, with all compiled, is watched."""
        assert self._stream is not None
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            loss = self._update(batch) if self._calls == 1 else self._watched(batch)
        current.wait_stream(self._stream)
        return loss

    def _watched(self, batch: Split) -> Tensor:
        before, mode = self._host(), torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                loss = self._update(batch)
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        waits = any("called a synchronizing" in str(warning.message) for warning in seen)
        self._never = waits or self._host() != before
        return loss

    def _capture(self, batch: Split) -> Callable[[], Tensor]:
        losses: list[Tensor] = []
        again = capture(lambda: losses.append(self._update(batch)), self._stream)

        def replay() -> Tensor:
            again()
            return losses[0]

        return replay

    def _host(self) -> list[object]:
        """What a graph would not change."""
        generators = torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())
        return [*map(numbers_of, self._modules), *generators]


@dataclass(slots=True)
class _Trial:
    """What occupies a slot."""

    slot: int
    model: nn.Module
    optimizer: torch.optim.Optimizer
    train: Callable[[Split], Tensor]  # one update on a batch; gives the loss
    average: Average | None
    rates: list[float]
    seed: int
    momenta: Array | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    update: int = 0
    # Of the present segment:
    peak: float = 0.0
    losses: Tensor = field(default_factory=lambda: torch.empty(0))
    seconds: float = 0.0
    failure: Progress | None = None


class SerialPool(Pool):
    """The Pool with plain autograd and torch's fused optimizers."""

    def __init__(
        self, task: Task, slots: int = 1, device: str = "cpu", *, compiled: bool = False
    ) -> None:
        """Move the data to the device where it fits.

        Args:
            task: what is trained.
            slots: K, at least 1; here they take turns.
            device: as torch names it: cpu, cuda, cuda:1.
            compiled: run model and loss through ``torch.compile``, and on CUDA whole updates as a
                graph; the first update then takes long. A slot's trials follow each other in one
                model: a new one would be compiled for, or captured, anew.
        """
        self.device_task = DeviceTask(task, slots, device)
        self.task = task
        self.slots = slots
        self.placement = self.device_task.placement
        self._device = self.device_task.device
        self._compiled = compiled
        self._loss = compile_alone(_loss) if compiled else _loss
        self._trials: list[_Trial | None] = [None] * slots
        self._kept: dict[int, _Trial] = {}  # by slot, where compiled: the last one
        self._untrained: dict[tuple[int, bool], Progress] = {}  # by seed, and whether schedule-free

    def start(
        self,
        slot: int,
        rates: Array,
        seed: int,
        momenta: Array | None = None,
        settings: Mapping[str, Any] = NO_SETTINGS,
    ) -> Progress:
        """See Pool."""
        check_free(slot, self._trials[slot] is not None)
        self.device_task.check_tables(rates, momenta)
        trial = self._trials[slot] = self._fresh(slot, rates.tolist(), seed, momenta, settings)
        known = self._untrained.get(kind := (seed, SCHEDULE_FREE in settings))
        if known is not None:
            return replace(known, slot=slot, seconds=0.0)
        progress = self._progress(trial)
        if progress.error is None:
            self._untrained[kind] = progress
        return progress

    def revise(self, slot: int, rates: Array) -> None:
        """See Pool."""
        self.device_task.check_tables(rates)
        self._occupant(slot).rates = rates.tolist()

    def advance(self) -> list[Progress]:
        """See Pool."""
        reached = []
        for group in self._in_step():
            self._train_segment(group)
            reached += [self._progress(trial) for trial in group]
        return sorted(reached, key=lambda progress: progress.slot)

    def evaluate(self, slot: int) -> Progress:
        """See Pool."""
        blocks = Blocks(self.device_task.objective, self.device_task.test.samples)
        progress = self._progress(self._occupant(slot), blocks)
        return replace(progress, blocks=blocks.scores() if progress.error is None else [])

    def release(self, slot: int) -> None:
        """See Pool."""
        trial, self._trials[slot] = self._trials[slot], None
        others = {(other.seed, other.update) for other in self._trials if other is not None}
        if trial is not None and (trial.seed, trial.update) not in others:
            self.device_task.train.forget(trial.seed, trial.update)

    def snapshot(self, slot: int) -> Snapshot:
        """See Pool."""
        trial = self._occupant(slot)
        tensors = {f"weights/{name}": tensor for name, tensor in _tensors(trial.model)}
        optimizer = ""
        if not isinstance(self.task.optimizer, str) or _averages(trial.optimizer):
            optimizer = packed(trial.optimizer.state_dict(), tensors)
        for name, parameter in trial.model.named_parameters() if not optimizer else ():
            for state, value in trial.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{name}/{state}"] = value
        if trial.average is not None:
            tensors |= {f"average/{name}": t for name, t in _tensors(trial.average.model)}
        tables = np.array(trial.rates), to_host(tensors), trial.momenta
        return Snapshot(trial.seed, trial.update, *tables, optimizer, trial.settings)

    @torch.no_grad()
    def restore(self, slot: int, snapshot: Snapshot) -> None:
        """See Pool."""
        check_free(slot, self._trials[slot] is not None)
        self.device_task.check_tables(snapshot.rates, snapshot.momenta)
        snapshot = whole(snapshot)
        own = snapshot.seed, snapshot.momenta, snapshot.settings
        trial = self._fresh(slot, snapshot.rates.tolist(), *own)
        trial.update = snapshot.update
        for name, tensor in _tensors(trial.model):
            tensor.copy_(snapshot.tensors[f"weights/{name}"])
        if snapshot.optimizer:
            trial.optimizer.load_state_dict(unpacked(snapshot.optimizer, snapshot.tensors))
        else:
            _restore_optimizer(trial, snapshot.tensors)
        if trial.average is not None:
            trial.average.updates = snapshot.update
            for name, tensor in _tensors(trial.average.model):
                tensor.copy_(snapshot.tensors[f"average/{name}"])
        self._trials[slot] = trial

    def try_updates(self, count: int) -> None:
        """Train throw-away trials in all slots at rate zero, to see what time and room they take.

        Args:
            count: of updates, at most the horizon.
        """
        if any(self._trials):
            raise RuntimeError("there are trials in the pool, whose models this needs")
        trials = [self._fresh(slot, [0.0] * count, seed=0) for slot in range(self.slots)]
        with self.device_task.training():
            for batch in self.device_task.updates(0, 0, count):
                for trial in trials:
                    self._step(trial, batch)
                    trial.update += 1
        self.device_task.train.forget(0, count)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # until then updates are only queued

    def try_validation(self, samples: int) -> None:
        """Validate throw-away trials in all slots, on the first samples alone."""
        with self.device_task.val.begun(samples):
            for slot in range(self.slots):
                self._evaluate(self._fresh(slot, [], seed=0), None)

    def _fresh(
        self,
        slot: int,
        rates: list[float],
        seed: int,
        momenta: Array | None = None,
        tuned: Mapping[str, Any] = NO_SETTINGS,
    ) -> _Trial:
        """A trial at its start, in the model of the slot's last one where it can serve again."""
        model = self.device_task.model(seed)
        last = self._kept.get(slot)
        if last is not None and numbers_of(last.model.train()) == numbers_of(model):
            _copy(model, last.model)
            model = last.model
            model.zero_grad(set_to_none=False)  # in place: a graph may add to what no optimizer has
        else:
            last = None
        shares = self.device_task.average_shares
        average = None if shares is None else Average(model, shares)
        settings = None
        if self._compiled and momenta is None and SCHEDULE_FREE not in tuned:
            settings = capture_settings(self.task, self._device)
        alike = last is not None and last.settings == tuned and isinstance(last.train, Captured)
        if settings is not None and last is not None and alike:
            optimizer = last.optimizer
            train: Callable[[Split], Tensor] = last.train
            for value in chain.from_iterable(each.values() for each in optimizer.state.values()):
                if isinstance(value, Tensor):
                    value.zero_()
        else:
            optimizer = make_optimizer(self.task, model, settings, tuned)
            train = partial(
                _update, self.device_task, self._loss, model, optimizer, self._smoothing(tuned)
            )
            if settings is not None:
                modules = [model, self.device_task.prepare, self.device_task.loss]
                train = Captured(train, modules, self._device)
        if _averages(optimizer):
            free: Any = optimizer
            free.train()
            average = None
        trial = _Trial(slot, model, optimizer, train, average, rates, seed, momenta, tuned)
        if self._compiled and (last is None or settings is not None):
            self._kept[slot] = trial
        return trial

    def _smoothing(self, settings: Mapping[str, Any]) -> Tensor | None:
        """Of a trial's loss, on the device; a compiler would make a number part of the program."""
        if SMOOTHING not in settings:
            return None
        return torch.tensor(settings[SMOOTHING], dtype=torch.float64, device=self._device)

    def _occupant(self, slot: int) -> _Trial:
        trial = self._trials[slot]
        if trial is None:
            raise RuntimeError(f"slot {slot} is free: there is no trial in it")
        return trial

    def _in_step(self) -> list[list[_Trial]]:
        """The trials that see the same batches together, where reading those is dear."""
        groups: dict[object, list[_Trial]] = {}
        for trial in self._trials:
            if trial is not None:
                shared = self.device_task.train.shared
                key = (trial.seed, trial.update) if shared else trial.slot
                groups.setdefault(key, []).append(trial)
        return list(groups.values())

    def _train_segment(self, group: list[_Trial]) -> None:
        first, seed = group[0].update, group[0].seed
        stop = self.device_task.next_validation(first)
        began = time.perf_counter()
        for trial in group:
            trial.model.train()
            trial.failure = None
            trial.peak = max(trial.rates)
            # Room for all: a small tensor kept from each step would lie between the large ones
            # that come and go, and no gap would ever fit the next one.
            trial.losses = torch.empty(stop - first, dtype=torch.float64, device=self._device)
        with self.device_task.training():
            for done, batch in enumerate(self.device_task.updates(seed, first, stop)):
                alive = [trial for trial in group if trial.failure is None]
                if not alive:
                    break
                for trial in alive:
                    loss = attempt(partial(self._step, trial, batch))
                    if isinstance(loss, Exception):  # this trial's end and nobody else's
                        trial.failure = Progress.at(trial.slot, trial.update, loss, 0.0)
                    else:
                        trial.losses[done] = loss
                        trial.update += 1
        for trial in group:
            trial.seconds = (time.perf_counter() - began) / len(group)

    def _step(self, trial: _Trial, batch: Split) -> Tensor:
        reseed(self._device, trial.seed, UPDATE_NOISE, trial.update)
        for group in trial.optimizer.param_groups:
            left = 1 - trial.update / self.task.horizon
            rate = trial.rates[trial.update] * cooled(group.get(COOLDOWN, 0.0), left)
            decay_weights(group, rate, trial.peak)
            rate *= group[RATIO]
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
            if trial.momenta is not None:
                set_momentum(group, float(trial.momenta[trial.update]))
        loss = trial.train(batch)
        if trial.average is not None:
            trial.average.update(trial.model)
        return loss

    def _progress(self, trial: _Trial, blocks: Blocks | None = None) -> Progress:
        """Validate, or judge on the test split, and tell of the segment."""
        began = time.perf_counter()
        losses = trial.losses.cpu().numpy()
        progress = trial.failure
        if progress is None:
            result = attempt(partial(self._evaluate, trial, blocks))
            progress = Progress.at(trial.slot, trial.update, result, 0.0, losses=losses)
        seconds, trial.seconds = trial.seconds + time.perf_counter() - began, 0.0
        return replace(progress, seconds=seconds)

    def _evaluate(self, trial: _Trial, blocks: Blocks | None) -> EvalResult | Exception:
        task = self.device_task
        loader = task.val if blocks is None else task.test
        averaged = None if trial.average is None else trial.average.model
        with self._averaged(trial) if _averages(trial.optimizer) else nullcontext(averaged) as mean:
            measured = task.measured(trial.model, mean)
            forwards = [(_forward(task, model.eval()), metrics) for model, metrics in measured]
            noise = trial.seed, trial.update
            return loader.over(lambda: evaluate(task, forwards, {}, blocks, noise)[0])

    @contextmanager
    def _averaged(self, trial: _Trial) -> Iterator[nn.Module | None]:
        """In it the model of a schedule-free optimizer has the weights that are averaged.

        Statistics of batch norm are of the weights that train; they are gathered anew from the
        batches of the last updates, as the package's README says, and set back in the end.
        """
        kept = [tensor.detach().clone() for _, tensor in _tensors(trial.model)]
        optimizer: Any = trial.optimizer
        optimizer.eval()
        try:
            if any(isinstance(part, BATCH_NORMS) for part in trial.model.modules()):
                self._gather(trial)
            yield None if self.device_task.average_shares is None else trial.model
        finally:
            optimizer.train()
            with torch.no_grad():
                for (_, tensor), old in zip(_tensors(trial.model), kept, strict=True):
                    tensor.copy_(old)

    @torch.no_grad()
    def _gather(self, trial: _Trial) -> None:
        task = self.device_task
        if task.train.shared:
            raise InputError("schedule_free: batch norm needs the data in memory: see --memory")
        trial.model.train()
        with task.training(), task.autocast():
            reseed(self._device, trial.seed, UPDATE_NOISE, trial.update)
            for batch in task.updates(trial.seed, max(0, trial.update - GATHERED), trial.update):
                inputs, _ = task.inputs(batch)
                task.task.outputs(trial.model, laid_out(inputs, task.task.layout))


def _averages(optimizer: Any) -> bool:
    """Whether it is schedule-free: it has one mode for training, one for evaluation."""
    return hasattr(optimizer, "train") and hasattr(optimizer, "eval")


def _forward(task: DeviceTask, model: nn.Module) -> Forward:
    def forward(inputs: Tree, _: int) -> Tree:
        with task.autocast():
            outputs = task.task.outputs(model, laid_out(inputs, task.task.layout))
        return tree_map(lambda tensor: tensor[None], outputs)

    return forward


def _update(
    task: DeviceTask,
    loss_of: Callable[[DeviceTask, nn.Module, Tree, Parts, Tensor | None], Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    smoothing: Tensor | None,
    batch: Split,
) -> Tensor:
    with task.autocast():
        loss = loss_of(task, model, *task.inputs(batch), smoothing)
    optimizer.zero_grad()
    loss.backward()
    if task.task.clip_norm is not None:
        clip_grad_norm_(model.parameters(), task.task.clip_norm)
    optimizer.step()
    return loss.detach()


def _loss(
    task: DeviceTask, model: nn.Module, inputs: Tree, parts: Parts, smoothing: Tensor | None
) -> Tensor:
    outputs = task.task.outputs(model, laid_out(inputs, task.task.layout))
    return task.loss_of(outputs, parts, smoothing)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


@torch.no_grad()
def _copy(source: nn.Module, target: nn.Module) -> None:
    for (_, new), (_, old) in zip(_tensors(source), _tensors(target), strict=True):
        old.copy_(new)


@torch.no_grad()
def _restore_optimizer(trial: _Trial, tensors: dict[str, Tensor]) -> None:
    """In place where it has been used; else by ``load_state_dict``, which knows what goes where."""
    names: dict[Tensor, str] = {p: name for name, p in trial.model.named_parameters()}
    for parameter, state in trial.optimizer.state.items():
        for kind, value in state.items():
            if isinstance(value, Tensor):
                value.copy_(tensors.get(f"optimizer/{names[parameter]}/{kind}", value))
    if trial.optimizer.state:
        return
    content = trial.optimizer.state_dict()
    states: dict[int, dict[str, Any]] = {}
    for ours, theirs in zip(trial.optimizer.param_groups, content["param_groups"], strict=True):
        for parameter, index in zip(ours["params"], theirs["params"], strict=True):
            prefix = f"optimizer/{names[parameter]}/"
            state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            if state:
                states[index] = {name: value.clone() for name, value in state.items()}
    trial.optimizer.load_state_dict({**content, "state": states})
