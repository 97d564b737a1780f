"""Trunk: the beginning that trials of one peak and warmup share, trained once."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial

from lrtune.engine import Pool, Progress
from lrtune.engine.checkpoint import Note
from lrtune.engine.pool import Snapshot
from lrtune.schedule import Schedule
from lrtune.search.peak import Peak
from lrtune.search.record import Curves, Mark
from lrtune.search.space import SCHEDULE
from lrtune.search.store import RECORD, START, index_of

ROOM = 1 << 30  # bytes of memory for snapshots; where they need more, only every n-th is kept


@dataclass(frozen=True, slots=True)
class Kept:
    """A trial as it was at a validation on the trunk."""

    snapshot: Snapshot
    curves: Curves  # up to there
    untrained: Progress


@dataclass(frozen=True, slots=True)
class Member:
    """How far a trial went that was asked for with a trunk."""

    mark: Mark | None  # of the trunk
    rates: NDArray[np.float64]  # (horizon,)
    steps: list[int]  # its validations, in updates, after which it went on


class Trunk:
    """Snapshots at the validations of what is flat so far.

    No trial is the trunk: the first of this peak and warmup leaves a snapshot at each validation
    until its rates leave the peak; the next starts from the last one on its way, and leaves those
    that come after. In all, the trunk is trained once.

    Where a trial forks is settled as it is asked for, and stored. The snapshots are lost with the
    process; ``regrow`` trains them again, so that a search that goes on asks and forks as if it
    had not been stopped.

    Attributes:
        mark: which trunk; None while there is none.
    """

    def __init__(self, pool: Pool, seed: int) -> None:
        """Nothing is shared yet."""
        self.mark: Mark | None = None
        self._pool = pool
        self._seed = seed
        self._rates = np.empty(0)  # (horizon,) of the trunk: flat to the end
        self._kept: dict[int, Kept] = {}  # by update
        self._stride = 0  # of the validations, each n-th is kept; 0 while not known

    def settle(self, peak: Peak | None, index: int) -> None:
        """What is settled as trial ``index`` is asked for: the same trunk, another, or none."""
        before = None if self.mark is None else Peak(*self.mark[:2])
        if peak != before:
            self.set(None if peak is None else (peak.peak_lr, peak.warmup, index))

    def set(self, mark: Mark | None) -> None:
        """From now on, this is the trunk; what was kept of the one before is forgotten."""
        self.mark, self._kept = mark, {}
        if mark is not None:
            flat = Schedule("constant", peak_lr=mark[0], warmup=mark[1])
            self._rates = flat.rates(self._pool.task.horizon)

    def fork_of(self, schedule: Schedule) -> int:
        """How many updates a trial of this schedule need not train, for they are kept."""
        if not self._kept or _alone(schedule):
            return 0
        rates = schedule.rates(len(self._rates))
        return max((update for update in self._kept if self._shares(rates, update)), default=0)

    def at(self, mark: Mark | None, update: int) -> Kept | None:
        """What was kept of this trunk after this update."""
        return self._kept.get(update) if mark == self.mark else None

    def keep(
        self,
        slot: int,
        mark: Mark | None,
        rates: NDArray[np.float64],
        curves: Curves,
        untrained: Progress,
    ) -> None:
        """Keep the trial in this slot, which is at a validation, if that one is on the trunk."""
        update, count = curves.step[-1], len(curves.step)
        if self.mark is None or mark != self.mark or update in self._kept:
            return
        if not self._shares(rates, update) or (self._stride and count % self._stride):
            return
        snapshot = self._pool.snapshot(slot)
        if not self._stride:
            size = sum(tensor.nbytes for tensor in snapshot.tensors.values())
            self._stride = max(1, math.ceil(size * len(self._pool.task.checkpoints) / ROOM))
        if count % self._stride == 0:
            self._kept[update] = Kept(snapshot, curves.until(update), untrained)

    def regrow(self, members: Iterable[Member]) -> None:
        """Train the trunk again, in an empty pool, as far as its members had gone.

        What this costs is no trial's: like the updates that a kill lost, it is not counted.
        """
        reach = max(
            (
                u
                for m in members
                if m.mark == self.mark
                for u in m.steps
                if self._shares(m.rates, u)
            ),
            default=0,
        )
        if self.mark is None or reach == 0:
            return
        untrained = self._pool.admit(0, self._rates, self._seed)
        progress, curves = untrained, Curves()
        while progress.update < reach and progress.error is None:
            (progress,) = self._pool.advance()
            if progress.error is None:
                curves.add(progress, self._rates)
                self.keep(0, self.mark, self._rates, curves, untrained)
        self._pool.release(0)

    def _shares(self, rates: NDArray[np.float64], update: int) -> bool:
        return np.array_equal(rates[:update], self._rates[:update])


def _alone(schedule: Schedule) -> bool:
    """Whether it shares nothing, though it may begin with the same rates."""
    return schedule.closed_loop or schedule.cycles_momentum


def mark_in(start: dict[str, Any]) -> Mark | None:
    """The trunk that a trial was asked for with, of its attribute START."""
    found = start.get("trunk")
    return None if found is None else (found[0], found[1], found[2])


def latest_mark(trials: Iterable[FrozenTrial]) -> Mark | None:
    """The trunk as the last of the trials was asked for."""
    asked = [trial for trial in trials if "trunk" in trial.user_attrs.get(START, {})]
    return mark_in(max(asked, key=index_of).user_attrs[START]) if asked else None


def members_kept(kept: Iterable[tuple[Snapshot, Note]]) -> list[Member]:
    """Those in a checkpoint that were asked for with a trunk."""
    marked = ((mark_in(note), snapshot, note) for snapshot, note in kept)
    return [Member(m, s.rates, note["curves"]["step"]) for m, s, note in marked if m is not None]


def members_among(trials: Iterable[FrozenTrial], horizon: int) -> list[Member]:
    """Those of the trials that are over and were asked for with a trunk."""
    found = []
    for trial in trials:
        mark = mark_in(trial.user_attrs.get(START, {}))
        if mark is None or RECORD not in trial.user_attrs:
            continue
        schedule = Schedule.from_json(trial.user_attrs[SCHEDULE])
        record = trial.user_attrs[RECORD]
        steps = record["curves"]["step"]
        if not _alone(schedule):
            went_on = steps if record["state"] == "failed" else steps[:-1]
            found.append(Member(mark, schedule.rates(horizon), went_on))
    return found
