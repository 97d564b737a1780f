"""The sequential test: paired differences, what each analysis decides, what is recommended."""

import numpy as np
import pytest
from scipy import stats

from lrtune.verdict.sequential import ALPHA, FIRST, Difference, Sample, differences, sequential_test

ROLES = {"yours": "yours", "constant": "baseline", "cosine": "baseline"}
PARTS = 20


def alone(values):
    return Sample.of(values, (), 1.0)


def drawn(mean, seeds, seed=0):
    return mean + np.random.default_rng(seed).standard_normal(seeds)


def apart(one, other):
    """The second sample less the first."""
    return differences({"one": one, "other": other}, "one")["other"]


def crossed(mean, seeds, between, parts, cell, random):
    """Scores with a seed's share, a part's share, and a cell's."""
    table = mean + between * random.standard_normal((seeds, 1))
    table = table + parts * random.standard_normal((1, PARTS))
    return table + cell * random.standard_normal((seeds, PARTS))


# Samples and their differences.


@pytest.mark.parametrize("shares", [(1, 0, 1), (0.2, 3, 1), (1, 3, 3), (0, 3, 1)])
def test_the_intervals_hold_the_truth(shares):
    random = np.random.default_rng(0)
    held = 0
    for _ in range(600):
        table = crossed(0.0, 8, *shares, random)
        low, high = Sample.of(table.mean(1), table, 1.0).interval()
        held += low <= 0 <= high
    assert 0.92 <= held / 600 <= 0.985


def test_tests_of_equals_err_as_often_as_they_say():
    random = np.random.default_rng(1)
    found = []
    for _ in range(800):
        tables = (crossed(0, 8, 0.3, 2.0, 1.0, random) for _ in range(2))
        found.append(apart(*(Sample.of(one.mean(1), one, 1.0) for one in tables)).p(8))
    assert 0.02 <= np.mean(np.array(found) < 0.05) <= 0.065


def test_more_seeds_lower_one_variance_alone():
    table = crossed(0, 400, 1.0, 4.0, 1.0, np.random.default_rng(2))
    few, many = (Sample.of(table[:n].mean(1), table[:n], 1.0).variances for n in (20, 400))
    assert few[0] / many[0] == pytest.approx(20, rel=0.5)
    assert few[1] == pytest.approx(many[1], rel=0.2)
    assert many[1] == pytest.approx(16 / PARTS, rel=0.7)


def test_parts_that_are_not_known_or_not_alike_do_not_count():
    values = [1.0, 2.0, 3.0]
    for blocks in ((), [[], [], []], [[1.0, 2.0], [1.0], [3.0, 1.0]], [[1.0, np.nan]] * 3):
        assert Sample.of(values, blocks, 1.0).blocks.shape == (3, 0)
    known = Sample.of(values, [[1.0, 2.0]] * 3, -1.0)
    assert known.values.tolist() == [-1, -2, -3] and known.blocks[0].tolist() == [-1, -2]
    assert (known - Sample.of(values, (), 1.0)).blocks.shape == (3, 0)


@pytest.mark.parametrize("seeds", [2, 3, 20])
@pytest.mark.parametrize("gap", [0.0, -3.0])
def test_of_two_alone_the_difference_is_tested_as_scipy_does(seeds, gap):
    one, other = drawn(0, seeds), drawn(gap, seeds, seed=1)
    pair, expected = apart(alone(one), alone(other)), stats.ttest_rel(other, one)
    assert pair.p(seeds) == pytest.approx(expected.pvalue)
    assert pair.interval() == pytest.approx(tuple(expected.confidence_interval()))
    assert pair.p(4 * seeds) >= pair.p(seeds)  # an early analysis is stricter
    assert np.ptp(pair.interval(4 * seeds)) == pytest.approx(2 * np.ptp(pair.interval(seeds)))


def test_differences_without_a_spread_or_without_any():
    for gaps, p in ([], 1), ([0.3], 1), ([0.0, 0.0], 1), ([0.3, 0.3], 0), ([0.3, -0.3], 1):
        assert apart(alone([0.0] * len(gaps)), alone(gaps)).p(len(gaps)) == pytest.approx(p)


