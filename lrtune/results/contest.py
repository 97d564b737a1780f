"""Contest: which of several contenders is the best, from paired scores that come seed by seed.

All contenders are tried on the same seeds. They are looked at after 5, 10, 20, ... seeds; who is
clearly worse than the best gets no more. That a look may come early, that there are several, that
several contenders are compared, and that the best was picked by the same data, is all paid for: of
contenders that are equal in truth, one is called the winner in at most ``ALPHA`` of all contests.
That holds for differences that are not strongly skewed: of two log-normal scores one of which
varies three times as much, it was 13 % (``scripts/bench/verdict.py``).

Sources: boundaries of the shape of Wang and Tsiatis (1987) for the looks; Holm's step-down (1979)
over all pairs of those still in; the best against the second at no further price (Gutmann and
Maymin 1987, Hung and Fithian 2019); paired t-tests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lrtune.results.looks import levels, looks
from lrtune.results.odds import odds, seeds_needed
from lrtune.results.paired import Sample, interval, paired_p

FIRST, MOST = 5, 20  # seeds
INDIFFERENCE = 0.1  # of the standard deviation between seeds, where no difference was named
DRAWS = 20_000  # of the means, for the probability to be the best
ENOUGH = 0.25  # of the samples' variance: where seeds add no more, more of them would hardly help


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
    best: float


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


def contest(
    scores: Mapping[str, Sequence[float]],
    *,
    minimize: bool,
    blocks: Mapping[str, Sequence[Sequence[float]]] | None = None,
    first: int = FIRST,
    most: int = MOST,
    indifference: float | None = None,
    draws: int = DRAWS,
) -> Result:
    """Who is the best, as far as these scores tell.

    Args:
        scores: by contender, of the 1st, 2nd, ... seed; non-finite where a training was lost. The
            seeds are the same for all, but those left behind may have fewer.
        minimize: whether the lower score is the better one.
        blocks: by contender, for each of these seeds the scores on the parts of the split, the same
            for all; then it counts too that another split might have favoured others.
        first: seeds before the first look.
        most: seeds at most.
        indifference: a difference that does not matter, in the metric's unit; a tenth of the
            standard deviation between seeds where None.
        draws: of the means, for the probability to be the best.
    """
    sign = 1.0 if minimize else -1.0
    parts = blocks or {}
    table = {name: Sample.of(seen, parts.get(name, ()), sign) for name, seen in scores.items()}
    sound = {name: one for name, one in table.items() if np.isfinite(one.values).all()}
    at = looks(first, most)
    each = levels(at)
    state = _State(list(sound), "open" if sound else "lost", each[-1])
    for look, level in zip(at, each, strict=True):
        if state.why != "open" or (state.seen and len(state.alive) == 1):
            break
        _look(state, sound, look, level, indifference)
    if state.why == "open" and len(state.alive) == 1:
        state.why = "alone"
    return _result(table, sound, state, sign, draws)


@dataclass(slots=True)
class _State:
    """Of a contest between two looks."""

    alive: list[str]
    why: str
    level: float  # of the last look
    seen: int = 0
    delta: float = 0.0
    p_values: dict[str, float] = field(default_factory=dict)
    wanted: int = 0


def _look(
    state: _State, sound: Mapping[str, Sample], look: int, level: float, given: float | None
) -> None:
    """Look at those still in after so many seeds."""
    if min(len(sound[name]) for name in state.alive) < look:
        state.why, state.wanted = "more", look
        return
    state.seen = look
    now = {name: sound[name].first(look) for name in state.alive}
    state.delta = _indifference(given, now)
    if len(now) == 1:
        return
    state.alive, tested = _left(now, level)
    state.p_values |= tested
    if len(state.alive) == 1:
        state.why = "separated"
        return
    apart = _apart({name: now[name] for name in state.alive})
    if all(max(map(abs, interval(one, level))) <= state.delta for one in apart):
        state.why = "settled"
    elif all(b and a <= ENOUGH * b for a, b in (one.variances for one in apart)):
        state.why = "samples"


def _apart(scores: Mapping[str, Sample]) -> list[Sample]:
    """What each of the others is worse than the best."""
    best = min(scores, key=lambda name: scores[name].mean)
    return [one - scores[best] for name, one in scores.items() if name != best]


def _left(scores: Mapping[str, Sample], level: float) -> tuple[list[str], dict[str, float]]:
    """Those that are not worse than the best, and the adjusted p-value of each of the others."""
    best = min(scores, key=lambda name: scores[name].mean)
    raw = {name: paired_p(one - scores[best]) for name, one in scores.items() if name != best}
    tested, before = {best: 1.0}, 0.0
    for left, name in zip(range(len(scores), 1, -1), sorted(raw, key=raw.__getitem__), strict=True):
        # The best was picked by the data: any pair of those left might have been the one tested.
        before = max(before, min(1.0, raw[name] * left * (left - 1) / 2))
        # That it beats all of them is one claim, and costs no more than its weakest part.
        tested[name] = min(before, max(raw.values()))
    return [name for name in scores if tested[name] > level], tested


def _indifference(given: float | None, scores: Mapping[str, Sample]) -> float:
    if given is not None:
        return given
    several = [one.values.std(ddof=1) for one in scores.values() if len(one) > 1]
    return INDIFFERENCE * float(np.median(several)) if several else 0.0


def _result(
    table: Mapping[str, Sample],
    sound: Mapping[str, Sample],
    state: _State,
    sign: float,
    draws: int,
) -> Result:
    common = {name: sound[name].first(state.seen) for name in state.alive if state.seen}
    best = min(common, key=lambda name: common[name].mean, default=None)
    chances = odds(sound, draws)
    standings = {}
    for name, one in table.items():
        finite = np.isfinite(one.values)
        kept = Sample(one.values[finite], one.blocks[finite])
        place = "behind" if name in sound else "lost"
        if name in state.alive:
            place = "winner" if len(state.alive) == 1 else "tied"
        gap = (float("nan"),) * 3
        if best is not None and name in sound:
            shared = min(len(one), state.seen)
            gap = _around(one.first(shared) - sound[best].first(shared))
        mean, *ends = _around(kept)
        low, high = sorted(sign * end for end in ends)
        standings[name] = Standing(
            len(one),
            len(one) - len(kept),
            sign * mean,
            low,
            high,
            float(kept.values.std(ddof=1)) if len(kept) > 1 else float("nan"),
            place,
            *gap,
            p=state.p_values.get(name, float("nan")),
            best=chances.get(name, 0.0),
        )
    ranks = {"winner": 0, "tied": 0, "behind": 1, "lost": 2}

    def rank(name: str) -> tuple[float, ...]:
        found = standings[name]
        return ranks[found.place], *np.nan_to_num((found.gap, sign * found.mean), nan=np.inf)

    order = sorted(standings, key=rank)
    return Result(
        {name: standings[name] for name in order},
        state.why,
        state.seen,
        state.delta,
        dict.fromkeys(state.alive, state.wanted) if state.why == "more" else {},
        *seeds_needed([common[name] for name in order if name in common], state.level, state.delta),
    )


def _around(sample: Sample) -> tuple[float, float, float]:
    """The mean and the ends of its interval."""
    return (sample.mean, *interval(sample))
