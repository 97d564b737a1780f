"""The family race: which family the next trial is given to. Pure rules over what is known."""

from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, field

ROUND = 6  # trials a family gets before the worse half of the families drops out
SURVIVORS = 2


@dataclass
class Standing:
    """What the race knows of a family.

    Attributes:
        started: trials given to it.
        scores: (index, score) of each trial that is over, in the order of the index; lower is
            better, infinity for a trial that has no value.
    """

    started: int = 0
    scores: list[tuple[int, float]] = field(default_factory=list)

    def add(self, index: int, score: float) -> None:
        """Count a trial that is over."""
        insort(self.scores, (index, score))


def still_racing(standings: Mapping[str, Standing]) -> list[str]:
    """The families that may still be given trials.

    Sequential halving (Karnin 2013): every family still in gets ROUND trials, the better half by
    its best score stays, until SURVIVORS are left. Families are compared at equal numbers of
    trials only, so that none wins by having had more tries.
    """
    racing = list(standings)
    trials = ROUND
    while len(racing) > SURVIVORS and all(len(standings[f].scores) >= trials for f in racing):
        best = {f: min(score for _, score in standings[f].scores[:trials]) for f in racing}
        racing = sorted(racing, key=best.__getitem__)[: max(SURVIVORS, (len(racing) + 1) // 2)]
        trials += ROUND
    return [family for family in standings if family in racing]


def next_family(standings: Mapping[str, Standing]) -> str:
    """Of the families still racing, the one with the fewest trials; the first of equals."""
    return min(still_racing(standings), key=lambda family: standings[family].started)