def test_variances_are_shrunk_towards_those_of_the_others():
    """Of four comparisons on five seeds, the one that looks exact by luck counts as less exact."""
    samples = {"reference": alone(np.zeros(5))}
    samples |= {f"{n}": alone(drawn(0, 5, seed=n)) for n in range(3)}
    samples["lucky"] = alone(0.5 + 0.01 * drawn(0, 5, seed=9))
    together = differences(samples, "reference")["lucky"]
    by_itself = apart(samples["reference"], samples["lucky"])
    assert together.freedom > by_itself.freedom == 4
    assert together.error > 5 * by_itself.error and together.mean == by_itself.mean


@pytest.mark.parametrize(("mean", "seeds"), [(0.2, 5), (0.6, 10)])
def test_the_power_is_how_often_the_whole_test_would_tell_them_apart(mean, seeds):
    """If the mean so far is the truth: by simulating the seeds that are left."""
    most, random = 20, np.random.default_rng(0)
    pair = Difference(mean, seeds, 1 / seeds, 0.0, seeds**-0.5, 1e6)
    left = mean + random.standard_normal((20_000, most - seeds))
    ends = (mean * seeds + left.sum(1)) / most
    told = np.mean(np.abs(ends) * np.sqrt(most) > stats.norm.isf(0.025))
    assert pair.power(most) == pytest.approx(told, abs=0.02)
    assert pair.power(seeds) == 1.0  # what is left is nothing: what there is decides


@pytest.mark.parametrize(("seeds", "off"), [(2, 1e-9), (29, 1e-9), (100, 0.03)])
def test_the_interval_of_few_is_students_of_many_near_it_of_one_unknown(seeds, off):
    values = drawn(3, seeds)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert alone(values).interval() == pytest.approx((expected.low, expected.high), abs=off)
    assert np.isnan(alone(values[:1]).interval()).all()
    assert alone(np.full(40, 0.1)).interval() == pytest.approx((0.1, 0.1))


# The test.


def scored(levels, seeds=30, seed=0):
    """Of each its level and noise, half of which all have in common."""
    random = np.random.default_rng(seed)
    common = random.standard_normal(seeds)
    return {
        name: level + (common + random.standard_normal(seeds)) / np.sqrt(2)
        for name, level in levels.items()
    }


def trained(scores, trainings=28, blocks=None, **options):
    """The test to its end, and the seeds that each was trained on."""
    seen = dict.fromkeys(scores, 0)
    for _ in range(200):
        now = {name: scores[name][: seen[name]] for name in scores}
        parts = blocks and {name: blocks[name][: seen[name]] for name in scores}
        found = sequential_test(now, minimize=True, trainings=trainings, blocks=parts, **options)
        if not found.wanted:
            return found, seen
        seen |= found.wanted
    raise AssertionError("it never ends")


def places(found):
    return {name: one.place for name, one in found.standings.items()}


def test_the_first_analysis_is_of_a_few_seeds_of_all():
    found = sequential_test({"cosine": [], "step": []}, minimize=True, trainings=28)
    assert found.why == "more" and found.wanted == {"cosine": FIRST, "step": FIRST}


def test_what_is_far_behind_gets_no_more_seeds():
    found, seen = trained(scored({"cosine": 0.0, "constant": 8.0}), roles=ROLES)
    assert places(found) == {"cosine": "winner", "constant": "behind"}
    assert found.why == "separated" and found.recommended == "cosine"
    assert max(seen.values()) <= 4 and found.standings["constant"].p < ALPHA


def test_yours_comes_first():
    scores = scored({"cosine": 0.0, "constant": 0.4, "yours": 0.7, "step": 0.3})
    _, few = trained(scores, 18, roles=ROLES)
    assert few == {"cosine": 6, "yours": 6, "constant": FIRST, "step": FIRST}
    found, more = trained(scores, 28, roles=ROLES)  # what yours does not need, baselines get
    assert found.standings["yours"].place == "behind"
    assert more["constant"] > more["yours"] and more["step"] == FIRST


def test_no_more_trainings_than_there_are_and_wide_rounds():
    for trainings in range(8, 40):
        scores = scored({"cosine": 0.0, "yours": 0.5, "constant": 0.5, "step": 0.1}, seed=trainings)
        _, seen = trained(scores, trainings, roles=ROLES, first=2)
        assert sum(seen.values()) <= trainings
    now = {name: one[:FIRST] for name, one in scored({"cosine": 0.0, "yours": 0.6}).items()}
    found = sequential_test(now, minimize=True, trainings=28, roles=ROLES, width=8)
    assert found.wanted == {"cosine": FIRST + 4, "yours": FIRST + 4}


