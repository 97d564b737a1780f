"""The range test: sane on digits, and on curves made by hand what they were made to say."""

import re
from dataclasses import astuple, replace

import numpy as np
import pytest
from torch import nn

from lrtune.engine import SerialPool, range_test
from lrtune.engine.range_test import suggest_range
from lrtune.errors import InputError

LOG = np.linspace(-6, 1, 240)
RATES = 10.0**LOG


def valley(begin=-3.0, bottom=-1.0, rise=-0.5):
    """Rises a little, then falls by 2, straight in decades from begin to bottom; rises again."""
    return np.interp(LOG, [-6, begin, bottom, rise, rise + 2], [2.2, 2.3, 0.3, 0.31, 2.3])


CURVES = {
    "valley": [valley()],
    "early": [valley(-5, -4, -3)],
    "late": [valley(-2, 0, 0.5)],
    "three seeds": [valley(), valley(-3.2, -1.1), valley(-2.8, -0.9)],
}


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_digits(optimizer, digits):
    # A network of this size trains under sgd from about 1e-3 to 1, under adam ten times lower.
    scale = 1.0 if optimizer == "sgd" else 0.1
    found = range_test(replace(digits, optimizer=optimizer), updates=120, seeds=(0, 1))
    base, steepest, _, top = astuple(found.suggestion)
    assert found.message == ""
    assert base < steepest <= top
    assert 1e-4 * scale < base < 3e-2 * scale
    assert 3e-3 * scale < steepest < 1 * scale
    assert 3e-2 * scale < top <= 10 * scale
    assert found.losses.shape == found.smoothed.shape == (2, 120)
    np.testing.assert_allclose(found.rates, np.geomspace(1e-6, 10, 120))
    # Before the first step that matters, ten classes by chance.
    np.testing.assert_allclose(found.smoothed[:, 0], np.log(10), atol=0.2)


def test_seeds_are_the_trials_of_the_pool(digits):
    one, two = (range_test(digits, updates=20, seeds=seeds).losses for seeds in [(3,), (4, 3)])
    np.testing.assert_array_equal(one[0], two[1])
    assert (two[0] != two[1]).any()


def test_as_many_together_as_there_is_room_for(digits):
    asked = []

    def make(*given):
        asked.append(given[1])
        return SerialPool(*given)

    given = {"updates": 20, "seeds": (4, 3, 5), "make": make}
    some, all_of_them = (range_test(digits, slots=slots, **given).losses for slots in (2, 8))
    np.testing.assert_array_equal(some, all_of_them)
    assert asked == [2, 3]


@pytest.mark.parametrize(
    ("begin", "bottom", "rise"), [(-3, -1, -0.5), (-5, -4, -3), (-2, 0, 0.5), (-4, -1, -0.9)]
)
def test_a_known_valley(begin, bottom, rise):
    found = suggest_range(RATES, np.array([valley(begin, bottom, rise)])).suggestion
    # The fall is by 10 % after 10 % of its decades, lost again by 10 % 0.2 decades into the rise.
    tenth = begin + 0.1 * (bottom - begin)
    for lr, expected in [
        (found.base_lr, tenth),
        (found.valley, (tenth + bottom) / 2),
        (found.max_lr, rise + 0.2),
    ]:
        assert np.log10(lr) == pytest.approx(expected, abs=0.3)
    assert begin <= np.log10(found.steepest) <= bottom


@pytest.mark.parametrize("factor", [10.0, 1e-3])
@pytest.mark.parametrize("name", CURVES)
def test_rates_scale_the_suggestion(name, factor):
    losses = np.array(CURVES[name])
    here, there = (suggest_range(RATES * f, losses).suggestion for f in (1.0, factor))
    np.testing.assert_allclose(astuple(there), np.array(astuple(here)) * factor, rtol=1e-6)


@pytest.mark.parametrize("name", CURVES)
def test_losses_scale_nothing(name):
    losses = np.array(CURVES[name])
    here, there = (suggest_range(RATES, losses * f).suggestion for f in (1.0, 7.0))
    np.testing.assert_allclose(astuple(there), astuple(here), rtol=1e-6)


@pytest.mark.parametrize("tail", [np.nan, np.inf, 1e30])
def test_what_follows_a_blow_up_does_not_count(tail):
    whole = valley(rise=0.5)
    cut = int((LOG < -0.5).sum())
    blown = np.append(whole[:cut], np.full(240 - cut, tail))
    blown[-1] = 0.0  # back to finite is not back to training
    found = suggest_range(RATES, blown[None])
    assert found.suggestion == suggest_range(RATES[:cut], whole[None, :cut]).suggestion
    assert np.isnan(found.smoothed[0, cut:]).all()
    assert np.isfinite(found.smoothed[0, :cut]).all()
    assert found.suggestion.max_lr == RATES[cut - 1]


def test_seeds_are_averaged_geometrically():
    both = suggest_range(RATES, np.array([valley(-3), valley(-2.6, -0.8)]))
    each = [
        astuple(suggest_range(RATES, v[None]).suggestion) for v in (valley(-3), valley(-2.6, -0.8))
    ]
    np.testing.assert_allclose(astuple(both.suggestion), np.sqrt(np.prod(each, axis=0)))


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([np.full(240, 2.3)], "the loss of 1 of 1 seeds never fell"),
        ([2.3 + 0.1 * (LOG + 6)], "the loss of 1 of 1 seeds never fell"),
        ([np.full(240, 2.3), valley()], "the loss of 1 of 2 seeds never fell"),
        ([np.full(240, np.nan), valley()], "the loss of 1 of 2 seeds never fell"),
        ([np.append(valley()[:5], np.full(235, np.inf))], "the loss of 1 of 1 seeds never fell"),
        ([valley(-5, -4, -3), valley()], r"the seeds disagree: max_lr from 0\.001\d to 0\.5\d"),
        ([valley(rise=-1), valley(rise=0.5)], r"the seeds disagree: max_lr from 0\.2\d to 5\.\d"),
    ],
)
def test_no_suggestion_and_why(losses, message):
    found = suggest_range(RATES, np.array(losses))
    assert found.suggestion is None
    assert re.fullmatch(message, found.message)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"low": 1.0, "high": 0.1}, r"rates from 1\.0 to 0\.1: .* the lower first"),
        ({"low": 0.0}, r"rates from 0\.0 to 10\.0: two positive rates"),
        ({"high": float("inf")}, "rates from 1e-06 to inf"),
        ({"low": float("nan")}, "rates from nan"),
        ({"updates": 9}, "updates=9: from 10, to see a curve"),
        ({"updates": 10**9}, "updates=1000000000: .* to 100,000"),
        ({"seeds": ()}, "seeds=0: from 1 to 100"),
    ],
)
def test_refused(given, message, digits):
    with pytest.raises(InputError, match=message):
        range_test(digits, **given)


def test_a_model_that_cannot_be_trained(digits):
    task = replace(digits, model=lambda: nn.Linear(3, 10))
    with pytest.raises(InputError, match="digits: training failed: RuntimeError: "):
        range_test(task, updates=10)
