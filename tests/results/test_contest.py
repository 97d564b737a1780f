import numpy as np
import pytest
from scipy import stats

from lrtune.results import looks as module
from lrtune.results.contest import contest
from lrtune.results.looks import ALPHA, levels, looks
from lrtune.results.paired import Sample, interval, paired_p

NAMES = ("a", "b", "c", "d", "e", "f")
ZIGZAG = np.tile([1.0, -1.0], 20)  # mean 0


def alone(values):
    return Sample.of(values, (), 1.0)


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


@pytest.mark.parametrize(
    ("first", "most", "at"),
    [
        (5, 20, (5, 10, 20)),
        (5, 12, (5, 10, 12)),
        (5, 5, (5,)),
        (1, 1, (1,)),
        (1, 3, (1, 2, 3)),
        (9, 4, (4,)),
    ],
)
def test_looks_double_up_to_the_most(first, most, at):
    assert looks(first, most) == at


@pytest.mark.parametrize("at", [(20,), (5, 10, 20), (3, 5), (5, 10, 20, 40, 80, 160)])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_levels_add_up_and_grow(at, alpha):
    found = levels(at, alpha)
    assert len(found) == len(at)
    assert sum(found) == pytest.approx(alpha) and [*found] == sorted(found)


@pytest.mark.parametrize(("shape", "power"), [(0.5, 0.0), (0.25, 0.25), (0.0, 0.5)])
def test_the_boundary_is_of_the_shape_of_wang_and_tsiatis(monkeypatch, shape, power):
    """Pocock's is the same at each look; O'Brien and Fleming's falls with the root of the seeds."""
    monkeypatch.setattr(module, "SHAPE", shape)
    first, last = stats.norm.isf(np.array(levels((5, 20))) / 2)
    assert first / last == pytest.approx(4**power)


def test_the_looks_together_err_with_less_than_alpha():
    at = looks(5, 20)
    differences = np.random.default_rng(0).standard_normal((100_000, at[-1]))
    erred = np.zeros(len(differences), bool)
    for look, level in zip(at, levels(at), strict=True):
        erred |= stats.ttest_1samp(differences[:, :look], 0, axis=1).pvalue <= level
    # The levels add up to alpha, and the looks have much in common.
    assert 0.042 < erred.mean() < 0.048


@pytest.mark.parametrize("seeds", [2, 3, 5, 20])
@pytest.mark.parametrize("gap", [0.0, 0.5, -3.0])
def test_paired_p_is_that_of_scipy(seeds, gap):
    one, other = drawn([0, gap], seeds).values()
    assert paired_p(alone(other - one)) == pytest.approx(stats.ttest_rel(other, one).pvalue)


@pytest.mark.parametrize(
    ("differences", "p"),
    [([], 1), ([0.3], 1), ([0.0, 0.0], 1), ([0.3, 0.3], 0), ([0.3, -0.3], 1)],
)
def test_paired_p_without_a_spread(differences, p):
    assert paired_p(alone(differences)) == pytest.approx(p)


@pytest.mark.parametrize("seeds", [2, 5, 29])
def test_the_interval_of_few_is_students(seeds):
    values = drawn([3], seeds)["a"]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval(alone(values)) == pytest.approx((expected.low, expected.high))


def test_the_interval_of_many_is_near_students_and_of_one_unknown():
    values = drawn([3], 100)["a"]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval(alone(values)) == pytest.approx((expected.low, expected.high), abs=0.03)
    assert np.isnan(interval(alone(values[:1]))).all()
    assert interval(alone(np.full(40, 0.1))) == pytest.approx((0.1, 0.1))


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


def alike(one, other, *leave):
    """Whether two results say the same, these figures apart."""
    keep = {"seeds", "gap", "gap_low", "gap_high", "p", "best", "sd"}.difference(leave)
    for name in NAMES[: len(one.standings)]:
        mine, its = ([getattr(r.standings[name], k) for k in keep] for r in (one, other))
        assert mine == pytest.approx(its, nan_ok=True)
    assert (places(one), one.why, one.wanted) == (places(other), other.why, other.wanted)
    assert [*one.standings] == [*other.standings]
    return True


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


def test_wanted_grows_and_ends():
    result, given, asked = whole(drawn([0, 0, 30]))
    assert asked == [5, 10, 20] and given == {"a": 20, "b": 20, "c": 5}
    assert (result.why, result.seeds, sorted(result.tied)) == ("open", 20, ["a", "b"])
    assert result.standings["c"].place == "behind" and result.standings["c"].p < 0.001


def test_a_clear_winner_needs_one_look():
    result, given, _ = whole(drawn([0, 30, 40]))
    assert (result.why, result.tied, set(given.values())) == ("separated", ["a"], {5})


def test_later_seeds_of_who_was_left_behind_change_nothing():
    scores = drawn([0, 0, 30])
    assert alike(
        held(scores), whole(scores)[0], "seeds", "sd", "gap", "gap_low", "gap_high", "best"
    )


def test_a_tie_is_settled_where_the_difference_does_not_matter():
    result, _, asked = whole(drawn([0, 0]), indifference=20.0)
    assert (result.why, asked, len(result.tied)) == ("settled", [5], 2)
    assert result.indifference == 20
    assert whole(drawn([0, 0]), indifference=0.0)[0].why == "open"


def test_indifference_is_a_tenth_of_the_median_sd():
    scores = {"a": ZIGZAG[:5], "b": 2 * ZIGZAG[:5], "c": 4 * ZIGZAG[:5]}
    assert held(scores).indifference == pytest.approx(0.2 * np.std(ZIGZAG[:5], ddof=1))


def test_seeds_needed_by_hand():
    """A difference of 0.2 with a standard deviation of 1; up to 0.3 does not matter."""
    spread = ZIGZAG[:20] / ZIGZAG[:20].std(ddof=1)
    scores = {"a": np.zeros(20), "b": 0.2 + spread}
    result = held(scores, first=20, most=20, indifference=0.3)
    outer, inner = stats.norm.isf([ALPHA / 2, 0.2])
    assert result.why == "open"
    assert result.needed == np.ceil(((outer + inner) / 0.2) ** 2 + outer**2 / 2) == 199
    assert result.settling == np.ceil((outer / 0.1) ** 2) == 385
    assert held(scores, first=20, most=20, indifference=0.1).settling is None


def test_the_seeds_said_to_be_needed_have_that_power():
    scores = {"a": np.zeros(4), "b": 0.75 + ZIGZAG[:4] / ZIGZAG[:4].std(ddof=1)}
    needed = held(scores, first=4).needed
    pairs = [drawn([0, 0.75], needed, seed, np.sqrt(0.5)) for seed in range(200)]
    assert 150 <= sum(whole(pair, most=needed)[0].tied == ["a"] for pair in pairs) <= 185


@pytest.mark.parametrize("means", [[0] * 2, [0] * 4, [0, 0, 4, 4]])
def test_of_equals_one_is_called_the_winner_in_at_most_alpha(means):
    """With 5 %, more than 16 of 200 come by chance in 2.4 % of all seeds."""
    best = {name for name, mean in zip(NAMES, means, strict=False) if not mean}
    ended = [whole(drawn(means, seed=seed))[0] for seed in range(200)]
    assert sum(len(result.tied) == 1 for result in ended) <= 16
    assert sum(not best <= {*result.tied} for result in ended) <= 16


def test_a_winner_ahead_by_one_standard_deviation_is_found():
    ended = [whole(drawn([0, 1, 2, 2, 2], seed=seed))[0] for seed in range(200)]
    assert sum(result.tied == ["a"] for result in ended) >= 150