def test_the_same_analyses_whatever_comes_later():
    scores = scored({"cosine": 0.0, "yours": 0.9, "constant": 3.0})
    found, seen = trained(scores, roles=ROLES)
    now = {name: one[: seen[name]] for name, one in scores.items()}
    assert sequential_test(now, minimize=True, trainings=28, roles=ROLES) == found


def test_what_takes_the_place_of_the_reference():
    """What is shown to be better, and a clear lead though it is not shown; not a small one."""
    found, _ = trained(scored({"step": 6.0, "cosine": 0.0, "yours": 3.0}), roles=ROLES)
    assert found.recommended == "cosine" and found.standings["step"].place == "behind"
    random = np.random.default_rng(0)
    scores = {"cosine": random.standard_normal(30)}
    scores["step"] = scores["cosine"] - 0.7 + np.tile([1.0, -1.0, 0.2], 10)
    found, _ = trained(scores, 6)
    assert found.recommended == "step" and places(found) == {"step": "tied", "cosine": "tied"}
    gap = np.mean(scores["cosine"][:3] - scores["step"][:3])
    assert found.standings["cosine"].gap == pytest.approx(gap)
    scores = scored({"cosine": 0.0, "step": 0.0}, seed=3)
    scores["step"] = scores["cosine"] - 0.1 + np.tile([0.4, -0.4], 15)
    found, _ = trained(scores)
    assert found.recommended == "cosine" and places(found)["step"] == "tied"


SIMPLE = {"tanh": (1, 3), "cosine": (0, 2), "yours": (0, 0)}


TANH = np.array([1.0, -1.0, 0.9, -1.1, 1.1, -0.9])


