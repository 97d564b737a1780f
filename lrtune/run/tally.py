"""How the finals stand while they are trained, for whoever watches."""

from collections.abc import Sequence
from dataclasses import dataclass

from lrtune.schedule import Schedule
from lrtune.search.confirmation import Final


@dataclass(frozen=True, slots=True)
class Contender:
    """A configuration that takes part.

    Attributes:
        schedule: what is trained.
        scores: of its trainings so far, by seed; NaN where one was lost.
        wanted: whether it is still in: trained in this round, or waiting for those who are.
    """

    schedule: Schedule
    scores: dict[int, float]
    wanted: bool


@dataclass(frozen=True, slots=True)
class Tally:
    """A round of trainings as it stands.

    Attributes:
        share: how much of the whole run's budget is spent, 0 ... 1.
        done: trainings of this round that are over, those under way in part.
        jobs: trainings in this round.
        contenders: all of them.
        over: trainings that ended since the last time.
    """

    share: float
    done: float
    jobs: int
    contenders: Sequence[Contender] = ()
    over: Sequence[Final] = ()
