"""Contest: which of several contenders is the best, from paired scores that come seed by seed.

All contenders are tried on the same seeds. They are looked at after 5, 10, 20, ... seeds; who is
clearly worse than the best gets no more. That a look may come early, that there are several, that
several contenders are compared, and that the best was picked by the same data, is all paid for: of
contenders that are equal in truth, one is called the winner in less than 5 % of all contests.
That holds for differences that are not strongly skewed: of two log-normal scores one of which
varies three times as much, it was 11 % (``scripts/bench/verdict.py``). Hall's correction for
skewness (1992), where it is the more cautious, brought that to 9 % and cost nine points of power
under heavy tails; Johnson's, the bootstrap-t and a signed-rank test beside did no better.

Sources: boundaries of the shape of Wang and Tsiatis (1987) for the looks; Holm's step-down (1979)
over all pairs of those still in; the best against the second at no further price (Gutmann and
Maymin 1987, Hung and Fithian 2019); paired t-tests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lrtune.results.looks import Look, looks
from lrtune.results.odds import seeds_needed
from lrtune.results.outcome import Result, Tested, outcome
from lrtune.results.paired import Sample, interval, paired_p

FIRST, MOST = 5, 20  # seeds
INDIFFERENCE = 0.1  # of the standard deviation between seeds, where no difference was named
DRAWS = 20_000  # of the means, for the probability to be the best
ENOUGH = 0.25  # of the samples' variance: where seeds add no more, more of them would hardly help


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
    planned = looks(first, most)
    state = _State(list(sound), "open" if sound else "lost")
    for look in planned:
        if state.why != "open" or (state.seen and len(state.alive) == 1):
            break
        _look(state, sound, look, indifference)
    if state.why == "open" and len(state.alive) == 1:
        state.why = "alone"
    standings = outcome(table, sound, state.alive, state.seen, state.tested, sign, draws)
    common = [sound[name].first(state.seen) for name in standings if name in state.alive]
    return Result(
        standings,
        state.why,
        state.seen,
        state.delta,
        state.wanted,
        *seeds_needed(common if state.seen else [], planned[-1], state.delta),
    )


@dataclass(slots=True)
class _State:
    """Of a contest between two looks."""

    alive: list[str]
    why: str
    seen: int = 0
    delta: float = 0.0
    tested: dict[str, Tested] = field(default_factory=dict)
    wanted: dict[str, int] = field(default_factory=dict)


def _look(
    state: _State, sound: Mapping[str, Sample], look: Look, indifference: float | None
) -> None:
    """Look at those still in after so many seeds."""
    if any(len(sound[name]) < look.seeds for name in state.alive):
        state.why, state.wanted = "more", dict.fromkeys(state.alive, look.seeds)
        return
    now = {name: sound[name].first(look.seeds) for name in state.alive}
    left, tested = _left(now, look)
    state.seen, state.delta = look.seeds, _indifference(indifference, now)
    state.alive = left
    state.tested |= tested
    if len(now) == 1:
        return
    if len(left) == 1:
        state.why = "separated"
        return
    best = _best(now)
    apart = [now[name] - now[best] for name in state.alive if name != best]
    if all(max(map(abs, interval(one, look.behind))) <= state.delta for one in apart):
        state.why = "settled"
    elif all(b and a <= ENOUGH * b for a, b in (one.variances for one in apart)):
        state.why = "samples"


def _best(scores: Mapping[str, Sample]) -> str:
    return min(scores, key=lambda name: scores[name].mean)


def _left(scores: Mapping[str, Sample], look: Look) -> tuple[list[str], dict[str, Tested]]:
    """Those that are not worse than the best, and how each of the others was tested."""
    best = _best(scores)
    if len(scores) == 1:
        return [best], {}
    raw = {name: paired_p(one - scores[best]) for name, one in scores.items() if name != best}
    holm, before = {best: 1.0}, 0.0
    for left, name in zip(range(len(scores), 1, -1), sorted(raw, key=raw.__getitem__), strict=True):
        # The best was picked by the data: any pair of those left might have been the one tested.
        holm[name] = before = max(before, min(1.0, raw[name] * left * (left - 1) / 2))
    # That it beats all of them is one claim, and costs no more than its weakest part.
    weakest = max(raw.values())
    tested = {best: Tested(1.0, best)}
    tested |= {name: Tested(min(holm[name], weakest), best) for name in raw}
    if weakest <= look.winner:
        return [best], tested
    return [n for n in scores if holm[n] > look.behind or raw[n] == weakest], tested


def _indifference(given: float | None, scores: Mapping[str, Sample]) -> float:
    if given is not None:
        return given
    several = [one.variance**0.5 for one in scores.values() if len(one) > 1]
    return INDIFFERENCE * float(np.median(several)) if several else 0.0
