"""Samples and their differences: two sources of doubt, and what of it more seeds would lower."""

import numpy as np
import pytest
from scipy import stats

from lrtune.verdict.sequential import Difference, Sample, differences, sequential_test

PARTS = 20


def alone(values):
    return Sample.of(values, (), 1.0)


def drawn(mean, seeds, seed=0):
    return mean + np.random.default_rng(seed).standard_normal(seeds)


def apart(one, other):
    """The second sample less the first."""
    return differences({"one": one, "other": other}, "one")["other"]


def crossed(mean, seeds, between, parts, cell, random, count=20):
    """Scores with a seed's share, a part's share, and a cell's."""
    table = mean + between * random.standard_normal((seeds, 1))
    table = table + parts * random.standard_normal((1, count))
    return table + cell * random.standard_normal((seeds, count))


@pytest.mark.parametrize(
    ("between", "parts", "cell"), [(1, 0, 1), (0.2, 3, 1), (1, 3, 3), (0, 3, 1)]
)
def test_the_intervals_hold_the_truth(between, parts, cell):
    random = np.random.default_rng(0)
    held = 0
    for _ in range(600):
        table = crossed(0.0, 8, between, parts, cell, random)
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
    random = np.random.default_rng(2)
    table = crossed(0, 400, 1.0, 4.0, 1.0, random)
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


def test_a_split_that_favours_one_is_no_proof():
    random = np.random.default_rng(3)
    favours = 3.0 * random.standard_normal(PARTS)
    favours += 0.6 - favours.mean()  # 0.6 on this split, with a standard error of 0.7
    blocks = {
        "a": crossed(0, 20, 0.3, 0, 0.3, random),
        "b": crossed(0, 20, 0.3, 0, 0.3, random) + favours,
    }
    scores = {name: table.mean(1) for name, table in blocks.items()}
    how = {"minimize": True, "trainings": 40, "first": 5, "over": True}
    assert sequential_test(scores, **how).tied == ["a"]
    found = sequential_test(scores, blocks=blocks, **how)
    assert found.tied == ["a", "b"] and found.why == "samples"
    assert found.standings["b"].seeds == 5
    assert found.standings["b"].gap_low < 0 < found.standings["b"].gap_high


def test_a_difference_on_every_part_is_found():
    random = np.random.default_rng(4)
    shared = 5.0 * random.standard_normal((1, PARTS))  # hard parts are hard for both
    blocks = {n: crossed(m, 5, 0.1, 0.1, 0.1, random) + shared for n, m in (("a", 0), ("b", 1))}
    scores = {name: table.mean(1) for name, table in blocks.items()}
    found = sequential_test(scores, minimize=True, trainings=10, first=5, blocks=blocks)
    assert found.tied == ["a"] and found.why == "separated"
    assert found.standings["a"].high - found.standings["a"].low > 2  # of the score itself


@pytest.mark.parametrize("seeds", [2, 3, 5, 20])
@pytest.mark.parametrize("gap", [0.0, 0.5, -3.0])
def test_of_two_alone_the_difference_is_tested_as_scipy_does(seeds, gap):
    one, other = drawn(0, seeds), drawn(gap, seeds, seed=1)
    pair, expected = apart(alone(one), alone(other)), stats.ttest_rel(other, one)
    assert pair.p(seeds) == pytest.approx(expected.pvalue)
    assert pair.interval() == pytest.approx(tuple(expected.confidence_interval()))


def test_an_early_look_is_stricter():
    pair = apart(alone(drawn(0, 5)), alone(drawn(0.8, 5, seed=1)))
    assert pair.p(20) > pair.p(5)
    assert np.ptp(pair.interval(20)) == pytest.approx(2 * np.ptp(pair.interval(5)))


@pytest.mark.parametrize(
    ("gaps", "p"), [([], 1), ([0.3], 1), ([0.0, 0.0], 1), ([0.3, 0.3], 0), ([0.3, -0.3], 1)]
)
def test_differences_without_a_spread_or_without_any(gaps, p):
    pair = apart(alone([0.0] * len(gaps)), alone(gaps))
    assert pair.p(len(gaps)) == pytest.approx(p)


def test_variances_are_shrunk_towards_those_of_the_others():
    """Of four comparisons on five seeds, the one that looks exact by luck counts as less exact."""
    samples = {"reference": alone(np.zeros(5))}
    samples |= {f"{n}": alone(drawn(0, 5, seed=n)) for n in range(3)}
    samples["lucky"] = alone(0.5 + 0.01 * drawn(0, 5, seed=9))
    together = differences(samples, "reference")["lucky"]
    by_itself = apart(samples["reference"], samples["lucky"])
    assert together.freedom > by_itself.freedom == 4
    assert together.error > 5 * by_itself.error and together.mean == by_itself.mean


@pytest.mark.parametrize(("mean", "seeds"), [(0.2, 5), (0.6, 5), (0.6, 10)])
def test_the_power_is_how_often_the_whole_test_would_tell_them_apart(mean, seeds):
    """If the mean so far is the truth: by simulating the seeds that are left."""
    most, random = 20, np.random.default_rng(0)
    pair = Difference(mean, seeds, 1 / seeds, 0.0, seeds**-0.5, 1e6)
    left = mean + random.standard_normal((20_000, most - seeds))
    ends = (mean * seeds + left.sum(1)) / most
    told = np.mean(np.abs(ends) * np.sqrt(most) > stats.norm.isf(0.025))
    assert pair.power(most) == pytest.approx(told, abs=0.02)
    assert pair.power(seeds) == 1.0  # what is left is nothing: what there is decides


@pytest.mark.parametrize("seeds", [2, 5, 29])
def test_the_interval_of_few_is_students(seeds):
    values = drawn(3, seeds)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert alone(values).interval() == pytest.approx((expected.low, expected.high))


def test_the_interval_of_many_is_near_students_and_of_one_unknown():
    values = drawn(3, 100)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert alone(values).interval() == pytest.approx((expected.low, expected.high), abs=0.03)
    assert np.isnan(alone(values[:1]).interval()).all()
    assert alone(np.full(40, 0.1)).interval() == pytest.approx((0.1, 0.1))
