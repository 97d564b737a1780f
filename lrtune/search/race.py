"""The family race: which family the next trial is given to. Pure rules over what is known."""

from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, inf, isfinite
from statistics import fmean

import numpy as np
from scipy.stats import t as student

from lrtune.search.forecast import Scale

ROUND = 6  # trials a family gets before it may drop out, and again and again
COMPLETE = 1  # of these, trials that must have been trained to their end
SURVIVORS = 2  # families that never drop out
HOPELESS = 0.05  # a family drops out whose next round wins with less than this probability
INTERVAL = 2 * 1.645  # from the 5 % to the 95 % quantile, in standard deviations


@dataclass(frozen=True, slots=True, order=True)
class Outcome:
    """What a trial ended with, or would have; the lower the better, infinite where it is lost."""

    index: int
    value: float
    low: float  # 5 % quantile of a forecast; else the value
    high: float  # 95 % quantile


@dataclass
class Standing:
    """What the race knows of a family.

    Attributes:
        started: trials given to it.
        outcomes: of each trial that is over, in the order of the index.
    """

    started: int = 0
    outcomes: list[Outcome] = field(default_factory=list)

    def add(self, index: int, value: float, low: float | None = None, high: float = inf) -> None:
        """Count a trial that is over; with an interval, by its forecast."""
        interval = (value, value) if low is None else (low, high)
        insort(self.outcomes, Outcome(index, value, *interval))


def still_racing(standings: Mapping[str, Standing]) -> list[str]:
    """The families that may still be given trials.

    After each round those drop out that will hardly win any more. Families are compared at equal
    numbers of trials only, so that none wins by having had more tries.
    """
    racing = list(standings)
    trials = ROUND
    while len(racing) > SURVIVORS and all(_has_run(standings[f], trials) for f in racing):
        chances = chances_to_win({f: standings[f].outcomes[:trials] for f in racing})
        ranked = sorted(racing, key=lambda family: -chances[family])
        racing = [f for i, f in enumerate(ranked) if i < SURVIVORS or chances[f] >= HOPELESS]
        trials += ROUND
    return [family for family in standings if family in racing]


def next_family(standings: Mapping[str, Standing]) -> str:
    """Of the families still racing, the one with the fewest trials; the first of equals."""
    return min(still_racing(standings), key=lambda family: standings[family].started)


def chances_to_win(outcomes: Mapping[str, list[Outcome]]) -> dict[str, float]:
    """The probability that a family's next round beats the best value of all.

    The better half of a family's trials are draws of one normal distribution, as wide in every
    family; what a forecast leaves open makes it wider. A next round is as many draws from it. The
    family that holds the best value may always win.
    """
    known = [o.value for found in outcomes.values() for o in found if o.value == o.low]
    finite = np.array([v for v in known if isfinite(v)])
    if len(finite) == 0:
        return dict.fromkeys(outcomes, 1.0)
    scale = Scale.of(finite, minimize=True)
    best = float(scale.to(finite).min())
    halves = {name: _better_half(found, scale) for name, found in outcomes.items()}
    squares = [(p - fmean(half[0])) ** 2 for half in halves.values() if half[0] for p in half[0]]
    freedom = max(1, len(squares) - sum(bool(half[0]) for half in halves.values()))
    variance = sum(squares) / freedom
    chances = {}
    for name, (places, doubts) in halves.items():
        if not places:
            chances[name] = 0.0
            continue
        width = np.sqrt(variance * (1 + 1 / len(places)) + fmean(d**2 for d in doubts)) + 1e-12
        one = float(student.cdf((best - fmean(places)) / width, freedom))
        holds = min(places) <= best and any(o.value == o.low for o in outcomes[name])
        chances[name] = 1.0 if holds else 1 - (1 - one) ** ceil(ROUND / 2)
    return chances


def _better_half(found: list[Outcome], scale: Scale) -> tuple[list[float], list[float]]:
    """Places on the scale and standard deviations, of the better half of what has a value."""
    finite = sorted((o for o in found if isfinite(o.value)), key=lambda o: o.value)
    half = finite[: ceil(len(found) / 2)]
    places = [float(scale.to(o.value)) for o in half]
    doubts = [
        0.0 if o.low == o.value else float(scale.to(o.high) - scale.to(o.low)) / INTERVAL
        for o in half
    ]
    return places, doubts


def _has_run(standing: Standing, trials: int) -> bool:
    """Whether a family can be judged: a round is over, and of trials with a value some whole."""
    outcomes = standing.outcomes[:trials]
    whole = sum(o.value == o.low for o in outcomes if isfinite(o.value))
    lost = all(not isfinite(o.value) for o in outcomes)
    return len(outcomes) == trials and (whole >= COMPLETE or lost)
