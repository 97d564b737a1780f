"""StackedPool: all slots as one batched program on stacked weights, a row a trial."""

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lrtune.engine.batches import prepared, stored
from lrtune.engine.blocks import Blocks
from lrtune.engine.compiling import compiled_apart
from lrtune.engine.feed import Span, over
from lrtune.engine.judge import judge
from lrtune.engine.pool import Progress, Snapshot, free
from lrtune.engine.probe import probe
from lrtune.engine.program import Program, mix
from lrtune.engine.rows import (
    Rows,
    Tensors,
    add_momentum,
    copied,
    empty_rows,
    load,
    save,
    tensors_of,
)
from lrtune.engine.setup import Setup
from lrtune.engine.sizes import Sizes
from lrtune.engine.tables import Trial, tables
from lrtune.engine.tally import Figures, Scorer, attempt, is_out_of_memory
from lrtune.errors import InputError
from lrtune.tasks import Task
from lrtune.tasks.splits import Tree

REMEMBERED = 4  # seeds whose fresh model is kept: a search has one, a verdict a few


class Broken(Exception):
    """The program failed, and not for want of memory; all trials are as they were before."""


class StackedPool:
    """The Pool as one program.

    Occupied rows are always the first ones. They are trained ``width`` at a time: all at once,
    until memory runs out. What goes wrong in a program goes wrong for all trials in it; they are
    then set back to the last validation.
    """

    def __init__(
        self, task: Task, slots: int, device: str, compiled: bool, tell: Callable[[str], None]
    ) -> None:
        """See FusedPool."""
        self.setup = Setup(task, slots, device)
        self.task = task
        self.slots = slots
        self.width = slots
        self._tell = tell
        fit = probe(self.setup)
        self._layout = fit.layout
        self._batches = prepared if fit.draws else stored
        self._program = Program(self.setup, fit.layout, prepared=fit.draws)
        self._sizes = Sizes() if compiled else None
        self._updates: dict[int, Callable[..., Tensor]] = {}  # by rows
        averaged = self.setup.newest is not None
        self._rows = empty_rows(fit.layout, self.setup.model(seed=0), slots, averaged)
        self._backup = self.setup.device  # where the rows are copied to during a segment
        self._scorer = Scorer()
        self._trials: list[Trial] = []  # by row
        setup = self.setup  # not self, here and in _update: a cycle would keep memory that is free
        self._fresh = lru_cache(REMEMBERED)(lambda seed: tensors_of(setup.model(seed)))
        self._untrained: dict[int, Figures] = {}  # by seed

    def admit(
        self,
        slot: int,
        rates: NDArray[np.float64],
        seed: int,
        momenta: NDArray[np.float64] | None = None,
    ) -> Progress:
        """See Pool."""
        began = time.perf_counter()
        self._put(Trial(slot, rates.copy(), seed, momenta=momenta), self._fresh(seed))
        if seed not in self._untrained:
            row = self._row(slot)
            found = attempt(lambda: self._judge(row, row + 1)[0])
            if isinstance(found, Exception):
                return _failed(slot, 0, found, time.perf_counter() - began)
            self._untrained[seed] = found
        return Progress(slot, 0, *self._untrained[seed], seconds=time.perf_counter() - began)

    def revise(self, slot: int, rates: NDArray[np.float64]) -> None:
        """See Pool."""
        self.setup.check_rates(rates)
        self._trials[self._row(slot)].rates = rates.copy()

    def advance(self) -> list[Progress]:
        """See Pool.

        Raises:
            Broken: the program failed.
        """
        stops = [self.setup.end_of_segment(trial.update) for trial in self._trials]
        while stops:
            try:
                with self._undone_by_errors():
                    return self._segment(stops)
            except InputError:  # the data's fault, not the program's: all of the search stops
                raise
            except Exception as error:
                if not is_out_of_memory(error):
                    raise Broken from error
                if self.width == 1 and self._backup.type == "cpu":
                    raise
            self._make_room()  # out here: the error holds on to the memory
        return []

    def examine(self, slot: int) -> Progress:
        """See Pool."""
        began = time.perf_counter()
        row, blocks = self._row(slot), self.setup.blocks()
        update = self._trials[row].update
        found = attempt(lambda: self._judge(row, row + 1, blocks)[0])
        seconds = time.perf_counter() - began
        if isinstance(found, Exception):
            return _failed(slot, update, found, seconds)
        return Progress(slot, update, *found, seconds=seconds, blocks=blocks.scores())

    def release(self, slot: int) -> None:
        """See Pool."""
        if slot not in self.occupied:
            return
        row, last = self._row(slot), len(self._trials) - 1
        gone, self._trials[row] = self._trials[row], self._trials[last]
        self._trials.pop()
        if row != last:
            self._rows.paste(row, self._rows.map(lambda tensor: tensor[last]))
        if all((t.seed, t.update) != (gone.seed, gone.update) for t in self._trials):
            self.setup.train.forget(gone.seed, gone.update)

    def snapshot(self, slot: int) -> Snapshot:
        """See Pool."""
        row = self._row(slot)
        trial = self._trials[row]
        tensors = save(self._rows, row)
        return Snapshot(trial.seed, trial.update, trial.rates.copy(), tensors, trial.momenta)

    def restore(self, slot: int, snapshot: Snapshot) -> None:
        """See Pool."""
        rates, momenta = snapshot.rates.copy(), snapshot.momenta
        self._put(Trial(slot, rates, snapshot.seed, snapshot.update, momenta), snapshot.tensors)

    @property
    def occupied(self) -> list[int]:
        """The slots with a trial."""
        return [trial.slot for trial in self._trials]

    def try_updates(self, count: int) -> None:
        """Train throw-away trials in all rows for ``count`` updates, at most the horizon."""
        if self._trials:
            raise RuntimeError("there are trials in the pool, whose rows this needs")
        for row in range(self.width):
            load(self._rows, self._layout, row, self._fresh(0))
        nothing = Trial(0, np.zeros(self.task.horizon), seed=0)
        self._train(0, [nothing] * self.width, [count] * self.width)
        self.setup.train.forget(0, count)

    def _put(self, trial: Trial, tensors: Tensors) -> None:
        if trial.slot not in range(self.slots):
            raise IndexError(f"slot {trial.slot}: there are 0 to {self.slots - 1}")
        free(trial.slot, trial.slot in self.occupied)
        self.setup.check_rates(trial.rates)
        self.setup.check_momenta(trial.momenta)
        if trial.momenta is not None:
            add_momentum(self._rows, self._layout)
        load(self._rows, self._layout, len(self._trials), tensors)
        self._trials.append(trial)

    def _row(self, slot: int) -> int:
        if slot not in self.occupied:
            raise RuntimeError(f"slot {slot} is free: there is no trial in it")
        return self.occupied.index(slot)

    @contextmanager
    def _undone_by_errors(self) -> Iterator[None]:
        before = copied(self._rows.part(0, len(self._trials)), self._backup)
        try:
            yield
        except BaseException:  # Ctrl-C too: the pool is then whole, whoever goes on with it
            self._rows.paste(slice(0, len(self._trials)), before)
            raise

    def _segment(self, stops: list[int]) -> list[Progress]:
        began = time.perf_counter()
        curves: list[NDArray[np.float64]] = []
        figures: list[Figures | Exception] = []
        for start in range(0, len(stops), self.width):
            some = slice(start, start + self.width)
            curves += self._train(start, self._trials[some], stops[some])
        for start in range(0, len(stops), self.width):
            figures += self._judge(start, min(start + self.width, len(stops)))
        seconds = (time.perf_counter() - began) / len(stops)
        reached = []
        for trial, stop, curve, found in zip(self._trials, stops, curves, figures, strict=True):
            trial.update = stop
            if isinstance(found, Exception):
                reached.append(_failed(trial.slot, stop, found, seconds))
            else:
                told = Progress(trial.slot, stop, *found, losses=curve, seconds=seconds)
                reached.append(told)
        return sorted(reached, key=lambda progress: progress.slot)

    def _train(
        self, start: int, trials: Sequence[Trial], stops: Sequence[int]
    ) -> list[NDArray[np.float64]]:
        """Train the trials of some rows, the first of which is ``start``, up to these updates.

        Returns:
            Training losses, float64 (updates,) of each trial.
        """
        spans = [(t.seed, t.update, stop) for t, stop in zip(trials, stops, strict=True)]
        lengths = [stop - first for _, first, stop in spans]
        size = self._size(start, spans)
        spans += spans[:1] * (size - len(spans))  # idle rows
        like = {"dtype": self._layout.dtype, "device": self.setup.device}
        told = tables(trials, stops, size, self.setup.newest, like)
        rows = self._rows.part(start, start + size)
        update = self._update(size)
        losses = torch.empty(max(lengths), size, dtype=torch.float64, device=self.setup.device)
        began = time.perf_counter()
        first = 0.0
        batches = self._batches(self.setup, spans)
        with self.setup.training():
            updates = enumerate(zip(batches, told, losses, strict=True))
            for done, ((inputs, parts), own, loss) in updates:
                with _kept(rows, [row for row, length in enumerate(lengths) if length <= done]):
                    loss.copy_(update(rows.tree, inputs, parts, own.rates, own.momenta))
                    if own.looks:
                        mix(rows, own.newest)
                first = first or time.perf_counter() - began
        table = losses.cpu().numpy()  # where work is only queued, it is done by now
        if self._sizes is not None:
            rest = (time.perf_counter() - began - first) / max(1, max(lengths) - 1)
            self._sizes.took(size, first, rest)
        return [table[:length, row].copy() for row, length in enumerate(lengths)]

    def _size(self, start: int, spans: Sequence[Span]) -> int:
        """How many rows to run: those that are needed, but a compiled program has its sizes."""
        if self._sizes is None:
            return len(spans)
        left = max(self.task.horizon - first for _, first, _ in spans)
        return self._sizes.fit(len(spans), min(self.width, self.slots - start), left)

    def _update(self, size: int) -> Callable[..., Tensor]:
        """``Program.update`` for so many rows, given as a tree."""
        if size not in self._updates:
            program = self._program

            def update(tree: Tree, *given: Any) -> Tensor:
                return program.update(Rows(*tree), *given)

            self._updates[size] = update if self._sizes is None else compiled_apart(update)
        return self._updates[size]

    def _judge(
        self, start: int, stop: int, blocks: Blocks | None = None
    ) -> list[Figures | Exception]:
        setup, rows = self.setup, self._rows.part(start, stop)

        def judged() -> list[Figures | Exception]:
            return judge(setup, self._program, rows, self.width, self._scorer, blocks)

        if stop - start > 1:  # fewer rows come before fewer samples: see _make_room
            return judged()
        return over(setup.val if blocks is None else setup.test, judged)

    def _make_room(self) -> None:
        """The host has room for the copies that undo a segment; then there are fewer at once."""
        if self.setup.device.type == "cuda":
            torch.cuda.empty_cache()
        if self._backup.type != "cpu":
            self._backup = torch.device("cpu")
            self._tell("out of memory: from here on trials are backed up in the host's")
            return
        self.width = -(-self.width // 2)
        self._tell(f"out of memory: from here on {self.width} trials at once, of {self.slots}")


@contextmanager
def _kept(rows: Rows, over: list[int]) -> Iterator[None]:
    """Leave some rows as they are: those of trials that have reached their validation."""
    held = rows.map(lambda tensor: tensor[over]) if over else None
    yield
    if held is not None:
        rows.paste(over, held)


def _failed(slot: int, update: int, error: Exception, seconds: float) -> Progress:
    told = "".join(traceback.format_exception(error))
    message = f"{type(error).__name__}: {error}"
    return Progress(slot, update, float("nan"), {}, seconds=seconds, error=message, traceback=told)
