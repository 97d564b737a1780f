"""Keeper: the checkpoint of a search, saved now and then and given back trial by trial."""

import time
from collections.abc import Callable, Container, Mapping
from pathlib import Path

from lrtune.engine import Pool
from lrtune.engine.checkpoint import Note, load, save
from lrtune.engine.pool import Snapshot
from lrtune.errors import InputError
from lrtune.search.running import Running, note_of
from lrtune.search.trunk import Member, mark_in

LEAST_SECONDS = 30.0  # between two checkpoints: less than this may be lost
MOST_OF_TIME = 0.02  # what saving may take of all time


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
    """A checkpoint only saves time: without it, trials that were cut short start from scratch."""

    def __init__(self, path: Path | None, owner: str, tell: Callable[[str], None]) -> None:
        """Look at nothing yet.

        Args:
            path: of the checkpoint; nothing is kept where None.
            owner: of the trials.
            tell: called with a line where a checkpoint cannot be used.
        """
        self._path = path
        self._owner = owner
        self._tell = tell
        self._kept: dict[int, tuple[Snapshot, Note]] = {}  # by index; still to be taken up
        self._saves = path is not None
        self._last = time.monotonic()
        self._cost = 0.0

    def load(self, wanted: Container[int]) -> dict[int, int]:
        """Read the checkpoint.

        Args:
            wanted: the indices of the trials that are to go on.

        Returns:
            index -> the search's clock when it was noted down, of those that are there.
        """
        if self._path is None or not self._path.exists():
            return {}
        try:
            found = load(self._path)
        except InputError as error:
            self._tell(f"{error}: what it held starts from scratch")
            return {}
        self._kept = {
            index: (snapshot, note)
            for index, (snapshot, note) in found.items()
            if index in wanted and note["owner"] == self._owner
        }
        return {index: note["clock"] for index, (_, note) in self._kept.items()}

    @property
    def members(self) -> list[Member]:
        """What is still to be taken up, as the trunks know it."""
        return [
            Member(mark, snapshot.rates, note["curves"]["step"])
            for snapshot, note in self._kept.values()
            if (mark := mark_in(note)) is not None
        ]

    def take(self, index: int) -> tuple[Snapshot, Note] | None:
        """The trial as it was, once; None if it was not kept."""
        return self._kept.pop(index, None)

    def save_if_due(self, pool: Pool, running: Mapping[int, Running], clock: int) -> None:
        """Save all trials under way, between two segments; and those still to be taken up."""
        began = time.monotonic()
        if not (self._saves and running and due(began - self._last, self._cost)):
            return
        kept = dict(self._kept)
        for slot, trial in running.items():
            place = {"owner": self._owner, "clock": clock, "trunk": trial.mark}
            note = {**place, **note_of(trial)}
            kept[trial.index] = (pool.snapshot(slot), note)
        self._write(kept)
        self._last = time.monotonic()
        self._cost = self._last - began

    def remove(self) -> None:
        """Nothing is left to go on with."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path.with_name(f"{self._path.name}.part").unlink(missing_ok=True)

    def _write(self, kept: Mapping[int, tuple[Snapshot, Note]]) -> None:
        assert self._path is not None
        snapshots = {index: snapshot for index, (snapshot, _) in kept.items()}
        try:
            save(self._path, snapshots, {index: note for index, (_, note) in kept.items()})
        except (OSError, KeyError, RuntimeError) as error:
            self._saves = False
            self._tell(f"no more checkpoints: {error}")
