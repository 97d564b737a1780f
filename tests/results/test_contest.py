"""A contest on made-up scores: places, p-values, figures, lost seeds, symmetries."""

import numpy as np
import pytest
from scipy import stats

from lrtune.results.contest import contest
from tests.results.contests import ZIGZAG, alike, drawn, held, places


def test_holms_step_down_by_hand():
    """Of five there are 10 pairs, of four 6, of three 3, of two 1."""
    wanted = {"b": 0.001, "c": 0.004, "d": 0.02, "e": 0.9}
    scores = {"a": np.zeros(10)}
    spread = ZIGZAG[:10] / ZIGZAG[:10].std(ddof=1) * np.sqrt(10)
    for name, p in wanted.items():
        scores[name] = stats.t.isf(p / 2, 9) + spread
    one = held(scores, first=10, most=10).standings
    assert {name: s.p for name, s in one.items()} == pytest.approx(
        {"a": 1.0, "b": 10 * 0.001, "c": 6 * 0.004, "d": 3 * 0.02, "e": 0.9}
    )
    behind = {name for name, s in one.items() if s.place == "behind"}
    assert behind == {"b", "c"}


def test_beating_all_costs_no_more_than_the_weakest():
    """Each raw p-value is 0.04: too much for one of three pairs, enough for all together."""
    spread = ZIGZAG[:10] / ZIGZAG[:10].std(ddof=1) * np.sqrt(10)
    scores = {"a": np.zeros(10), "b": stats.t.isf(0.02, 9) + spread}
    scores["c"] = scores["b"][::-1]
    result = held(scores, first=10, most=10)
    assert result.why == "separated" and result.tied == ["a"]
    assert result.standings["c"].p == pytest.approx(0.04)
    scores["c"] = stats.t.isf(0.03, 9) + spread
    assert held(scores, first=10, most=10).tied == ["a", "c", "b"]


def test_the_figures_of_a_standing():
    scores = {"a": [1.0, 2.0, 3.0, 4.0, 5.0], "b": [2.0, 2.0, 5.0, 4.0, 7.0]}
    one = held(scores).standings["b"]
    assert (one.seeds, one.lost, one.mean, one.gap) == (5, 0, 4, 1)
    assert one.sd == pytest.approx(np.std(scores["b"], ddof=1))
    reach = stats.t.isf(0.025, 4) / np.sqrt(5)
    assert (one.low, one.high) == pytest.approx((4 - reach * one.sd, 4 + reach * one.sd))
    assert (one.gap_low, one.gap_high) == pytest.approx((1 - reach, 1 + reach))
    assert one.p == pytest.approx(stats.ttest_rel(scores["a"], scores["b"]).pvalue)


def test_the_probability_to_be_the_best_is_that_of_the_paired_t_test():
    scores = drawn([0, 0.4], seed=3)
    found = contest(scores, minimize=True).standings
    p = stats.ttest_rel(scores["b"], scores["a"], alternative="greater").pvalue
    assert found["b"].best == pytest.approx(p, abs=0.01) and 0.05 < p < 0.95
    common = 100 * np.random.default_rng(1).standard_normal(20)
    shifted = contest({n: s + common for n, s in scores.items()}, minimize=True).standings
    assert shifted["b"].best == pytest.approx(p, abs=0.01)


def test_one_contender():
    scores = drawn([0])
    assert held({"a": scores["a"][:3]}).wanted == {"a": 5}
    result = held(scores)
    assert (result.why, result.tied, result.wanted) == ("alone", ["a"], {})
    assert result.standings["a"].best == 1 and result.standings["a"].gap == 0
    assert (result.needed, result.settling) == (None, None)


def test_one_seed():
    result = held({"a": [0.3], "b": [0.2]}, first=1, most=1)
    assert (result.why, result.tied) == ("open", ["b", "a"])
    assert result.standings["a"].gap == pytest.approx(0.1)
    assert np.isnan(result.standings["a"].best) and np.isnan(result.standings["a"].gap_low)
    assert held({"a": [0.3], "b": [0.2]}, first=1, most=4).wanted == {"a": 2, "b": 2}


@pytest.mark.parametrize("scores", [{}, {"a": [np.nan] * 5, "b": [0.1, np.inf]}])
def test_nobody_is_left(scores):
    result = held(scores)
    assert (result.why, result.tied, result.wanted) == ("lost", [], {})
    assert all(one.place == "lost" and one.best == 0 for one in result.standings.values())


