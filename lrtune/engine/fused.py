"""FusedPool: all slots as one batched program on stacked weights, as long as that goes well."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrtune.engine.checkpoint import whole
from lrtune.engine.device_task import (
    DeviceTask,
    Parts,
    Span,
    attempt,
    compile_alone,
    is_out_of_memory,
)
from lrtune.engine.evaluate import Blocks, evaluate
from lrtune.engine.graphs import Clock, Graphs, beside
from lrtune.engine.pool import (
    NO_SETTINGS,
    SCHEDULE_FREE,
    SMOOTHING,
    Array,
    EvalResult,
    ForwardingPool,
    Progress,
    Snapshot,
    check_free,
)
from lrtune.engine.serial import SerialPool
from lrtune.engine.stacked import Program, StackedState, tensors_of, vmap_check
from lrtune.engine.stacked_optimizers import Columns, StackedOptimizer, Tensors
from lrtune.errors import InputError
from lrtune.tasks import Task
from lrtune.tasks.metrics import smoothing_of
from lrtune.tasks.splits import Tree
from lrtune.tasks.stream import room

REMEMBERED = 4  # seeds whose fresh model is kept: a search has one, a verdict a few
WORTH_COMPILING = 2.0  # a smaller program must save this many times what compiling it takes
COMPILING = 60.0  # seconds at the least: what took less may have come from the compiler's cache


class FusedPool(ForwardingPool):
    """A StackedPool; where its program fails, its trials go on in a SerialPool."""

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
        self.task = task
        self.slots = slots
        self._tell = tell
        self._pool: StackedPool | SerialPool = StackedPool(task, slots, device, compiled, tell)
        self.placement = self.device_task.placement

    @property
    def device_task(self) -> DeviceTask:
        """The task on its device."""
        return self._pool.device_task

    @property
    def order(self) -> list[int]:
        """The slots with a trial, as their rows lie: of rows elsewhere the last bits may differ."""
        return self._pool.occupied if isinstance(self._pool, StackedPool) else []

    def advance(self) -> list[Progress]:
        """See Pool."""
        try:
            return self._pool.advance()
        except Broken as failure:
            error = failure.__cause__
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            self._tell(f"trials are trained one after the other from here on: together, {reason}")
        assert isinstance(self._pool, StackedPool)
        snapshots = {slot: self._pool.snapshot(slot) for slot in self._pool.occupied}
        self._pool = SerialPool(self.task, self.slots, str(self.device_task.device))
        for slot, snapshot in snapshots.items():
            self._pool.restore(slot, snapshot)
        return self._pool.advance()

    def try_updates(self, count: int) -> None:
        """Train throw-away trials in all slots for ``count`` updates, at most the horizon."""
        self._pool.try_updates(count)

    def try_validation(self, samples: int) -> None:
        """Validate throw-away trials in all slots, on the first samples alone."""
        self._pool.try_validation(samples)

    def _forward(self, slot: int, method: str, *arguments: object) -> Any:
        return getattr(self._pool, method)(slot, *arguments)


class Broken(Exception):
    """The program failed, and not for want of memory; all trials are as they were before."""


@dataclass(slots=True)
class _Trial:
    """What occupies a slot, beside its row."""

    slot: int
    rates: Array
    seed: int
    update: int = 0
    momenta: Array | None = None  # see Pool.start
    settings: Mapping[str, Any] = field(default_factory=dict)  # likewise


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
        self.device_task = on_device = DeviceTask(task, slots, device)
        self.task = task
        self.slots = slots
        self.width = slots
        self._tell = tell
        self._graphs = Graphs(on_device.device, tell) if on_device.device.type == "cuda" else None
        self._clocks: dict[tuple[int, int], Clock] = {}  # by first row and rows
        # Samples that a quarter of the memory has room for in evaluation; None: to be measured.
        self._roomy = None if on_device.device.type == "cuda" else 0
        self._optimizer, self._drawing = vmap_check(on_device)
        self._names: frozenset[str] = frozenset()  # of settings in which rows may differ
        self._batches = on_device.prepared_batches if self._drawing else on_device.stored_batches
        self._program = Program(on_device, self._optimizer, prepared=self._drawing)
        self._sizes = CompiledSizes() if compiled else None
        self._updates: dict[int, Callable[..., Tensor]] = {}  # by rows
        averaged = on_device.average_shares is not None
        self._state = StackedState.empty(self._optimizer, on_device.model(0), slots, averaged)
        self._vmaps: dict[int, bool] = {}
        self._trials: list[_Trial] = []  # by row
        # Not self, here and in _update: a cycle would keep memory that is free.
        self._fresh = lru_cache(REMEMBERED)(lambda seed: tensors_of(on_device.model(seed)))
        self._untrained: dict[int, EvalResult] = {}  # by seed
        if task.tuned:
            self._differ(frozenset(task.tuned))

    def start(
        self,
        slot: int,
        rates: Array,
        seed: int,
        momenta: Array | None = None,
        settings: Mapping[str, Any] = NO_SETTINGS,
    ) -> Progress:
        """See Pool."""
        began = time.perf_counter()
        self._put(_Trial(slot, rates.copy(), seed, 0, momenta, settings), self._fresh(seed))
        row = len(self._trials) - 1
        result: EvalResult | Exception | None = self._untrained.get(seed)
        if result is None:
            result = attempt(lambda: self._evaluate(row, row + 1)[0])
        if not isinstance(result, Exception):
            self._untrained[seed] = result
        return Progress.at(slot, 0, result, seconds=time.perf_counter() - began)

    def revise(self, slot: int, rates: Array) -> None:
        """See Pool."""
        self.device_task.check_tables(rates)
        self._trials[self._row(slot)].rates = rates.copy()

    def advance(self) -> list[Progress]:
        """See Pool.

        Raises:
            Broken: the program failed.
        """
        stops = [self.device_task.next_validation(trial.update) for trial in self._trials]
        while stops:
            try:
                with self._undone_by_errors():
                    return self._segment(stops)
            except InputError:  # the data's fault, not the program's: all of the search stops
                raise
            except Exception as error:
                if not is_out_of_memory(error):
                    raise Broken from error
                if self.width == 1:
                    raise
            self._halve()  # out here: the error holds on to the memory
        return []

    def evaluate(self, slot: int) -> Progress:
        """See Pool."""
        began = time.perf_counter()
        row = self._row(slot)
        blocks = Blocks(self.device_task.objective, self.device_task.test.samples)
        result = attempt(lambda: self._evaluate(row, row + 1, blocks)[0])
        seconds, scores = time.perf_counter() - began, blocks.scores()
        return Progress.at(slot, self._trials[row].update, result, seconds=seconds, blocks=scores)

    def release(self, slot: int) -> None:
        """See Pool."""
        if slot not in self.occupied:
            return
        row, last = self._row(slot), len(self._trials) - 1
        gone, self._trials[row] = self._trials[row], self._trials[last]
        self._trials.pop()
        if row != last:
            self._state.paste(row, self._state.map(lambda tensor: tensor[last]))
        if all((t.seed, t.update) != (gone.seed, gone.update) for t in self._trials):
            self.device_task.train.forget(gone.seed, gone.update)

    def snapshot(self, slot: int) -> Snapshot:
        """See Pool."""
        row = self._row(slot)
        trial = self._trials[row]
        tables = trial.rates.copy(), self._state.save(row), trial.momenta
        return Snapshot(trial.seed, trial.update, *tables, settings=trial.settings)

    def restore(self, slot: int, snapshot: Snapshot) -> None:
        """See Pool."""
        own = snapshot.seed, snapshot.update, snapshot.momenta, snapshot.settings
        self._put(_Trial(slot, snapshot.rates.copy(), *own), whole(snapshot).tensors)

    @property
    def occupied(self) -> list[int]:
        """The slots with a trial."""
        return [trial.slot for trial in self._trials]

    def try_updates(self, count: int) -> None:
        """See FusedPool."""
        if self._trials:
            raise RuntimeError("there are trials in the pool, whose rows this needs")
        for row in range(self.width):
            self._state.load(row, self._fresh(0))
        nothing = _Trial(0, np.zeros(self.task.horizon), seed=0)
        self._train(0, [nothing] * self.width, [count] * self.width)
        self.device_task.train.forget(0, count)

    def try_validation(self, samples: int) -> None:
        """See FusedPool; what ``try_updates`` has trained."""
        with self.device_task.val.begun(samples):
            self._evaluate(0, self.width)

    def _put(self, trial: _Trial, tensors: Tensors) -> None:
        if trial.slot not in range(self.slots):
            raise IndexError(f"slot {trial.slot}: there are 0 to {self.slots - 1}")
        check_free(trial.slot, trial.slot in self.occupied)
        self.device_task.check_tables(trial.rates, trial.momenta)
        if SCHEDULE_FREE in trial.settings:
            raise InputError("schedule_free trains one training at a time: use --engine serial")
        if not trial.settings.keys() <= self._names:
            self._differ(self._names | trial.settings.keys())
        moved = trial.momenta is not None
        if moved and self._optimizer.add_momentum(self._state.weights, self._state.states):
            self._forget()
        self._state.load(len(self._trials), tensors)
        self._trials.append(trial)

    def _differ(self, names: frozenset[str]) -> None:
        """Let rows differ in these settings: the program is made anew, and all rows put in it."""
        rows = [self._state.save(row) for row in range(len(self._trials))]
        task, model, averaged = self.device_task, self.device_task.model(0), self._state.averages
        reached = {name for group in self._optimizer.groups for name in group.shapes}
        self._optimizer = StackedOptimizer(self.task, model, reached, names - {SMOOTHING})
        self._program = Program(task, self._optimizer, prepared=self._drawing)
        self._state = StackedState.empty(self._optimizer, model, self.slots, bool(averaged))
        if "momentum" in names or any(trial.momenta is not None for trial in self._trials):
            self._optimizer.add_momentum(self._state.weights, self._state.states)
        for row, tensors in enumerate(rows):
            self._state.load(row, tensors)
        self._names = names
        self._updates.clear()
        self._forget()

    def _row(self, slot: int) -> int:
        if slot not in self.occupied:
            raise RuntimeError(f"slot {slot} is free: there is no trial in it")
        return self.occupied.index(slot)

    @contextmanager
    def _undone_by_errors(self) -> Iterator[None]:
        before = self._state.part(0, len(self._trials)).map(torch.clone)
        try:
            yield
        except BaseException:  # Ctrl-C too: the pool is then whole, whoever goes on with it
            self._state.paste(slice(0, len(self._trials)), before)
            raise

    def _segment(self, stops: list[int]) -> list[Progress]:
        began = time.perf_counter()
        losses: list[Array] = []
        results: list[EvalResult | Exception] = []
        for start in range(0, len(stops), self.width):
            some = slice(start, start + self.width)
            losses += self._train(start, self._trials[some], stops[some])
        if len(stops) == 1 < self.width:  # one beside it: alone, the last bits would be others
            self._state.paste(1, self._state.map(itemgetter(0)))
            results = self._evaluate(0, 2)[:1]
        else:
            for start in range(0, len(stops), self.width):
                results += self._evaluate(start, min(start + self.width, len(stops)))
        seconds = (time.perf_counter() - began) / len(stops)
        reached = []
        for trial, stop, curve, result in zip(self._trials, stops, losses, results, strict=True):
            trial.update = stop
            reached.append(Progress.at(trial.slot, stop, result, losses=curve, seconds=seconds))
        return sorted(reached, key=lambda progress: progress.slot)

    def _train(self, start: int, trials: Sequence[_Trial], stops: Sequence[int]) -> list[Array]:
        """Train the trials of some rows, the first of which is ``start``, up to these updates.

        Returns:
            Training losses, float64 (updates,) of each trial.
        """
        spans = [(t.seed, t.update, stop) for t, stop in zip(trials, stops, strict=True)]
        lengths = [stop - first for _, first, stop in spans]
        size = self._size(start, spans)
        spans += spans[:1] * (size - len(spans))  # idle rows
        device = self.device_task.device
        tables = self._tables(trials, lengths, size)
        state = self._state.part(start, start + size)
        losses = torch.empty(max(lengths), size, dtype=torch.float64, device=device)
        over: list[tuple[Tensor, StackedState]] = []
        began = time.perf_counter()
        first = 0.0
        run = self._plainly if self._graphs is None else self._by_clock
        with self.device_task.training(), beside(self._graphs):
            for done in run(start, spans, tables, losses):  # each update follows what is done here
                if done in lengths:  # these run along, and are set back in the end
                    ended = torch.tensor([r for r, length in enumerate(lengths) if length == done])
                    ended = ended.to(device)
                    over.append((ended, state.map(itemgetter(ended))))
                if done == 1:
                    first = time.perf_counter() - began
            for ended, reached in over:
                state.paste(ended, reached)
        table = losses.cpu().numpy()  # where work is only queued, it is done by now
        if self._sizes is not None:
            whole = time.perf_counter() - began
            first = first or whole  # of one alone
            self._sizes.took(size, first, (whole - first) / max(1, max(lengths) - 1))
        return [table[:length, row].copy() for row, length in enumerate(lengths)]

    def _plainly(
        self, start: int, spans: Sequence[Span], tables: Array, losses: Tensor
    ) -> Iterator[int]:
        """The updates one after the other; their numbers, each before it is made."""
        state, update = self._state.part(start, start + len(spans)), self._update(len(spans))
        tree, looked = self._grouped(state).tree, tables[2].any(1)
        rows = torch.as_tensor(tables.swapaxes(0, 1)).to(self.device_task.device)
        steps = zip(self._batches(spans), rows, looked, losses, strict=True)
        for done, ((inputs, parts), numbers, looks, loss) in enumerate(steps):
            yield done
            rates, momenta, shares, peaks, *own = numbers
            columns = self._optimizer.columns(state.states, rates, momenta, peaks, own)
            loss.copy_(update(tree, inputs, parts, columns, *own[self._optimizer.count :]))
            if looks:
                state.mix(shares)

    def _by_clock(
        self, start: int, spans: Sequence[Span], tables: Array, losses: Tensor
    ) -> Iterator[int]:
        """The same where an update asks nothing of the host, as a CUDA graph may not."""
        assert self._graphs is not None
        size = len(spans)
        if (start, size) not in self._clocks:
            self._clocks[start, size] = Clock(self.device_task, size, self._drawing, len(tables))
        clock, looked = self._clocks[start, size], tables[2].any(1)
        state, update = self._state.part(start, start + size), self._update(size)
        tick = partial(clock.tick, state, self._grouped(state).tree, update, self._optimizer)
        batches = None if clock.gathers else self._batches(spans)
        for first in range(0, len(losses), clock.length):
            updates = range(first, min(first + clock.length, len(losses)))
            clock.begin(spans, tables, updates)
            for done in updates:
                yield done
                if batches is not None:
                    clock.hold(*next(batches))
                looks = bool(looked[done])
                self._graphs.run((start, size, looks), partial(tick, looks))
            losses[first : updates.stop] = clock.losses[: len(updates)]

    def _tables(self, trials: Sequence[_Trial], lengths: Sequence[int], size: int) -> Array:
        """What the rows are given at each update, beside their batches: (4 + n, updates, size).

        Rates; momenta, NaN where it is the optimizer's own; what the weights count in the average,
        0 where nothing is looked at; the highest rate; n numbers of the settings in which rows
        differ.
        """
        settings = [trial.settings for trial in trials]
        settings += [NO_SETTINGS] * (size - len(trials))
        numbers = np.array([self._numbers(own) for own in settings]).T  # (n, size)
        tables = np.zeros((4 + len(numbers), max(lengths), size))
        tables[1] = np.nan
        tables[4:] = numbers[:, None]
        shares = self.device_task.average_shares
        for row, (trial, length) in enumerate(zip(trials, lengths, strict=True)):
            span = slice(trial.update, trial.update + length)
            if self._optimizer.cools:
                tables[4, :length, row] = 1 - np.arange(span.start, span.stop) / self.task.horizon
            tables[0, :length, row] = trial.rates[span]
            tables[3, :length, row] = trial.rates.max()
            if trial.momenta is not None:
                tables[1, :length, row] = trial.momenta[span]
            if shares is not None:
                own = shares[span]  # fewer, where updates are only tried
                tables[2, : len(own), row] = own
        return tables

    def _numbers(self, settings: Mapping[str, Any]) -> list[float]:
        """Of a row: what the optimizer takes, then the loss."""
        if not self._names and not self._optimizer.cools:
            return []
        own = [settings.get(SMOOTHING, smoothing_of(self.task.loss))]
        return self._optimizer.numbers(settings) + (own if SMOOTHING in self._names else [])

    def _grouped(self, state: StackedState) -> StackedState:
        """As the update takes it: few operations are worth a copy of all gradients on a GPU alone.

        A compiler makes one loop of gradient and rule, and elsewhere memory is what takes long.
        """
        whole = self._sizes is None and self.device_task.device.type == "cuda"
        return state if whole else state.apart

    def _size(self, start: int, spans: Sequence[Span]) -> int:
        """How many rows to run: those that are needed, but a compiled program has its sizes.

        Never one alone, where there is room: it would be computed by other kernels, so that the
        last bits of a trial would depend on whether there are others.
        """
        most = min(self.width, self.slots - start)
        rows = max(len(spans), min(2, most))
        if self._sizes is not None:
            left = max(self.task.horizon - first for _, first, _ in spans)
            return self._sizes.fit(rows, most, left)
        return rows if self._graphs is None else halved(rows, most)

    def _update(self, size: int) -> Callable[..., Tensor]:
        """``Program.update`` for so many rows, given as a tree."""
        if size not in self._updates:
            program, apart = self._program, self._grouped(self._state).groups
            trained = enumerate(self._optimizer.groups)
            owners = [
                n
                for n, group in trained
                for own in apart
                if own.shapes.items() <= group.shapes.items()
            ]

            def update(
                tree: Tree, inputs: Tree, parts: Parts, columns: list[Columns], *smoothing: Tensor
            ) -> Tensor:
                state = StackedState(apart, *tree)
                own = [columns[n] for n in owners]
                return program.update(state, inputs, parts, own, *smoothing)

            self._updates[size] = update if self._sizes is None else compile_alone(update)
        return self._updates[size]

    def _evaluate(
        self, start: int, stop: int, blocks: Blocks | None = None
    ) -> list[EvalResult | Exception]:
        task, models = self.device_task, self._state.part(start, stop).models
        # Without gradients an activation is soon forgotten: twice the samples of an update. A GPU
        # may have room for more, and then there are fewer kernels.
        samples = max(2 * self.width * self.task.batch_size, self._roomy or 0)

        def forward(model: Tensors, inputs: Tree, count: int) -> Tree:
            at_once = min(stop - start, max(1, samples // count))
            return self._program.outputs(model, inputs, at_once)

        forwards = [
            (partial(forward, model), metrics)
            for model, metrics in task.measured(models["weights"], models.get("average"))
        ]

        def results() -> list[EvalResult | Exception]:
            return evaluate(task, forwards, self._vmaps, blocks)

        if stop - start > 1:  # fewer rows come before fewer samples: see _halve
            return results()
        split = task.val if blocks is None else task.test
        if self._roomy is not None:
            return split.over(results)
        torch.cuda.reset_peak_memory_stats(task.device)
        before = torch.cuda.memory_allocated(task.device)
        found = split.over(results)
        taken = torch.cuda.max_memory_allocated(task.device) - before
        self._roomy = room(task.device, None) // 2 * split.part // max(1, taken)
        return found

    def _forget(self) -> None:
        """What belongs to other tensors, or to more rows than there is room for."""
        if self._graphs is not None:
            self._graphs.clear()
        self._clocks.clear()

    def _halve(self) -> None:
        self._forget()
        self._roomy = 0
        if self.device_task.device.type == "cuda":
            torch.cuda.empty_cache()
        self.width = -(-self.width // 2)
        self._tell(f"out of memory: from here on {self.width} trials at once, of {self.slots}")


def halved(needed: int, most: int) -> int:
    """The most, halved as long as what is needed fits."""
    while needed <= -(-most // 2) < most:
        most = -(-most // 2)
    return most


class CompiledSizes:
    """How many rows a program runs where each number of them has to be compiled first.

    It knows the sizes that are compiled, what an update takes at each, and what compiling takes.
    """

    def __init__(self) -> None:
        self._pace: dict[int, float] = {}  # seconds per update, by size
        self._compiling = COMPILING

    def fit(self, needed: int, most: int, updates: int) -> int:
        """The size at which to run.

        Args:
            needed: rows that there are.
            most: rows that there may be; idle ones run along for nothing.
            updates: that are still to come, at the most.
        """
        ready = min((size for size in self._pace if needed <= size <= most), default=None)
        if ready is None:  # the largest is what was tried out, and is in the compiler's cache
            return most
        target = halved(needed, most)
        if target >= ready:
            return ready
        saved = updates * self._pace[ready] * (1 - target / ready)
        return target if saved > WORTH_COMPILING * self._compiling else ready

    def took(self, size: int, first: float, rest: float) -> None:
        """Take in the seconds of the first update of some, and of each that followed."""
        if size not in self._pace:
            self._compiling = max(self._compiling, first)
        self._pace[size] = rest
