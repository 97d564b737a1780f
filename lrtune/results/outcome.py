"""Outcome: how each contender of a contest did, and how the contest stands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lrtune.results.odds import odds
from lrtune.results.paired import Sample, interval


@dataclass(frozen=True, slots=True)
class Standing:
    """How a contender did.

    Attributes:
        seeds: on how many it was tried.
        lost: on how many of these it has no score: its training diverged or failed.
        mean: of its scores; NaN without any.
        low: lower end of the mean's 95 % interval; NaN with fewer than two.
        high: upper end.
        sd: standard deviation between seeds; NaN with fewer than two.
        place: winner, tied (with the best), behind, or lost.
        gap: to the best on their common seeds, in the metric's unit; 0 of the best itself, else
            positive where it is worse.
        gap_low: lower end of its 95 % interval, as if this comparison were the only one and the
            best had been named beforehand.
        gap_high: upper end.
        p: that it is as good as the best, adjusted for the others; of the look at which it was left
            behind or else of the last.
        rival: who was the best at that look; empty where nobody was compared.
        best: the probability that its true mean is the best.
    """

    seeds: int
    lost: int
    mean: float
    low: float
    high: float
    sd: float
    place: str
    gap: float
    gap_low: float
    gap_high: float
    p: float
    rival: str
    best: float


@dataclass(frozen=True, slots=True)
class Tested:
    """The last test of a contender: its adjusted p-value, and against whom."""

    p: float
    rival: str


UNTESTED = Tested(float("nan"), "")


@dataclass(frozen=True, slots=True)
class Result:
    """A contest as it stands.

    Attributes:
        standings: by contender, the best first, those with lost seeds last.
        why: "separated", "settled" (the tied differ by less than ``indifference`` for all that is
            known), "samples" (what doubt is left is in the split's samples, so more seeds would not
            help), "open" (neither, and the seeds are used up), "alone" (nobody to compare with),
            "lost" (nobody has a score on every seed), or "more" (more seeds may tell).
        seeds: how many those that are still in were tried on.
        indifference: a difference that does not matter, in the metric's unit.
        wanted: seeds that a next look needs, by contender; empty unless ``why`` is "more".
        needed: seeds that would separate the two best at the gap seen, with a power of 80 %; None
            where no number would, or there is nothing to ask about.
        settling: seeds that would settle it as a tie at that gap; None where no number would.
    """

    standings: dict[str, Standing]
    why: str
    seeds: int
    indifference: float
    wanted: dict[str, int] = field(default_factory=dict)
    needed: int | None = None
    settling: int | None = None

    @property
    def tied(self) -> list[str]:
        """The winner alone, or those that cannot be told apart from the best."""
        return [name for name, s in self.standings.items() if s.place in ("winner", "tied")]


def outcome(
    table: Mapping[str, Sample],
    sound: Mapping[str, Sample],
    alive: Sequence[str],
    seen: int,
    tested: Mapping[str, Tested],
    sign: float,
    draws: int,
) -> dict[str, Standing]:
    """How each did, the best first.

    Args:
        table: all contenders, the lower the better.
        sound: those with a score on every seed.
        alive: those that are still in.
        seen: on how many seeds they were looked at last.
        tested: how each was, the last time.
        sign: what makes of these the scores as they were measured.
        draws: of the means, for the probability to be the best.
    """
    common = {name: sound[name].first(seen) for name in alive if seen}
    best = min(common, key=lambda name: common[name].mean, default=None)
    chances = odds(sound, draws)
    standings = {}
    for name, one in table.items():
        finite = np.isfinite(one.values)
        kept = Sample(one.values[finite], one.blocks[finite])
        place = "behind" if name in sound else "lost"
        if name in alive:
            place = "winner" if len(alive) == 1 else "tied"
        gap = (float("nan"),) * 3
        if best is not None and name in sound:
            shared = min(len(one), seen)
            gap = _around(one.first(shared) - sound[best].first(shared))
        mean, *ends = _around(kept)
        low, high = sorted(sign * end for end in ends)
        test = tested.get(name, UNTESTED)
        standings[name] = Standing(
            len(one),
            len(one) - len(kept),
            sign * mean,
            low,
            high,
            kept.variance**0.5,
            place,
            *gap,
            test.p,
            test.rival,
            chances.get(name, 0.0),
        )
    ranks = {"winner": 0, "tied": 0, "behind": 1, "lost": 2}

    def rank(name: str) -> tuple[float, ...]:
        found = standings[name]
        return ranks[found.place], *np.nan_to_num((found.gap, sign * found.mean), nan=np.inf)

    return {name: standings[name] for name in sorted(standings, key=rank)}


def _around(sample: Sample) -> tuple[float, float, float]:
    """The mean and the ends of its interval."""
    return (sample.mean, *interval(sample))
