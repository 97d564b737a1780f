"""Log: the rates that a training run used, as they were found."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lrtune.errors import InputError
from lrtune.schedule.family import Array

MOST = 5_000_000  # rows of a log: more than any run is logged with, and they must fit in memory


class NoRates(InputError):
    """It can be read, and there are no learning rates in it."""


@dataclass(frozen=True, slots=True)
class Log:
    """The rates of a run, or of one parameter group of it.

    Attributes:
        name: the column, tag or scheduler that they are from.
        at: float64[n], the updates that used them, increasing; 0 is the first of the run.
        rates: float64[n].
        total: updates of the whole run, where it is known.
        ended: whether the last rate is also the last of the run, as far as anyone can tell.
        epochs: that the rates span, where it is known.
        horizon: what the scheduler itself says it was made for, in its own steps.
        steps: that the scheduler made, where that is known apart from the updates.
        updates: that the optimizer made when `steps` were counted.
        base: the rate that the scheduler starts from, where it says so.
        floor: the rate that it goes down to, where it says so.
        notes: sentences about how it was read.
    """

    name: str
    at: Array
    rates: Array
    total: int | None = None
    ended: bool = True
    epochs: float | None = None
    horizon: int | None = None
    steps: int | None = None
    updates: int | None = None
    base: float | None = None
    floor: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def gap(self) -> float:
        """Updates between two rates, usually."""
        return float(np.median(np.diff(self.at))) if len(self.at) > 1 else 1.0

    @property
    def end(self) -> float:
        """Updates of the run: as it is known, else as far as the rates go."""
        return float(self.total) if self.total else float(self.at[-1]) + self.gap

    @property
    def complete(self) -> bool:
        """Whether the rates reach the end of the run."""
        return self.ended and float(self.at[-1]) + 2 * self.gap >= self.end

    @property
    def zero(self) -> bool:
        """Whether no rate is other than zero, nor the one that the scheduler starts from."""
        return not self.rates.any() and not self.base

    @property
    def finite(self) -> "Log":
        """The rates that are numbers, in a run as long as before."""
        kept = np.isfinite(self.rates)
        total = self.total or (round(self.end) if self.ended else None)
        return replace(self, at=self.at[kept], rates=self.rates[kept], total=total)

    def noted(self, *notes: str) -> "Log":
        """With sentences more."""
        return replace(self, notes=(*self.notes, *notes))


def in_order(
    where: str, name: str, steps: Sequence[float], rates: Sequence[float]
) -> tuple[Array, Array, tuple[str, ...]]:
    """Updates that increase, their rates, and what is to be said of that.

    A log that goes back was resumed: what comes later counts. A log that goes back to where it
    began holds two runs.
    """
    at, values = np.asarray(steps, dtype=float), np.asarray(rates, dtype=float)
    known = np.isfinite(at)
    at, values = at[known], values[known]
    if not at.size:
        raise InputError(f"{where}: {name}: no rate with a step: nothing to look at")
    if at.size > MOST:
        raise InputError(f"{where}: {at.size:,} rates: at most {MOST:,} are read; thin the log")
    notes = []
    back = np.flatnonzero(np.diff(at) < 0) + 1
    for place in back:
        if at[place] <= at[0] and place > 1:
            raise InputError(
                f"{where}: {name} begins again at step {at[place]:g} after step "
                f"{at[place - 1]:g}: two runs in one log; give each a log of its own"
            )
        notes.append(f"resumed: went back from step {at[place - 1]:g} to {at[place]:g}")
    if back.size:
        # A row is kept if no later row has its step or one before it.
        latest = np.minimum.accumulate(at[::-1])[::-1]
        kept = np.r_[at[:-1] < latest[1:], True]
        at, values = at[kept], values[kept]
    last = np.r_[np.diff(at) > 0, True]
    return at[last], values[last], tuple(notes[:3])


def several(logs: Sequence[Log]) -> list[Log]:
    """Logs without those that only repeat another at a scale of their own, or are zero beside it.

    A group at zero is frozen, on purpose; where all are at zero, that is for a rule to say.
    """
    kept: list[Log] = []
    learning = [log for log in logs if not log.zero]
    for log in learning or logs:
        twin = next((i for i, other in enumerate(kept) if _alike(log, other)), None)
        if twin is None:
            kept.append(log)
            continue
        ratio = _size(log) / _size(kept[twin])
        kept[twin] = kept[twin].noted(
            f"{log.name} is the same" + ("" if abs(ratio - 1) < 1e-6 else f" × {ratio:.3g}")
        )
    frozen = ", ".join(log.name for log in logs if log.zero)
    if learning and frozen:
        kept[0] = kept[0].noted(f"zero throughout, as the rates of frozen groups are: {frozen}")
    return kept


def _size(log: Log) -> float:
    """The largest rate that is a number, without its sign; 1 where all are zero."""
    finite = log.rates[np.isfinite(log.rates)]
    return float(np.max(np.abs(finite), initial=0.0)) or 1.0


def _alike(a: Log, b: Log) -> bool:
    if not np.array_equal(a.at, b.at):
        return False
    return bool(np.allclose(a.rates / _size(a), b.rates / _size(b), atol=1e-6, equal_nan=True))


def distinct(rates: Array) -> "np.ndarray[tuple[int], np.dtype[np.intp]]":
    """Where runs of equal rates begin."""
    moved = np.abs(np.diff(rates)) > 1e-9 * np.max(np.abs(rates), initial=0.0)
    return np.concatenate([np.zeros(1, np.intp), np.flatnonzero(moved) + 1])


def stairs(log: Log) -> int:
    """Updates that each rate is kept for, where all are kept equally long; else 1.

    A scheduler that is stepped once an epoch makes such a log.
    """
    if log.gap > 1 or len(log.at) < 6:
        return 1
    changes = log.at[1:][np.diff(log.rates) != 0]
    if changes.size < 2:
        return 1
    lengths = np.diff(np.r_[log.at[0], changes])
    length = int(np.median(lengths))
    # All changes at whole multiples: one that is missing is a rate that stayed where it was.
    even = np.all(changes % length == 0) if length > 1 else False
    return length if even and np.mean(lengths == length) > 0.7 else 1


def by_stair(log: Log, length: int) -> Log:
    """One rate a stair, counted in stairs."""
    taken = log.at % length == 0
    total = log.total and round(log.total / length)
    return replace(log, at=log.at[taken] / length, rates=log.rates[taken], total=total)
