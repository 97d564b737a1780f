"""How fast a search goes, and how long it will take."""

import time
from dataclasses import dataclass, field

LEAST = 0.03  # of the whole, done in this session, before a time is worth saying


@dataclass
class Pace:
    """Since when, and from where, something goes on towards 1."""

    share: float = 0.0  # done when this session began
    trials: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since the session began."""
        return time.monotonic() - self.began

    def left(self, share: float) -> float | None:
        """Seconds until the end, at the pace so far; None while that is a guess."""
        done = share - self.share
        return self.seconds / done * (1 - share) if done >= LEAST else None

    def per_minute(self, trials: int) -> float | None:
        """Trials that ended a minute; None before the first."""
        over = trials - self.trials
        return 60 * over / self.seconds if over > 0 and self.seconds > 0 else None


def clock(seconds: float) -> str:
    """Seconds as ``45 s``, ``3 min 05 s`` or ``2 h 10 min``.

    >>> clock(185)
    '3 min 05 s'
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
