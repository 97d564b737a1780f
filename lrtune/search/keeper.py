"""Keeper: a checkpoint of what is under way, saved now and then and given back one by one."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from lrtune.engine import Pool
from lrtune.engine.checkpoint import Note, load, save
from lrtune.engine.device_task import is_out_of_memory
from lrtune.engine.pool import Snapshot
from lrtune.errors import InputError
from lrtune.search.training import Training

LEAST_SECONDS = 30.0  # between two checkpoints: less than this may be lost
MOST_OF_TIME = 0.02  # what saving may take of all time
BEST = " best"  # after the key of a training, that of what it was at its best validation
Kind = TypeVar("Kind", bound=Training)


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
        kept: snapshots and notes that are still to be taken up, by key, see ``Training``.
    """

    def __init__(self, path: Path | None, tell: Callable[[str], None]) -> None:
        """Look at nothing yet.

        Args:
            path: of the checkpoint; nothing is kept where None.
            tell: called with a line where a checkpoint cannot be used.
        """
        self.kept: dict[str, tuple[Snapshot, Note]] = {}
        self._path = path
        self._tell = tell
        self._saves = path is not None
        self._last = time.monotonic()
        self._cost = 0.0

    def load(self) -> None:
        """Read the checkpoint."""
        if self._path is None or not self._path.exists():
            return
        try:
            self.kept = load(self._path)
        except InputError as error:
            self._tell(f"{error}: what it held starts from scratch")

    def forget(self, unwanted: Callable[[str, Note], bool]) -> None:
        """Leave out what is not to be taken up."""
        whole = {key: note for key, (_, note) in self.kept.items() if not key.endswith(BEST)}
        for key in [key for key, note in whole.items() if unwanted(key, note)]:
            self.kept.pop(key)
            self.kept.pop(key + BEST, None)

    def take(
        self,
        key: str,
        pool: Pool,
        slot: int,
        as_it_was: Callable[[Snapshot, Note], Kind],
    ) -> Kind | None:
        """Put one in a free slot as it was; None if it was not kept, or is of no use any more.

        Args:
            key: of which one.
            pool: that goes on with it.
            slot: of the pool's.
            as_it_was: makes it, but for what its closed loop has seen.
        """
        if key not in self.kept:
            return None
        snapshot, note = self.kept.pop(key)
        best, _ = self.kept.pop(key + BEST, (None, {}))
        training = as_it_was(snapshot, note)
        training.best = best
        training.look_back()
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

    def save(
        self,
        pool: Pool,
        running: Mapping[int, Training],
        note: Callable[[int], Note],
        now: bool = False,
    ) -> None:
        """Save all that is under way, between two segments; and what is still to be taken up.

        Args:
            pool: that trains it.
            running: by slot.
            note: by slot, what the Snapshot does not know of what is trained there.
            now: whether it is due or not.
        """
        began = time.monotonic()
        wanted = now or due(began - self._last, self._cost)
        if not (self._saves and running and wanted):
            return
        new: dict[str, tuple[Snapshot, Note]] = {}
        for slot, training in running.items():
            new[training.key] = pool.snapshot(slot), note(slot)
            if training.best is not None:
                new[training.key + BEST] = training.best, {}
        self._write(self.kept | new)
        self._last = time.monotonic()
        self._cost = self._last - began

    def remove(self) -> None:
        """Nothing is left to go on with."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path.with_name(f"{self._path.name}.part").unlink(missing_ok=True)

    def _write(self, kept: Mapping[str, tuple[Snapshot, Note]]) -> None:
        assert self._path is not None
        snapshots = {key: snapshot for key, (snapshot, _) in kept.items()}
        try:
            save(self._path, snapshots, {key: note for key, (_, note) in kept.items()})
        except (OSError, KeyError, RuntimeError) as error:
            self._saves = False
            self._tell(f"no more checkpoints: {error}")
