"""Budget: what a run may cost, the search's share of it, and the clock that measures it."""

import math
import time
from dataclasses import dataclass, replace
from numbers import Real

from lrtune.errors import InputError, expect
from lrtune.format import parse_time, plural

TRAININGS = 50  # that a run may cost where the user sets no budget
PROPOSED = 0.06  # seconds of proposals and records for each training of a search, about
CONFIRMED = 0.56  # share of a budget that is kept for the confirmation
PER_SLOT = 3  # trials that a slot is to train at least, see ``width``
FEWEST = 4  # trainings that can confirm anything: two schedules on two seeds


@dataclass(frozen=True, slots=True)
class Budget:
    """What the user allows a run to cost; the limit that is reached first ends it.

    Trainings, updates and time cover the whole run: range test, search and confirmation, earlier
    sessions included. Without any limit, a run may cost 50 trainings.

    Attributes:
        trainings: whole trainings.
        updates: the same in optimizer updates.
        time: wall-clock time, in seconds or as text: ``90s``, ``10m``, ``1h30m``.
        trials: trials of the search, at most.

    Raises:
        InputError: a limit is not positive; both trainings and updates are given.
    """

    trainings: float | None = None
    updates: float | None = None
    time: float | str | None = None
    trials: int | None = None

    def __post_init__(self) -> None:
        if self.trainings is not None and self.updates is not None:
            raise InputError("trainings and updates say the same: give one of the two")
        for name in ("trainings", "updates", "trials"):
            check_positive(name, getattr(self, name))
        check_positive("time", self.seconds)

    @property
    def seconds(self) -> float | None:
        """``time`` as a number."""
        return parse_time(self.time) if isinstance(self.time, str) else self.time

    def limits(self, horizon: int) -> "Limits":
        """The same for trainings of ``horizon`` updates."""
        trainings = TRAININGS if self == Budget() else self.trainings
        updates = self.updates if trainings is None else trainings * horizon
        return Limits(self.trials, updates, self.seconds)


@dataclass(frozen=True, slots=True)
class Limits:
    """A budget in the units that a run counts in, sessions before included; at least one is set."""

    trials: int | None = None  # of the search, at most
    updates: float | None = None  # of range test, search and confirmation together
    seconds: float | None = None  # on the wall clock, from the start of the run

    def most(self, horizon: int) -> float:
        """Updates at most, where a trial has ``horizon``; infinite where only time is limited."""
        trials = math.inf if self.trials is None else self.trials * horizon
        return min(trials, math.inf if self.updates is None else self.updates)

    def share(self, trials: float, updates: float, seconds: float) -> float:
        """How much of it is spent, 0 ... 1."""
        spent = ((trials, self.trials), (updates, self.updates), (seconds, self.seconds))
        return min(1.0, max(done / limit for done, limit in spent if limit is not None))

    def of_search(self, swept: int, seconds: float, confirmed: float) -> "Limits":
        """The search's own: of what the range test leaves, all but the share to be confirmed."""
        updates, end = self.updates, self.seconds
        if updates is not None:
            updates = max(1.0, (1 - confirmed) * (updates - swept))
        if end is not None:
            end = seconds + (1 - confirmed) * max(0.0, end - seconds)
        return replace(self, updates=updates, seconds=end)

    def trainings(self, horizon: int, pace: float, spent: float = 0.0) -> float:
        """Whole trainings that it allows in all; infinite where only trials are limited.

        Args:
            horizon: updates of a training.
            pace: seconds per update, of all slots together.
            spent: seconds so far.
        """
        by_updates = math.inf if self.updates is None else self.updates
        by_time = math.inf if self.seconds is None else (self.seconds - spent) / pace
        return max(0.0, min(by_updates, by_time)) / horizon

    def kept(self, horizon: int, pace: float, spent: float) -> float:
        """The share that is kept for the confirmation; 0 where it is too little for one."""
        enough = CONFIRMED * self.trainings(horizon, pace, spent) >= FEWEST
        return CONFIRMED if enough else 0.0


def width(room: int, trials: float) -> tuple[int, str]:
    """How many slots a search should have, and why not more, as a sentence; empty if all.

    Early stopping and the sampler learn from trials that are over. Of 108 trials, with 8, 32 and
    108 side by side, stopping saved 73, 60 and 16 % of the updates.

    Args:
        room: slots that there could be, at least 1.
        trials: that the search will have, about; infinite where nobody knows.
    """
    most = max(1.0, trials / PER_SLOT)
    if room <= most:
        return room, ""
    why = f"a third of {plural(int(trials), 'trial', 'trials')}"
    return int(most), (
        f"{plural(int(most), 'slot', 'slots')}: {why}; more would start trials before others can "
        "tell which to stop"
    )


def check_positive(name: str, value: object) -> None:
    """Refuse a limit that is not positive."""
    expect(name, value, Real | None, "a number")
    if value is not None and not value > 0:  # type: ignore[operator]
        raise InputError(f"{name} must be positive (got {value})")


class Clock:
    """Seconds since a run began, sessions before included."""

    def __init__(self, earlier: float = 0.0) -> None:
        self._began = time.monotonic() - earlier

    @property
    def seconds(self) -> float:
        """The time so far."""
        return time.monotonic() - self._began