def beside(scores, gap, size):
    """So much worse on average, and by so much more or less on each second seed."""
    return scores + gap + np.tile([size, -size], len(scores) // 2)


@pytest.mark.parametrize(("gap", "use"), [(0.05, "cosine"), (0.2, "tanh")])
def test_of_a_tie_at_the_end_the_simplest_is_recommended(gap, use):
    """Not the one that the search began with; the gaps are its own."""
    scores = {"tanh": TANH, "cosine": beside(TANH, gap, 0.6)}
    found, _ = trained(scores, 12, first=6, knobs=SIMPLE)
    assert found.recommended == use and set(found.tied) == {"tanh", "cosine"}
    (other,) = {"tanh", "cosine"} - {use}
    assert found.standings[other].gap == pytest.approx(gap if use == "tanh" else -gap)


@pytest.mark.parametrize(("size", "use"), [(0.5, "cosine"), (5.0, "tanh")])
def test_the_simplest_does_not_undo_what_was_shown_of_yours(size, use):
    scores = {"tanh": TANH, "yours": beside(TANH, 3.0, 0.1), "cosine": beside(TANH, 0.05, size)}
    roles = ROLES | {"cosine": "leader"}
    found, _ = trained(scores, 18, first=6, roles=roles, knobs=SIMPLE)
    yours = found.standings["yours"]
    assert found.recommended == use
    assert yours.place == "behind" and yours.p < ALPHA


@pytest.mark.parametrize(
    ("scores", "options", "why"),
    [
        (scored({"cosine": 0.0}), {}, "alone"),
        (scored({"cosine": np.nan, "step": np.nan}), {}, "lost"),
        (scored({"cosine": 0.0, "step": 9.0}), {}, "separated"),
        ({"cosine": np.arange(30.0), "step": np.arange(30.0)}, {}, "equivalent"),
        (scored({"cosine": 0.0, "step": 0.1}), {"margin": 50.0}, "equivalent"),
        (scored({"cosine": 0.0, "step": 0.0}), {"trainings": 6}, "budget"),
    ],
)
def test_why_it_ends(scores, options, why):
    assert trained(scores, **({"trainings": 28} | options))[0].why == why


def test_equals_are_given_up_before_the_trainings_are_used_up():
    scores = scored({"cosine": 0.0, "step": 0.0})
    scores["step"] = scores["cosine"] + np.tile([0.5, -0.5, 0.01], 10)
    found, seen = trained(scores)
    assert found.why == "futile" and sum(seen.values()) < 28


def test_what_is_called_behind_is_sure():
    """Whatever seeds that come later say of the variances, and be it at the end."""
    behind = 0
    for seed in range(60):
        levels = {"cosine": 0.0, "yours": 1.2, "constant": 2.0, "step": 0.0, "wsd": 0.0}
        found, _ = trained(scored(levels, seed=seed), roles=ROLES)
        for name, one in found.standings.items():
            if one.place == "behind" and found.recommended == "cosine":
                assert one.p < ALPHA and one.gap_low > 0, (seed, name)
                behind += 1
    assert behind > 60


def test_a_lead_that_is_not_shown_does_not_undo_what_was_shown_of_yours():
    switched = {}
    for name in ("yours", "constant"):
        levels = {"cosine": 0.0, name: 6.0, "step": 0.0, "wsd": 0.0}
        ends = [trained(scored(levels, seed=seed), roles=ROLES)[0] for seed in range(60)]
        assert {end.standings[name].place for end in ends} == {"behind"}
        switched[name] = sum(end.recommended != "cosine" for end in ends)
    assert switched["yours"] <= 2 and switched["constant"] >= 6  # two may be shown, by luck


def test_a_lost_seed_is_out_and_a_higher_score_is_better_where_it_is_maximized():
    scores = scored({"cosine": 0.0, "step": -5.0})
    scores["step"][1] = np.nan
    found, _ = trained(scores)
    assert places(found) == {"cosine": "winner", "step": "lost"}
    assert found.standings["step"].lost == 1
    now = {n: -one[:FIRST] for n, one in scored({"cosine": 0.0, "constant": 9.0}).items()}
    found = sequential_test(now, minimize=False, trainings=6, roles=ROLES)
    assert found.recommended == "cosine" and found.standings["constant"].gap > 0


def test_a_split_that_favours_one_is_no_proof():
    random = np.random.default_rng(3)
    favours = 3.0 * random.standard_normal(PARTS)
    favours += 0.6 - favours.mean()  # 0.6 on this split, with a standard error of 0.7
    blocks = {name: crossed(0, 20, 0.3, 0, 0.3, random) for name in "ab"}
    blocks["b"] += favours
    scores = {name: table.mean(1) for name, table in blocks.items()}
    how = {"minimize": True, "trainings": 40, "first": 5, "over": True}
    assert sequential_test(scores, **how).tied == ["a"]
    found = sequential_test(scores, blocks=blocks, **how)
    assert found.tied == ["a", "b"] and found.why == "samples"
    assert found.standings["b"].gap_low < 0 < found.standings["b"].gap_high
    ended, seen = trained(scores, blocks=blocks)  # no number of seeds removes it
    assert ended.why == "samples" and max(seen.values()) == FIRST


def test_a_difference_on_every_part_is_found():
    random = np.random.default_rng(4)
    shared = 5.0 * random.standard_normal((1, PARTS))  # hard parts are hard for both
    blocks = {n: crossed(m, 5, 0.1, 0.1, 0.1, random) + shared for n, m in (("a", 0), ("b", 1))}
    scores = {name: table.mean(1) for name, table in blocks.items()}
    found = sequential_test(scores, minimize=True, trainings=10, first=5, blocks=blocks)
    assert found.tied == ["a"] and found.why == "separated"
    assert found.standings["a"].high - found.standings["a"].low > 2  # of the score itself


def test_interrupted_it_is_judged_on_what_there_is():
    scores = scored({"cosine": 0.0, "yours": 1.0})
    now = {"cosine": scores["cosine"][:5], "yours": scores["yours"][:4]}
    found = sequential_test(now, minimize=True, trainings=28, roles=ROLES, over=True)
    assert not found.wanted and found.why in ("budget", "separated")


def test_equals_are_seldom_told_apart():
    """Of 300 confirmations of equals, at most 8 % may say that yours is behind (5 % expected)."""
    wrong = 0
    for seed in range(300):
        scores = scored({"cosine": 0.0, "yours": 0.0, "constant": 3.0}, seed=seed)
        yours = trained(scores, roles=ROLES)[0].standings["yours"]
        wrong += yours.gap > 0 and yours.p < ALPHA
    assert wrong <= 24
