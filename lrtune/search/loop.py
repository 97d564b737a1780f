"""The loop: all slots train a segment together, and what is over makes room for what comes next."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lrtune.engine import Pool, Progress
from lrtune.engine.checkpoint import Note
from lrtune.search.interrupt import Interrupts
from lrtune.search.keeper import Keeper
from lrtune.search.record import Ending
from lrtune.search.training import Training

Kind = TypeVar("Kind", bound=Training)


class Work(Protocol[Kind]):
    """Trainings of one kind: where they come from, and what becomes of them."""

    @property
    def waits(self) -> bool:
        """Whether more is to be trained, though nothing of it can start yet."""

    def begin(self, keeper: Keeper) -> None:
        """Look at what there is, and at what a session before left."""

    def next(self, slot: int, keeper: Keeper) -> Kind | None:
        """Start a training in a free slot; None where none is to start now."""

    def ending(self, training: Kind, progress: Progress) -> Ending | None:
        """How a training ends at this validation, which is in its curves; None where it goes on."""

    def ended(self, training: Kind, ending: Ending, progress: Progress) -> None:
        """Store what came of a training; its slot still has it."""

    def turned(self) -> None:
        """All slots have trained a segment."""

    def note(self, training: Kind) -> Note:
        """What is to be known of a training under way that its Snapshot does not know."""

    def close(self) -> None:
        """The session is over, whatever the reason."""


class Loop:
    """Trains what its works say, as many side by side as the pool has slots.

    Attributes:
        segments: that were trained in this session.
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
        self._keeper = Keeper(checkpoint, tell)
        self._running: dict[int, tuple[Work[Any], Training]] = {}  # by slot
        self.segments = 0

    def run(self) -> bool:
        """Train until nothing is left to be started, or the budget is spent.

        Returns:
            Whether the budget ended while something was under way.

        Raises:
            KeyboardInterrupt: after Ctrl-C or SIGTERM; the same trainings go on in a next session.
        """
        self._keeper.load()
        with Interrupts() as interrupts:
            try:
                for work in self._works:
                    work.begin(self._keeper)
                while not self._spent() and self._fill(interrupts):
                    with interrupts.heard():
                        reached = self._pool.advance()
                    self.segments += 1
                    for progress in reached:
                        self._take(progress)
                    for work in self._works:
                        work.turned()
                    with interrupts.heard():
                        self._save()
                if self._running:
                    self._save(now=True)
                elif not self._keeper.kept:
                    self._keeper.remove()
                return bool(self._running)
            finally:
                for work in self._works:
                    work.close()

    def _fill(self, interrupts: Interrupts) -> bool:
        """Start a training in each free slot: is there anything to go on with?"""
        started = False
        for slot in range(self._pool.slots):
            with interrupts.heard():
                pass
            if slot not in self._running:
                started |= self._start(slot)
        return started or bool(self._running) or any(work.waits for work in self._works)

    def _start(self, slot: int) -> bool:
        for work in self._works:
            training = work.next(slot, self._keeper)
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
        del self._running[progress.slot]
        self._pool.release(progress.slot)

    def _save(self, now: bool = False) -> None:
        running = {slot: training for slot, (_, training) in self._running.items()}

        def note(slot: int) -> Note:
            work, training = self._running[slot]
            return work.note(training)

        self._keeper.save(self._pool, running, note, now)
