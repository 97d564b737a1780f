"""Keeper: a checkpoint of what is under way, saved now and then and given back one by one."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from lrtune.engine import Pool
from lrtune.engine.checkpoint import Note, load, save
from lrtune.engine.pool import Snapshot
from lrtune.engine.tally import is_out_of_memory
from lrtune.errors import InputError
from lrtune.search.running import Observer

LEAST_SECONDS = 30.0  # between two checkpoints: less than this may be lost
MOST_OF_TIME = 0.02  # what saving may take of all time
Training = TypeVar("Training", bound=Observer)


def due(since: float, cost: float) -> bool:
    """Whether it is time for a checkpoint.

    The more often, the less a kill costs, and the more no kill does. Half a minute is cheap to
    lose; where saving is slow, its share of the time decides.

    Args:
        since: seconds since the last one, or since the start.
        cost: seconds that the last one took; 0 before the first.
    """
    return since >= max(LEAST_SECONDS, cost / MOST_OF_TIME)


class Keeper:
    """A checkpoint only saves time: without it, what was cut short starts from scratch.

    Attributes:
        kept: snapshots and notes that are still to be taken up, by number.
    """

    def __init__(self, path: Path | None, tell: Callable[[str], None]) -> None:
        """Look at nothing yet.

        Args:
            path: of the checkpoint; nothing is kept where None.
            tell: called with a line where a checkpoint cannot be used.
        """
        self.kept: dict[int, tuple[Snapshot, Note]] = {}
        self._path = path
        self._tell = tell
        self._saves = path is not None
        self._last = time.monotonic()
        self._cost = 0.0

    def load(self, number_of: Callable[[int, Snapshot, Note], int | None]) -> None:
        """Read the checkpoint.

        Args:
            number_of: which one this is now, of what had this number; None where it is not wanted.
        """
        if self._path is None or not self._path.exists():
            return
        try:
            found = load(self._path)
        except InputError as error:
            self._tell(f"{error}: what it held starts from scratch")
            return
        numbers = {before: number_of(before, *kept) for before, kept in found.items()}
        self.kept = {now: found[before] for before, now in numbers.items() if now is not None}

    def take(
        self,
        number: int,
        name: str,
        pool: Pool,
        slot: int,
        as_it_was: Callable[[Snapshot, Note], Training],
    ) -> Training | None:
        """Put one in a free slot as it was; None if it was not kept, or is of no use any more.

        Args:
            number: which one.
            name: of it, for the line that tells that it is of no use.
            pool: that goes on with it.
            slot: of the pool's.
            as_it_was: makes it, but for what its closed loop has seen.
        """
        if number not in self.kept:
            return None
        snapshot, note = self.kept.pop(number)
        training = as_it_was(snapshot, note)
        training.look_back()
        try:
            if not np.array_equal(training.rates, snapshot.rates):
                raise ValueError("its rates are not those of its schedule")
            pool.restore(slot, snapshot)
        except (KeyError, RuntimeError, ValueError) as error:  # another model, say
            if is_out_of_memory(error):  # it is of use where there is room: the file still has it
                raise
            self._tell(f"{name} starts from scratch: {error}")
            return None
        return training

    def save_if_due(
        self,
        pool: Pool,
        notes: Callable[[], Mapping[int, tuple[int, Note]]],
        others: Callable[[], Mapping[int, tuple[Snapshot, Note]]] = dict,
    ) -> None:
        """Save all that is under way, between two segments; and what is still to be taken up.

        Args:
            pool: that trains it.
            notes: by slot, its number and what the Snapshot does not know of it.
            others: snapshots to be kept beside, under numbers of their own.
        """
        began = time.monotonic()
        if not (self._saves and due(began - self._last, self._cost)):
            return
        under_way = notes()
        if not under_way:
            return
        new = {number: (pool.snapshot(slot), note) for slot, (number, note) in under_way.items()}
        self._write(self.kept | new | dict(others()))
        self._last = time.monotonic()
        self._cost = self._last - began

    def remove(self) -> None:
        """Nothing is left to go on with."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path.with_name(f"{self._path.name}.part").unlink(missing_ok=True)

    def _write(self, kept: Mapping[int, tuple[Snapshot, Note]]) -> None:
        assert self._path is not None
        snapshots = {number: snapshot for number, (snapshot, _) in kept.items()}
        try:
            save(self._path, snapshots, {number: note for number, (_, note) in kept.items()})
        except (OSError, KeyError, RuntimeError) as error:
            self._saves = False
            self._tell(f"no more checkpoints: {error}")
