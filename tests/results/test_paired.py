"""Sample: two sources of doubt, and what of it more seeds would lower."""

import numpy as np
import pytest
from lrtune.results.contest import contest
from scipy import stats
from tests.results.contests import drawn

from lrtune.results.paired import Sample, interval, paired_p

PARTS = 20


def alone(values):
    return Sample.of(values, (), 1.0)


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
        low, high = interval(Sample.of(table.mean(1), table, 1.0))
        held += low <= 0 <= high
    assert 0.92 <= held / 600 <= 0.985


def test_tests_of_equals_err_as_often_as_they_say():
    random = np.random.default_rng(1)
    found = []
    for _ in range(800):
        one, other = (crossed(0, 8, 0.3, 2.0, 1.0, random) for _ in range(2))
        apart = Sample.of(one.mean(1), one, 1.0) - Sample.of(other.mean(1), other, 1.0)
        found.append(paired_p(apart))
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
    assert contest(scores, minimize=True).tied == ["a"]
    found = contest(scores, minimize=True, blocks=blocks)
    assert found.tied == ["a", "b"] and found.why == "samples" and found.seeds == 5
    assert found.needed is None and found.wanted == {}
    assert 0.05 < found.standings["b"].best < 0.5
    assert found.standings["b"].gap_low < 0 < found.standings["b"].gap_high


def test_a_difference_on_every_part_is_found():
    random = np.random.default_rng(4)
    shared = 5.0 * random.standard_normal((1, PARTS))  # hard parts are hard for both
    blocks = {n: crossed(m, 5, 0.1, 0.1, 0.1, random) + shared for n, m in (("a", 0), ("b", 1))}
    scores = {name: table.mean(1) for name, table in blocks.items()}
    found = contest(scores, minimize=True, blocks=blocks)
    assert found.tied == ["a"] and found.why == "separated"
    assert found.standings["a"].high - found.standings["a"].low > 2  # of the score itself


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
