"""SerialPool: one slot after the other. Runs any model."""

import math
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from lrtune.engine.average import Average
from lrtune.engine.blocks import Blocks
from lrtune.engine.compiling import compiled as compile_it
from lrtune.engine.feed import over
from lrtune.engine.optimizers import make_optimizer, set_momentum
from lrtune.engine.order import UPDATE_NOISE, VALIDATION_NOISE, reseed
from lrtune.engine.pool import Progress, Snapshot, free
from lrtune.engine.setup import Parts, Setup
from lrtune.engine.tally import Figures, Scorer, Tally, exact, figures_of, is_out_of_memory
from lrtune.errors import InputError
from lrtune.tasks import Split, Task
from lrtune.tasks.metrics import Metric
from lrtune.tasks.splits import Tree, laid_out, tree_map


@dataclass(slots=True)
class _Trial:
    """What occupies a slot."""

    slot: int
    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: Average | None
    rates: list[float]
    seed: int
    momenta: NDArray[np.float64] | None = None
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
            if is_out_of_memory(error):  # nor is that: where there is room it goes on
                raise
            self.error = f"{type(error).__name__}: {error}"
            self.traceback = traceback.format_exc()


class SerialPool:
    """The Pool with plain autograd and torch's fused optimizers."""

    def __init__(
        self, task: Task, slots: int = 1, device: str = "cpu", *, compiled: bool = False
    ) -> None:
        """Move the data to the device where it fits.

        Args:
            task: what is trained.
            slots: K, at least 1; here they take turns.
            device: as torch names it: cpu, cuda, cuda:1.
            compiled: run model and loss through ``torch.compile``, with CUDA graphs where there is
                CUDA; the first update then takes long.
        """
        self.setup = Setup(task, slots, device)
        self.task = task
        self.slots = slots
        self.placement = self.setup.placement
        self._device = self.setup.device
        self._forward = _forward
        if compiled:
            mode = "reduce-overhead" if self._device.type == "cuda" else None
            self._forward = compile_it(_forward, mode)
        self._trials: list[_Trial | None] = [None] * slots

    def admit(
        self,
        slot: int,
        rates: NDArray[np.float64],
        seed: int,
        momenta: NDArray[np.float64] | None = None,
    ) -> Progress:
        """See Pool."""
        free(slot, self._trials[slot] is not None)
        self.setup.check_rates(rates)
        self.setup.check_momenta(momenta)
        trial = self._trials[slot] = self._fresh(slot, rates.tolist(), seed)
        trial.momenta = momenta
        return self._progress(trial)

    def revise(self, slot: int, rates: NDArray[np.float64]) -> None:
        """See Pool."""
        self.setup.check_rates(rates)
        self._occupant(slot).rates = rates.tolist()

    def advance(self) -> list[Progress]:
        """See Pool."""
        reached = []
        for group in self._in_step():
            self._train_segment(group)
            reached += [self._progress(trial) for trial in group]
        return sorted(reached, key=lambda progress: progress.slot)

    def examine(self, slot: int) -> Progress:
        """See Pool."""
        blocks = self.setup.blocks()
        told = self._progress(self._occupant(slot), blocks)
        return replace(told, blocks=blocks.scores() if told.error is None else [])

    def release(self, slot: int) -> None:
        """See Pool."""
        trial, self._trials[slot] = self._trials[slot], None
        others = {(other.seed, other.update) for other in self._trials if other is not None}
        if trial is not None and (trial.seed, trial.update) not in others:
            self.setup.train.forget(trial.seed, trial.update)

    def snapshot(self, slot: int) -> Snapshot:
        """See Pool."""
        trial = self._occupant(slot)
        found = {f"weights/{name}": tensor for name, tensor in _tensors(trial.model)}
        for name, parameter in trial.model.named_parameters():
            for state, value in trial.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    found[f"optimizer/{name}/{state}"] = value
        if trial.average is not None:
            found |= {f"average/{name}": tensor for name, tensor in _tensors(trial.average.model)}
        kept = {name: tensor.detach().to("cpu", copy=True) for name, tensor in found.items()}
        return Snapshot(trial.seed, trial.update, np.array(trial.rates), kept, trial.momenta)

    @torch.no_grad()
    def restore(self, slot: int, snapshot: Snapshot) -> None:
        """See Pool."""
        free(slot, self._trials[slot] is not None)
        self.setup.check_rates(snapshot.rates)
        self.setup.check_momenta(snapshot.momenta)
        trial = self._fresh(slot, snapshot.rates.tolist(), snapshot.seed)
        trial.update, trial.momenta = snapshot.update, snapshot.momenta
        for name, tensor in _tensors(trial.model):
            tensor.copy_(snapshot.tensors[f"weights/{name}"])
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
        trials = [self._fresh(slot, [0.0] * count, seed=0) for slot in range(self.slots)]
        with self.setup.training():
            for batch in self.setup.train.updates(0, 0, count):
                for trial in trials:
                    self._step(trial, batch)
                    trial.update += 1
        self.setup.train.forget(0, count)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # until then updates are only queued

    def _fresh(self, slot: int, rates: list[float], seed: int) -> _Trial:
        model = self.setup.model(seed)
        newest = self.setup.newest
        average = None if newest is None else Average(model, newest)
        return _Trial(slot, model, make_optimizer(self.task, model), average, rates, seed)

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
                key = (trial.seed, trial.update) if self.setup.train.shared else trial.slot
                groups.setdefault(key, []).append(trial)
        return list(groups.values())

    def _train_segment(self, group: list[_Trial]) -> None:
        start, seed = group[0].update, group[0].seed
        stop = self.setup.end_of_segment(start)
        began = time.perf_counter()
        for trial in group:
            trial.model.train()
            trial.error = None
            # Room for all: a small tensor kept from each step would lie between the large ones
            # that come and go, and no gap would ever fit the next one.
            trial.losses = torch.empty(stop - start, dtype=torch.float64, device=self._device)
        with self.setup.training():
            for done, batch in enumerate(self.setup.train.updates(seed, start, stop)):
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
        with self.setup.autocast():
            inputs, parts = self.setup.inputs(batch)
            loss = self._forward(self.setup, trial.model, inputs, parts)
        for group in trial.optimizer.param_groups:
            group["lr"] = trial.rates[trial.update] * group["lr_ratio"]
            if trial.momenta is not None:
                set_momentum(group, float(trial.momenta[trial.update]))
        trial.optimizer.zero_grad()
        loss.backward()
        if self.task.clip_norm is not None:
            clip_grad_norm_(trial.model.parameters(), self.task.clip_norm)
        trial.optimizer.step()
        if trial.average is not None:
            trial.average.update(trial.model)
        return loss.detach()

    def _progress(self, trial: _Trial, blocks: Blocks | None = None) -> Progress:
        """Validate, or judge on the test split, and tell of the segment."""
        start = time.perf_counter()
        figures = Figures(math.nan, {}, math.nan)
        losses = trial.losses.cpu().numpy()
        if trial.error is None:
            with trial.guarded():
                split = self.setup.val if blocks is None else self.setup.test
                figures = over(split, lambda: self._judge(trial, blocks))
        seconds = trial.seconds + time.perf_counter() - start
        told = Progress(
            trial.slot,
            trial.update,
            *figures,
            losses if trial.error is None else np.empty(0),
            seconds,
            error=trial.error,
            traceback=trial.traceback,
        )
        trial.seconds = 0.0
        return told

    @torch.no_grad()
    def _judge(self, trial: _Trial, blocks: Blocks | None) -> Figures:
        """What is measured of the current weights, and beside it of the averaged ones.

        On the validation split, or where there are blocks on the test split.
        """
        setup, average = self.setup, trial.average
        if blocks is not None:
            blocks.begin()
        judged: list[tuple[nn.Module, tuple[Metric, ...]]] = [(trial.model, setup.measured)]
        if average is not None and self.task.ema is not None:
            judged = [(average.model, setup.measured)]
        elif average is not None:
            judged.append((average.model, (setup.objective,)))
        tallies = [(model.eval(), Tally(metrics, Scorer())) for model, metrics in judged]
        with setup.own_generators():
            reseed(self._device, trial.seed, VALIDATION_NOISE, trial.update)
            for stored, targets in (setup.val if blocks is None else setup.test).whole():
                with setup.autocast():
                    inputs = laid_out(setup.prepare(stored), self.task.layout)
                for model, tally in tallies:
                    with setup.autocast():
                        outputs = model(inputs)
                    tally.add(tree_map(lambda tensor: tensor[None], outputs), targets)
                    if blocks is not None and tally is tallies[0][1]:
                        blocks.add(tree_map(exact, outputs), targets)
        figures = figures_of(self.task, *(tally.figures()[0] for _, tally in tallies))
        if isinstance(figures, Exception):
            raise figures
        return figures


def _forward(setup: Setup, model: nn.Module, inputs: Tree, parts: Parts) -> Tensor:
    return setup.loss_of(model(laid_out(inputs, setup.task.layout)), parts)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _restore_optimizer(trial: _Trial, tensors: dict[str, Tensor]) -> None:
    """By ``load_state_dict``, which knows where each optimizer wants its step to be."""
    names = {parameter: name for name, parameter in trial.model.named_parameters()}
    content = trial.optimizer.state_dict()
    state: dict[int, dict[str, Any]] = {}
    for ours, theirs in zip(trial.optimizer.param_groups, content["param_groups"], strict=True):
        for parameter, index in zip(ours["params"], theirs["params"], strict=True):
            start = f"optimizer/{names[parameter]}/"
            own = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
            if own:
                state[index] = {name: value.clone() for name, value in own.items()}
    trial.optimizer.load_state_dict({**content, "state": state})
