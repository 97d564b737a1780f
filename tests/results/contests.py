"""Contests on made-up scores."""

import numpy as np
import pytest

from lrtune.results.contest import contest

NAMES = ("a", "b", "c", "d", "e", "f")
ZIGZAG = np.tile([1.0, -1.0], 20)  # mean 0


def drawn(means, seeds=20, seed=0, sd=1.0):
    noise = np.random.default_rng(seed).standard_normal((len(means), seeds))
    return {name: mean + sd * own for name, mean, own in zip(NAMES, means, noise, strict=False)}


def held(scores, **more):
    return contest(scores, minimize=True, draws=200, **more)


def whole(scores, **more):
    """The contest when it has ended, given only the seeds that it wanted."""
    given, asked = dict.fromkeys(scores, 5), [5]
    while True:
        result = held({name: scores[name][:n] for name, n in given.items()}, **more)
        if not result.wanted:
            return result, given, asked
        given |= result.wanted
        asked.append(max(result.wanted.values()))


def places(result):
    return {name: one.place for name, one in result.standings.items()}


def alike(one, other, *leave):
    """Whether two results say the same, these figures apart."""
    keep = {"seeds", "gap", "gap_low", "gap_high", "p", "best", "sd"}.difference(leave)
    for name in NAMES[: len(one.standings)]:
        mine, its = ([getattr(r.standings[name], k) for k in keep] for r in (one, other))
        assert mine == pytest.approx(its, nan_ok=True)
    assert (places(one), one.why, one.wanted) == (places(other), other.why, other.wanted)
    assert [*one.standings] == [*other.standings]
    return True
