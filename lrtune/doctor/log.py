"""Log: the rates that a training run used, as they were found."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lrtune.errors import InputError
from lrtune.schedule.family import Array


@dataclass(frozen=True, slots=True)
class Log:
    """The rates of a run, or of one parameter group of it."""

    name: str  # the column, tag or scheduler that they are from
    at: Array  # float64[n], the updates that used them, increasing; 0 is the first of the run
    rates: Array  # float64[n]
    total: int | None = None  # updates of the whole run, where it is known
    ended: bool = True  # whether the last rate is the last of the run, as far as one can tell
    horizon: int | None = None  # what the scheduler itself says it was made for, in its own steps
    steps: int | None = None  # that the scheduler made, where that is known apart from the updates
    updates: int | None = None  # that the optimizer made when `steps` were counted
    base: float | None = None  # the rate that the scheduler starts from, where it says so
    floor: float | None = None  # the rate that it goes down to, where it says so
    notes: tuple[str, ...] = ()  # sentences about how it was read

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

    def noted(self, *notes: str) -> "Log":
        """With sentences more."""
        return replace(self, notes=(*self.notes, *notes))


def log_of(where: object, name: str, steps: Sequence[float], rates: Sequence[float]) -> Log:
    """A Log of rows as they were written, the first of which may be counted as 1.

    A log that goes back was resumed: what comes later counts.

    Raises:
        InputError: no row has a step, or the log goes back to where it began: two runs.
    """
    at, values = np.asarray(steps, dtype=float), np.asarray(rates, dtype=float)
    at, values = at[np.isfinite(at)], values[np.isfinite(at)]
    if not at.size:
        raise InputError(f"{where}: {name}: no rate with a step: nothing to look at")
    notes = []
    for place in np.flatnonzero(np.diff(at) < 0) + 1:
        if at[place] <= at[0] and place > 1:
            raise InputError(
                f"{where}: {name} begins again at step {at[place]:g} after step "
                f"{at[place - 1]:g}: two runs in one log; give each a log of its own"
            )
        notes.append(f"resumed: went back from step {at[place - 1]:g} to {at[place]:g}")
    # A row is kept if no later row has its step or one before it.
    kept = np.r_[at[:-1] < np.minimum.accumulate(at[::-1])[::-1][1:], True]
    at, values = at[kept], values[kept]
    return Log(name, at - (at[0] == 1), values, notes=tuple(notes[:3]))


def without_repeats(logs: Sequence[Log]) -> list[Log]:
    """Logs without those that only repeat another at a scale of their own, or are zero beside it.

    A group at zero is frozen, on purpose; where all are at zero, that is for a rule to say.
    """
    kept: list[Log] = []
    learning = [log for log in logs if not log.zero]
    for log in learning or logs:
        shape, size = _scaled(log)
        for place, other in enumerate(kept):
            like, scale = _scaled(other)
            if np.array_equal(log.at, other.at) and (
                np.allclose(shape, like, atol=1e-6, equal_nan=True)
            ):
                times = "" if abs(size / scale - 1) < 1e-6 else f" × {size / scale:.3g}"
                kept[place] = other.noted(f"{log.name} is the same{times}")
                break
        else:
            kept.append(log)
    frozen = ", ".join(log.name for log in logs if log.zero)
    if learning and frozen:
        kept[0] = kept[0].noted(f"zero throughout, as the rates of frozen groups are: {frozen}")
    return kept


def _scaled(log: Log) -> tuple[Array, float]:
    """The rates over the largest that is a number, and that one; 1 where all are zero."""
    size = float(np.max(np.abs(log.rates[np.isfinite(log.rates)]), initial=0.0)) or 1.0
    return log.rates / size, size


def distinct(rates: Array) -> "np.ndarray[Any, np.dtype[np.intp]]":
    """Where runs of equal rates begin."""
    moved = np.abs(np.diff(rates)) > 1e-9 * np.max(np.abs(rates), initial=0.0)
    return np.concatenate([np.zeros(1, np.intp), np.flatnonzero(moved) + 1])


def stairs(log: Log) -> int:
    """Updates that each rate is kept for, where all are kept equally long; else 1.

    A scheduler that is stepped once per epoch makes such a log.
    """
    changes = log.at[1:][np.diff(log.rates) != 0]
    if log.gap > 1 or changes.size < 2:
        return 1
    lengths = np.diff(np.r_[log.at[0], changes])
    length = max(1, int(np.median(lengths)))
    # All changes at whole multiples: one that is missing is a rate that stayed where it was.
    even = np.all(changes % length == 0) and np.mean(lengths == length) > 0.7
    return length if even else 1


def by_stair(log: Log, length: int) -> Log:
    """One rate per stair, counted in stairs."""
    taken = log.at % length == 0
    total = log.total and round(log.total / length)
    return replace(log, at=log.at[taken] / length, rates=log.rates[taken], total=total)