def test_nobody_has_begun():
    result = held({"a": [], "b": []})
    assert (result.why, result.wanted) == ("more", {"a": 5, "b": 5})


def test_one_is_lost_and_the_other_alone():
    result = held({"a": [0.1, np.nan, 0.2], "b": drawn([9])["a"]})
    assert (result.why, places(result)) == ("alone", {"b": "winner", "a": "lost"})
    lost = result.standings["a"]
    assert (lost.seeds, lost.lost, lost.mean) == (3, 1, pytest.approx(0.15))
    assert np.isnan([lost.gap, lost.p]).all()


def test_the_best_diverges_at_a_later_seed():
    """Those that it had left behind are back in, and get the seeds that they missed."""
    scores = drawn([-50, 0, 0.1, 20])
    first = held({name: own[:5] for name, own in scores.items()})
    assert (first.why, first.tied) == ("separated", ["a"])
    told = {name: own[:5] for name, own in scores.items()} | {"a": [*scores["a"][:5], np.nan]}
    later = held(told)
    assert places(later) == {"b": "tied", "c": "tied", "d": "behind", "a": "lost"}
    assert later.wanted == {"b": 10, "c": 10}


def test_no_variance():
    result = held({"a": [0.1] * 5, "b": [0.2] * 5, "c": [0.3] * 5})
    assert (result.why, result.tied, result.seeds) == ("separated", ["a"], 5)
    assert result.standings["a"].best == 1 and result.standings["b"].p == 0


@pytest.mark.parametrize("values", [[0.1] * 5, [0.1, 0.4, 0.2, 0.7, 0.3]])
def test_identical_scores_are_settled_at_the_first_look(values):
    result = held({"a": values, "b": values})
    assert (result.why, result.tied) == ("settled", ["a", "b"])
    assert [one.best for one in result.standings.values()] == [0.5, 0.5]
    assert result.needed is None


def test_with_unequal_numbers_of_seeds_the_common_ones_count():
    scores = drawn([0, 0.2, 9])
    told = {"a": scores["a"][:10], "b": scores["b"][:7], "c": scores["c"][:5]}
    result = held(told)
    assert (result.why, result.seeds, result.wanted) == ("more", 5, {"a": 10, "b": 10})
    assert list(result.standings)[-1] == "c"
    best, second = (told[name][:5] for name in result.tied)
    assert result.standings[result.tied[1]].gap == pytest.approx((second - best).mean())
    assert second.mean() > best.mean()
    assert [one.seeds for one in result.standings.values()] == [
        len(told[name]) for name in result.standings
    ]


def test_the_best_comes_first_even_if_its_later_seeds_are_bad():
    told = {"a": [*(1 + ZIGZAG[:5]), 9.0, 9.0], "b": [1.1, 0.9, 1.2, 1.1, 1.2]}
    assert list(held(told, first=4).standings) == ["a", "b"]


SETS = [
    {name: own[:seeds] for name, own in drawn(means).items()}
    for means in ([0, 0.1, 0.2], [0, 0.4, 3, 3], [0, 2, 2, 2])
    for seeds in (5, 20)
]


@pytest.mark.parametrize("scores", SETS)
def test_minimize_and_maximize(scores):
    mirrored = contest({n: -s for n, s in scores.items()}, minimize=False, draws=200)
    straight = held(scores)
    assert alike(mirrored, straight)
    for name, one in straight.standings.items():
        other = mirrored.standings[name]
        assert (one.mean, one.low, one.high) == (-other.mean, -other.high, -other.low)


@pytest.mark.parametrize("scores", SETS)
def test_scores_shifted_or_scaled(scores):
    straight = held(scores)
    assert alike(held({n: s + 100 for n, s in scores.items()}), straight)
    scaled = held({n: 1000 * s for n, s in scores.items()})
    assert alike(scaled, straight, "gap", "gap_low", "gap_high", "sd")
    assert scaled.indifference == pytest.approx(1000 * straight.indifference)
    assert (scaled.needed, scaled.settling) == (straight.needed, straight.settling)


@pytest.mark.parametrize("scores", SETS)
def test_the_order_of_the_contenders_does_not_matter(scores):
    assert alike(held(dict(reversed(scores.items()))), held(scores))
