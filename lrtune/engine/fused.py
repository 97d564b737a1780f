"""FusedPool: all slots as one batched program."""

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lrtune.engine.feed import Span
from lrtune.engine.order import UPDATE_NOISE, reseed
from lrtune.engine.pool import Progress, Snapshot, free
from lrtune.engine.probe import probe
from lrtune.engine.program import Program
from lrtune.engine.rows import Rows, Tensors, empty_rows, load, save
from lrtune.engine.serial import SerialPool
from lrtune.engine.setup import Parts, Setup, Tally
from lrtune.errors import InputError
from lrtune.tasks import Task
from lrtune.tasks.tree import Tree, leaves, stack, tree_map

Figures = tuple[float, dict[str, float]]

REMEMBERED = 4  # seeds whose fresh model is kept: a search has one, a verdict a few
WORTH_COMPILING = 2.0  # a smaller program must save this many times what compiling it takes


@dataclass(slots=True)
class _Trial:
    """What occupies a slot, beside its row."""

    slot: int
    rates: NDArray[np.float64]
    seed: int
    update: int = 0


class FusedPool:
    """The Pool as one matrix of weights, a row a trial.

    Occupied rows are always the first ones. They are trained ``width`` at a time: all at once,
    until memory runs out. What goes wrong in a program goes wrong for all trials in it; they are
    then set back to the last validation and go on one after the other.
    """

    def __init__(
        self,
        task: Task,
        slots: int = 32,
        device: str = "cpu",
        *,
        compiled: bool = False,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Try the model with many weights at once, and make room for the trials.

        Args:
            task: what is trained.
            slots: K, at least 1.
            device: as torch names it: cpu, cuda, cuda:1.
            compiled: run updates through ``torch.compile``; the first of each size takes long.
            tell: called with a line where memory runs out or the program fails.

        Raises:
            Unfit: the model cannot be run so, or not rightly.
        """
        self.setup = Setup(task, slots, device)
        self.task = task
        self.slots = slots
        self.placement = self.setup.placement
        self.width = slots
        self._device = self.setup.device
        self._compiled = compiled
        self._tell = tell
        model = self.setup.model(seed=0)
        found = probe(self.setup, model)
        self._layout = found.layout
        self._draws = found.draws
        self._program = Program(self.setup, self._layout, model, prepared=self._draws)
        self._update: Callable[..., Tensor] = self._run
        if compiled:
            self._update = torch.compile(self._run, dynamic=False)
        self._rows = empty_rows(self._layout, model, slots, task.ema)
        self._trials: list[_Trial] = []  # by row
        self._fresh: dict[int, tuple[Tensors, Figures]] = {}  # by seed
        self._compiling: dict[int, float] = {}  # seconds of the first update, by rows
        self._pace = 0.0  # seconds an update of all
        self._serial: SerialPool | None = None

    def admit(self, slot: int, rates: NDArray[np.float64], seed: int) -> Progress:
        """See Pool."""
        if self._serial is not None:
            return self._serial.admit(slot, rates, seed)
        began = time.perf_counter()
        self._put(_Trial(slot, rates, seed), self._initial(seed)[0])
        row = len(self._trials) - 1
        tensors, figures = self._initial(seed)
        if not figures[1]:
            figures = self._validate(row, row + 1)[0]
            if isinstance(figures, Exception):
                return _failed(slot, 0, figures, time.perf_counter() - began)
            self._fresh[seed] = tensors, figures
        return Progress(slot, 0, *figures, seconds=time.perf_counter() - began)

    def revise(self, slot: int, rates: NDArray[np.float64]) -> None:
        """See Pool."""
        if self._serial is not None:
            return self._serial.revise(slot, rates)
        self.setup.check_rates(rates)
        self._trials[self._row(slot)].rates = rates
        return None

    def advance(self) -> list[Progress]:
        """See Pool."""
        if self._serial is not None:
            return self._serial.advance()
        if not self._trials:
            return []
        stops = [self.setup.end_of_segment(trial.update) for trial in self._trials]
        before = self._rows.part(0, len(stops)).map(torch.clone)
        while True:
            try:
                return self._segment(stops)
            except InputError:  # the data's fault, not the program's: all of the search stops
                raise
            except Exception as error:
                self._rows.paste(slice(0, len(stops)), before)
                if not _out_of_memory(error):
                    return self._one_by_one(error).advance()
                if self.width == 1:
                    raise
                self._halve()

    def release(self, slot: int) -> None:
        """See Pool."""
        if self._serial is not None:
            return self._serial.release(slot)
        row, last = self._row(slot), len(self._trials) - 1
        gone, self._trials[row] = self._trials[row], self._trials[last]
        self._trials.pop()
        if row != last:
            self._rows.paste(row, self._rows.map(lambda tensor: tensor[last]))
        if all((t.seed, t.update) != (gone.seed, gone.update) for t in self._trials):
            self.setup.train.forget(gone.seed, gone.update)
        return None

    def snapshot(self, slot: int) -> Snapshot:
        """See Pool."""
        if self._serial is not None:
            return self._serial.snapshot(slot)
        row = self._row(slot)
        trial = self._trials[row]
        tensors = save(self._rows, self._layout, row)
        return Snapshot(trial.seed, trial.update, trial.rates.copy(), tensors)

    def restore(self, slot: int, snapshot: Snapshot) -> None:
        """See Pool."""
        if self._serial is not None:
            return self._serial.restore(slot, snapshot)
        trial = _Trial(slot, snapshot.rates, snapshot.seed, snapshot.update)
        self._put(trial, snapshot.tensors)
        return None

    def try_updates(self, count: int) -> None:
        """Train throw-away trials in all rows for ``count`` updates at rate zero."""
        tensors, _ = self._initial(0)
        for row in range(self.slots):
            load(self._rows, self._layout, row, tensors)
        size = self.width
        rates = torch.zeros(count, size, 1, dtype=self._layout.dtype, device=self._device)
        with self.setup.training():
            batches = self._batches([(0, 0, count)] * size)
            for update, (inputs, parts) in enumerate(batches):
                self._update(
                    self._rows.part(0, size).tree, inputs, parts, rates[update], rates[0] + 1
                )

    def _put(self, trial: _Trial, tensors: Tensors) -> None:
        free(trial.slot, any(other.slot == trial.slot for other in self._trials))
        self.setup.check_rates(trial.rates)
        load(self._rows, self._layout, len(self._trials), tensors)
        self._trials.append(trial)

    def _row(self, slot: int) -> int:
        for row, trial in enumerate(self._trials):
            if trial.slot == slot:
                return row
        raise RuntimeError(f"slot {slot} is free: there is no trial in it")

    def _initial(self, seed: int) -> tuple[Tensors, Figures]:
        """The tensors of a fresh model, and its figures once they are known."""
        if seed not in self._fresh:
            model = self.setup.model(seed)
            held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
            while len(self._fresh) >= REMEMBERED:
                self._fresh.pop(next(iter(self._fresh)))
            own = {f"weights/{name}": tensor.detach() for name, tensor in held.items()}
            self._fresh[seed] = own, (float("nan"), {})
        return self._fresh[seed]

    def _segment(self, stops: list[int]) -> list[Progress]:
        began = time.perf_counter()
        losses: list[Tensor] = []
        for start in range(0, len(stops), self.width):
            losses += self._train(start, stops[start : start + self.width])
        figures = self._validate(0, len(stops))
        seconds = (time.perf_counter() - began) / len(stops)
        reached = []
        for trial, stop, own, found in zip(self._trials, stops, losses, figures, strict=True):
            done, trial.update = stop - trial.update, stop
            if isinstance(found, Exception):
                reached.append(_failed(trial.slot, stop, found, seconds))
            else:
                curve = own[:done].cpu().numpy()
                reached.append(Progress(trial.slot, stop, *found, losses=curve, seconds=seconds))
        return sorted(reached, key=lambda progress: progress.slot)

    def _train(self, start: int, stops: list[int]) -> list[Tensor]:
        """Train some rows to their next validations; the training losses of each (updates,)."""
        trials = self._trials[start : start + len(stops)]
        spans = [(t.seed, t.update, stop) for t, stop in zip(trials, stops, strict=True)]
        size = self._size(spans, start)
        spans += spans[:1] * (size - len(spans))  # rows that nobody will look at
        longest = max(stop - first for _, first, stop in spans)
        table = np.zeros((longest, size, 1))
        for row, (trial, (_, first, stop)) in enumerate(zip(trials, spans, strict=False)):
            table[: stop - first, row, 0] = trial.rates[first:stop]
        like: dict[str, Any] = {"dtype": self._layout.dtype, "device": self._device}
        rates = torch.as_tensor(table, **like)
        counts = torch.tensor([[first] for _, first, _ in spans], **like)
        rows = self._rows.part(start, start + size)
        losses = torch.empty(longest, size, dtype=torch.float64, device=self._device)
        began = time.perf_counter()
        with self.setup.training():
            for done, (inputs, parts) in enumerate(self._batches(spans)):
                over = [r for r, (_, f, stop) in enumerate(spans[: len(stops)]) if f + done >= stop]
                held = rows.map(lambda tensor, over=over: tensor[over]) if over else None
                losses[done] = self._update(
                    rows.tree, inputs, parts, rates[done], counts + done + 1
                )
                if held is not None:
                    rows.paste(over, held)
                if self._compiled and size not in self._compiling:
                    self._compiling[size] = time.perf_counter() - began
                    began = time.perf_counter()
        self._pace = (time.perf_counter() - began) / longest
        return list(losses.unbind(1))[: len(stops)]

    def _size(self, spans: Sequence[Span], start: int) -> int:
        """How many rows to run for these: just those, but a compiled program has its sizes."""
        if not self._compiled:
            return len(spans)
        size = self.width
        half = -(-size // 2)
        left = max(self.task.horizon - first for _, first, _ in spans)
        while len(spans) <= half < size:
            saved = left * self._pace * (1 - half / self.width)
            if half not in self._compiling and saved < WORTH_COMPILING * self._cost:
                break
            size, half = half, -(-half // 2)
        return min(size, self.slots - start)

    @property
    def _cost(self) -> float:
        """Seconds that compiling takes."""
        return max(self._compiling.values(), default=float("inf"))

    def _batches(self, spans: list[Span]) -> Iterator[tuple[Tree, Parts]]:
        """What each update takes in, tensors (rows, batch, ...)."""
        if not self._draws:
            ones = torch.ones(len(spans), device=self._device)
            for inputs, targets in self.setup.train.together(spans):
                yield inputs, [(ones, targets)]
            return
        streams = {span: self.setup.train.updates(*span) for span in set(spans)}
        latest: dict[Span, tuple[Tree, Parts]] = {}
        for done in range(max(stop - first for _, first, stop in spans)):
            for (seed, first, stop), stream in streams.items():
                if first + done < stop:
                    reseed(self._device, seed, UPDATE_NOISE, first + done)
                    with self.setup.autocast():
                        latest[seed, first, stop] = self.setup.inputs(next(stream))
            inputs = stack([latest[span][0] for span in spans])
            yield inputs, self._stacked([latest[span][1] for span in spans])

    def _stacked(self, parts: list[Parts]) -> Parts:
        found: Parts = []
        for part in zip(*parts, strict=True):
            weights = [torch.as_tensor(weight, device=self._device) for weight, _ in part]
            found.append((torch.stack(weights), stack([targets for _, targets in part])))
        return found

    def _run(self, tree: Tree, *given: Any) -> Tensor:
        return self._program.update(Rows(*tree), *given)

    @torch.no_grad()
    def _validate(self, start: int, stop: int) -> list[Figures | Exception]:
        """Loss and metrics of some rows, or what the task's own functions raise of them."""
        rows = self._rows.part(start, stop)
        source = rows.average or {"weights": rows.weights, "buffers": rows.buffers}
        tallies = [Tally(self.setup) for _ in range(start, stop)]
        errors: dict[int, Exception] = {}
        with self.setup.own_generators():
            for inputs, targets in self.setup.val.whole():
                with self.setup.autocast():
                    inputs = self.setup.prepare(inputs)
                samples = len(next(leaves(targets)))
                at_once = min(
                    stop - start, max(1, 2 * self.width * self.task.batch_size // samples)
                )
                outputs = self._program.outputs(
                    source["weights"], source["buffers"], inputs, at_once
                )
                for row, tally in enumerate(tallies):
                    try:
                        tally.add(tree_map(lambda t, row=row: t[row], outputs), targets)
                    except Exception as error:
                        errors[row] = error
        return [errors.get(row) or _figures(tally) for row, tally in enumerate(tallies)]

    def _halve(self) -> None:
        self.width = -(-self.width // 2)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self._tell(f"out of memory: from here on {self.width} trials at once, of {self.slots}")

    def _one_by_one(self, error: Exception) -> SerialPool:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        self._tell(f"trials are trained one after the other from here on: together, {said}")
        serial = SerialPool(self.task, self.slots, str(self._device))
        for trial in self._trials:
            serial.restore(trial.slot, self.snapshot(trial.slot))
        self._serial = serial
        return serial


def _figures(tally: Tally) -> Figures | Exception:
    try:
        return tally.figures()
    except Exception as error:
        return error


def _failed(slot: int, update: int, error: Exception, seconds: float) -> Progress:
    told = "".join(traceback.format_exception(error))
    message = f"{type(error).__name__}: {error}"
    return Progress(slot, update, float("nan"), {}, np.empty(0), seconds, message, told)


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(
        error
    )
