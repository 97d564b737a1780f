"""Budget: what a run may cost in all, what of it the search may have, and the clock it goes by."""

import math
import time
from dataclasses import dataclass, replace
from numbers import Real

from lrtune.errors import InputError, expect

TRAININGS = 50  # that a run may cost where the user says no budget
CONFIRMED = 0.56  # share of a budget that is kept for the confirmation
FEWEST = 4  # trainings that can confirm anything: two schedules on two seeds


@dataclass(frozen=True, slots=True)
class Budget:
    """When to stop: at whichever limit comes first; each counts the whole run, sessions before too.

    Attributes:
        trials: of the search, at most.
        updates: of range test, search and confirmation together.
        seconds: on the clock on the wall, from the start of the run on.
    """

    trials: int | None = None
    updates: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse a budget that is none."""
        for name in ("trials", "updates", "seconds"):
            check_positive(name, getattr(self, name))
        if self.trials is None and self.updates is None and self.seconds is None:
            raise InputError("no budget: give trials, updates or seconds")

    def most(self, horizon: int) -> float:
        """Updates that it allows where a trial has so many; infinity where only time is a limit."""
        trials = math.inf if self.trials is None else self.trials * horizon
        return min(trials, math.inf if self.updates is None else self.updates)

    def share(self, trials: float, updates: float, seconds: float) -> float:
        """How much of it is spent, 0 ... 1."""
        spent = ((trials, self.trials), (updates, self.updates), (seconds, self.seconds))
        return min(1.0, max(done / limit for done, limit in spent if limit is not None))

    def of_search(self, swept: int, seconds: float, confirmed: float) -> "Budget":
        """What the search may have of it.

        Args:
            swept: updates that the range test took.
            seconds: that are over.
            confirmed: share that is kept for the confirmation.
        """
        updates, end = self.updates, self.seconds
        if updates is not None:
            updates = max(1.0, (1 - confirmed) * updates - swept)
        if end is not None:
            end = seconds + (1 - confirmed) * max(0.0, end - seconds)
        return replace(self, updates=updates, seconds=end)

    def trainings(self, horizon: int, pace: float, spent: float = 0.0) -> float:
        """Whole trainings that it allows in all; infinity where trials are the only limit.

        Args:
            horizon: updates of a training.
            pace: seconds an update, of all slots together.
            spent: seconds that are over.
        """
        by_updates = math.inf if self.updates is None else self.updates
        by_time = math.inf if self.seconds is None else (self.seconds - spent) / pace
        return max(0.0, min(by_updates, by_time)) / horizon

    def kept(self, horizon: int, pace: float, spent: float) -> float:
        """The share of it that is kept for the confirmation; 0 where it is too little for one."""
        enough = CONFIRMED * self.trainings(horizon, pace, spent) >= FEWEST
        return CONFIRMED if enough else 0.0


def check_positive(name: str, value: object) -> None:
    """Refuse a limit that is none."""
    expect(name, value, Real | None, "a number")
    if value is not None and not value > 0:  # type: ignore[operator]
        raise InputError(f"{name} must be positive (got {value})")


class Clock:
    """Seconds since a run began, sessions before included."""

    def __init__(self, earlier: float = 0.0) -> None:
        """Begin where the session before ended."""
        self._began = time.monotonic() - earlier

    @property
    def seconds(self) -> float:
        """That are over."""
        return time.monotonic() - self._began
