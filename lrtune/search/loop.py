"""The loop: trainings take a segment side by side, and what is over makes room for the next."""

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Generic, TypeVar

import numpy as np

from lrtune.engine import Pool, Progress
from lrtune.engine.checkpoint import Note, load, remove, save
from lrtune.engine.device_task import is_out_of_memory
from lrtune.engine.pool import Snapshot
from lrtune.errors import InputError
from lrtune.files import check
from lrtune.search.batch import together
from lrtune.search.storage import Ending
from lrtune.search.trials import Training

LEAST_SECONDS = 30.0  # between two checkpoints: less than this may be lost
MOST_OF_TIME = 0.02  # what saving may take of all time
BEST = " best"  # after the key of a training, that of its state at its best validation

Kind = TypeVar("Kind", bound=Training)


class Interrupts:
    """Inside ``with``, SIGINT and SIGTERM raise KeyboardInterrupt within ``heard()`` alone.

    So they end training at any point, but never while results are stored. One that was not heard
    raises it at the end.
    """

    def __init__(self) -> None:
        self._open = False
        self._pending = False
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}
        self._process = os.getpid()

    def __enter__(self) -> "Interrupts":
        # Only the main thread may set handlers; elsewhere (a notebook's worker) all stays as it is.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.getsignal(number)
                # Ignored by a shell's `&` or nohup, it is meant to be; None is C code's, which
                # nobody could put back.
                if before not in (signal.SIG_IGN, None):
                    self._before[number] = before
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._pending and kind is None:
            raise KeyboardInterrupt

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Where the work may be cut short at any point."""
        if self._pending:
            raise KeyboardInterrupt
        self._open = True
        try:
            yield
        finally:
            self._open = False

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A worker that reads data has this handler too. The terminal's Ctrl-C is not for it:
            # it ends with us, and by SIGTERM.
            if number == signal.SIGTERM:
                os._exit(0)
            return
        self._pending = True
        if self._open:
            raise KeyboardInterrupt


def due(since: float, cost: float) -> bool:
    """Whether it is time for a checkpoint, so many seconds after the last one, which took ``cost``.

    Half a minute is cheap to lose; where saving is slow, its share of the time decides.
    """
    return since >= max(LEAST_SECONDS, cost / MOST_OF_TIME)


class Checkpointer:
    """Saves what is under way now and then, and gives it back one training at a time.

    A checkpoint only saves time: without it, what was cut short starts from scratch.

    Attributes:
        kept: snapshots and notes that are still to be taken up, by key, see ``Training``.
    """

    def __init__(self, path: Path | None, tell: Callable[[str], None]) -> None:
        """Nothing is kept where ``path`` is None; ``tell`` hears what cannot be saved or used."""
        self.kept: dict[str, tuple[Snapshot, Note]] = {}
        self._path = path
        self._tell = tell
        self._saves = path is not None
        self._last = time.monotonic()
        self._cost = 0.0
        self._found: dict[str, tuple[Snapshot, Note]] = {}  # for the next checkpoint
        self._unseen: set[int] = set()  # groups that it waits for

    def load(self) -> None:
        """Read the checkpoint."""
        if self._path is None or not self._path.exists():
            return
        try:
            self.kept = load(self._path)
        except InputError as error:
            self._tell(f"{error}: what it held starts from scratch")

    def forget(self, prefix: str, wanted: Collection[str], **noted: Any) -> None:
        """Leave out those of a kind that are not wanted, or whose notes say something else."""
        for key, (_, note) in [*self.kept.items()]:
            if key.endswith(BEST) or not key.startswith(prefix):
                continue
            if key not in wanted or not noted.items() <= note.items():
                del self.kept[key]
                self.kept.pop(key + BEST, None)

    def take(
        self, key: str, pool: Pool, slot: int, resume: Callable[[Snapshot, Note], Kind]
    ) -> Kind | None:
        """Put one in a free slot as it was; None where it was not kept, or cannot be used any more.

        ``resume`` makes the Training.
        """
        if key not in self.kept:
            return None
        snapshot, note = self.kept.pop(key)
        best, _ = self.kept.pop(key + BEST, (None, {}))
        training = resume(snapshot, note)
        training.best = best
        try:
            if not np.array_equal(training.rates, snapshot.rates):
                raise ValueError("its rates are not those of its schedule")
            pool.restore(slot, snapshot)
        except (KeyError, RuntimeError, ValueError) as error:  # another model, say
            if is_out_of_memory(error):  # it is of use where there is room: the file still has it
                raise
            self._tell(f"{training.name} starts from scratch: {error}")
            return None
        return training

    def save(self, pool: Pool, running: "Running", group: int) -> None:
        """Take in what is under way in a group that has trained a segment, where one is due.

        A checkpoint has all groups, each as it was when it was first seen since it was due, and
        what is still to be taken up. It is written with the last group, without those that are
        lost. Where groups are served in order, it begins with the first: in lockstep.
        """
        began = time.monotonic()
        may_begin = self._saves and not self._unseen and not (pool.in_order and group)
        if may_begin and due(began - self._last, self._cost):
            self._begin(pool, running)
        if self._unseen and self._look(pool, running, group):
            if not any(map(pool.open, self._unseen)):
                self._write(pool, running)
            self._cost += time.monotonic() - began

    def save_all(self, pool: Pool, running: "Running", lost: Collection[int]) -> None:
        """Likewise all groups at once, but those that were launched and are lost."""
        if self._saves:
            self._begin(pool, running)
            if all(self._look(pool, running, g) for g in sorted(self._unseen - {*lost})):
                self._write(pool, running)

    def _begin(self, pool: Pool, running: "Running") -> None:
        self._found, self._cost = dict(self.kept), 0.0
        self._unseen = {*range(len(pool.groups))}
        if not pool.in_order:  # a group that trains nothing may never be seen
            self._unseen = {g for g in self._unseen if any(s in running for s in pool.groups[g])}

    def _look(self, pool: Pool, running: "Running", group: int) -> bool:
        """Take in a group, if it was not yet; whether its states could be kept."""
        slots = pool.groups[group] if group in self._unseen else ()
        self._unseen.discard(group)
        for slot in slots:
            if slot in running:
                work, training = running[slot]
                try:
                    self._found[training.key] = pool.snapshot(slot), work.note(slot, training)
                except OSError as error:
                    self._give_up(error)
                    return False
                if training.best is not None:
                    self._found[training.key + BEST] = training.best, {}
        return True

    def _give_up(self, error: Exception) -> None:
        self._saves, self._found, self._unseen = False, {}, set()
        self._tell(f"no more checkpoints: {error}")

    def _write(self, pool: Pool, running: "Running") -> None:
        """Write what was seen; of the groups that were not, what the checkpoint before has."""
        assert self._path is not None
        found, unseen, self._found, self._unseen = self._found, self._unseen, {}, set()
        lost = {running[slot][1].key for g in unseen for slot in pool.groups[g] if slot in running}
        if lost and self._path.exists():
            with suppress(InputError):
                before = load(self._path).items()
                found |= {key: kept for key, kept in before if key.removesuffix(BEST) in lost}
        snapshots = {key: snapshot for key, (snapshot, _) in found.items()}
        notes = {key: note for key, (_, note) in found.items()}
        bests = [own.best for _, own in running.values() if own.best is not None]
        others = [snapshot for snapshot, _ in self.kept.values()]
        try:
            if running:
                save(self._path, snapshots, notes, [*pool.needed(), *bests, *others])
        except (OSError, KeyError, RuntimeError) as error:
            self._give_up(error)
        self._last = time.monotonic()

    def remove(self) -> None:
        """Nothing is left to go on with."""
        if self._path is not None:
            check()
            remove(self._path)


class Work(Generic[Kind]):
    """Trainings of one kind: where they come from, and what becomes of them."""

    @property
    def waits(self) -> bool:
        """Whether more is to be trained, though nothing of it can start yet."""
        return False

    def begin(self, checkpointer: Checkpointer) -> None:
        """Look at what there is, and at what a session before left."""

    def next(self, slot: int, checkpointer: Checkpointer) -> Kind | None:
        """Start a training in a free slot; None where none is to start now."""
        raise NotImplementedError

    def ending(self, training: Kind, progress: Progress) -> Ending | None:
        """How a training ends at this validation, which is in its curves; None where it goes on."""
        raise NotImplementedError

    def ended(self, training: Kind, ending: Ending, progress: Progress) -> None:
        """Store what came of a training; its slot still has it."""
        raise NotImplementedError

    def segment_over(self, slots: range) -> None:
        """These slots have trained a segment."""

    def note(self, slot: int, training: Kind) -> Note:
        """What is to be known of a training under way that its Snapshot does not know."""
        return training.note()

    def close(self) -> None:
        """The session is over, whatever the reason."""


Running = dict[int, tuple[Work[Any], Training]]  # by slot


class Loop:
    """Trains what its works say, as many side by side as the pool has slots.

    Attributes:
        segments: that groups of slots have trained in this session.
    """

    def __init__(
        self,
        pool: Pool,
        works: Sequence[Work[Any]],
        *,
        checkpoint: Path | None = None,
        spent: Callable[[], bool] = lambda: False,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Train nothing yet.

        Args:
            pool: with all slots free.
            works: a free slot goes to the first that has something to start.
            checkpoint: a file to keep trainings under way in, so that those that a kill cuts short
                go on from there; from scratch where None.
            spent: whether the budget is; then what is under way is left for a next session.
            tell: called with a line where a checkpoint is of no use.
        """
        self._pool = pool
        self._works = works
        self._spent = spent
        self._checkpointer = Checkpointer(checkpoint, tell)
        self._running: Running = {}
        self._waiting = deque(range(len(pool.groups)))  # groups that are not launched
        self._launched = deque[int]()
        self._room = True  # for more trainings, as far as is known
        self.segments = 0

    def run(self) -> bool:
        """Train until nothing is left to be started, or the budget is spent.

        Returns:
            Whether the budget ended while something was under way.

        Raises:
            KeyboardInterrupt: after Ctrl-C or SIGTERM; the same trainings go on in a next session.
        """
        self._checkpointer.load()
        with Interrupts() as interrupts:
            try:
                for work in self._works:
                    work.begin(self._checkpointer)
                self._train(interrupts)
                if self._running:
                    self._checkpointer.save_all(self._pool, self._running, self._launched)
                elif not self._checkpointer.kept:
                    self._checkpointer.remove()
                return bool(self._running)
            finally:
                for work in self._works:
                    work.close()

    def _train(self, interrupts: Interrupts) -> None:
        """Give each group of slots what it needs, and take what the pool has ready, in turns.

        The others train meanwhile. A pool says in which order: always in the same one, so that a
        search takes the same course whichever of them is the fastest, or as they come. At the end
        those are left alone that have lost what trains them.
        """
        while self._launch(interrupts):
            self._collect(interrupts)
        while any(map(self._pool.open, self._launched)):
            self._collect(interrupts)

    def _launch(self, interrupts: Interrupts) -> bool:
        """Let the groups that wait train; whether there is anything to go on with."""
        pool, waiting, started = self._pool, self._waiting, False
        for _ in range(len(waiting)):
            if self._spent():
                return False
            slots = pool.groups[waiting[0]]
            if pool.open(waiting[0]):
                started |= self._fill(slots, interrupts)
                if not (started or self._goes_on):
                    return False
            if pool.in_order or any(slot in self._running for slot in slots):
                pool.launch(waiting[0])
                self._launched.append(waiting.popleft())
            elif self._room:
                waiting.rotate(-1)
            else:
                break
        return not self._spent() and (self._room or started or self._goes_on)

    @property
    def _goes_on(self) -> bool:
        return bool(self._running) or any(work.waits for work in self._works)

    def _collect(self, interrupts: Interrupts) -> None:
        """Take in what a group has come to, as soon as one has trained a segment."""
        with interrupts.heard():
            group = self._pool.ready(self._launched)
        if group is None:
            self._room = True  # it may have opened
            return
        slots = self._pool.groups[group]
        with interrupts.heard():
            reached = self._pool.collect(group)
        self._launched.remove(group)
        self._waiting.appendleft(group)
        self.segments += 1
        with together():
            for progress in reached:
                self._take(progress)
        for work in self._works:
            work.segment_over(slots)
        with interrupts.heard():
            self._checkpointer.save(self._pool, self._running, group)

    def _fill(self, slots: range, interrupts: Interrupts) -> bool:
        """Start a training in each slot that is free; whether any was."""
        started = False
        for slot in slots:
            with interrupts.heard():
                pass
            if slot not in self._running and (self._room or self._pool.in_order):
                self._room = self._start(slot)  # if not, then in no other slot, but in lockstep
                started |= self._room
        return started

    def _start(self, slot: int) -> bool:
        for work in self._works:
            training = work.next(slot, self._checkpointer)
            if training is None:
                continue
            self._running[slot] = work, training
            if training.untrained.error is not None:
                self._end(training.untrained, Ending("failed", training.untrained.error))
            return True
        return False

    def _take(self, progress: Progress) -> None:
        """A slot has reached a validation: does its training end there?"""
        work, training = self._running[progress.slot]
        training.seconds += progress.seconds
        training.trained_by(self._pool.host(progress.slot))
        training.updates = progress.update
        if progress.error is not None:
            return self._end(progress, Ending("failed", progress.error))
        training.curves.add(progress, training.rates)
        ending = work.ending(training, progress)
        if ending is not None:
            return self._end(progress, ending)
        if training.observe(progress.update, progress.loss):
            self._pool.revise(progress.slot, training.rates)
        return None

    def _end(self, progress: Progress, ending: Ending) -> None:
        work, training = self._running[progress.slot]
        work.ended(training, ending, progress)
        self._room = True
        del self._running[progress.slot]
        self._pool.release(progress.slot)
