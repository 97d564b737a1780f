"""The range test: sane on digits, and on curves made by hand what they were made to say."""

import math
from dataclasses import astuple, replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lrtune.engine import FusedPool, SerialPool, range_test
from lrtune.engine.range_test import LEAST_DOUBT, MOST_DOUBT, suggest_range
from lrtune.errors import InputError
from lrtune.tasks import Split, Task
from lrtune.tasks.metrics import MSE

LOG = np.linspace(-6, 1, 240)
RATES = 10.0**LOG


def valley(begin=-3.0, bottom=-1.0, rise=-0.5):
    """Rises a little, then falls by 2, straight in decades from begin to bottom; rises again."""
    return np.interp(LOG, [-6, begin, bottom, rise, rise + 2], [2.2, 2.3, 0.3, 0.31, 2.3])


CURVES = {"valley": [valley()], "seeds": [valley(), valley(-3.2, -1.1), valley(-2.8, -0.9)]}


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_digits(optimizer, digits):
    # A network of this size trains under sgd from about 1e-3 to 1, under adam ten times lower.
    scale = 1.0 if optimizer == "sgd" else 0.1
    found = range_test(replace(digits, optimizer=optimizer), updates=120, seeds=(0, 1))
    base, steepest, _, top, peak, doubt = astuple(found.suggestion)
    assert found.message == ""
    assert base < steepest <= top and base < peak < 2 * top
    assert LEAST_DOUBT <= doubt < MOST_DOUBT
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


@pytest.mark.parametrize(("begin", "bottom", "rise"), [(-3, -1, -0.5), (-5, -4, -3), (-2, 0, 0.5)])
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


@pytest.mark.parametrize("name", CURVES)
def test_rates_scale_the_suggestion_and_losses_nothing(name):
    losses = np.array(CURVES[name])
    here = suggest_range(RATES, losses).suggestion
    *rates, doubt = astuple(here)
    for factor in (10.0, 1e-3):
        there = suggest_range(RATES * factor, losses).suggestion
        np.testing.assert_allclose(astuple(there), [*np.array(rates) * factor, doubt], rtol=1e-6)
    louder = suggest_range(RATES, losses * 7).suggestion
    np.testing.assert_allclose(astuple(louder), astuple(here), rtol=1e-6)
    negative = suggest_range(RATES, losses - 5).suggestion
    np.testing.assert_allclose(astuple(negative), astuple(here), rtol=0.3)


@pytest.mark.parametrize("tail", [np.nan, np.inf])
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
    blown[cut:] = 1e30
    found = suggest_range(RATES, blown[None])
    assert found.suggestion.max_lr == pytest.approx(RATES[cut - 1], rel=0.1)
    assert np.isnan(found.smoothed[0, cut:]).all()


def test_seeds_count_together():
    curves = valley(-3), valley(-2.6, -0.8)
    low, high = sorted(suggest_range(RATES, c[None]).suggestion.peak_lr for c in curves)
    doubt = max(suggest_range(RATES, c[None]).suggestion.doubt for c in curves)
    both = suggest_range(RATES, np.array(curves)).suggestion
    assert low <= both.peak_lr <= high and both.doubt > doubt


@pytest.mark.parametrize("two", [valley(), valley(-3, 0, 0.5)])
def test_the_more_seeds_disagree_the_more_doubt(two):
    disagreeing = suggest_range(RATES, np.array([valley(-5, -4, -3), two, two]))
    assert disagreeing.message.startswith("the seeds disagree: peaks from ")
    agreeing = suggest_range(RATES, np.array([two, two, two]))
    assert agreeing.message == ""
    assert disagreeing.suggestion.doubt > agreeing.suggestion.doubt + 0.4


NOWHERE = "the loss neither falls nor blows up clearly at any rate"
BLOW_UP = "the loss falls clearly at no rate, only where it blows up is known"


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([np.full(240, 2.3)], NOWHERE),
        ([np.full(240, np.nan)], "the loss is finite at no rate"),
        ([2.3 + 0.1 * (LOG + 6)], NOWHERE),
        ([np.append(np.full(170, 2.3), np.full(70, 1e9))], BLOW_UP),
        ([np.append(np.full(170, 2.3), np.full(70, np.inf))], BLOW_UP),
        ([np.append(valley()[:5], np.full(235, np.inf))], BLOW_UP),
    ],
)
def test_a_peak_even_where_nothing_falls(losses, message):
    found = suggest_range(RATES, np.array(losses))
    assert found.message == message
    if message == BLOW_UP:
        assert found.suggestion.peak_lr < found.suggestion.max_lr / 2
    else:
        assert found.suggestion.peak_lr == pytest.approx(math.sqrt(1e-6 * 10))
        assert found.suggestion.doubt == MOST_DOUBT


def test_a_dead_seed_leaves_the_others():
    found = suggest_range(RATES, np.array([np.full(240, np.nan), valley()]))
    assert found.suggestion == suggest_range(RATES, valley()[None]).suggestion
    assert np.isnan(found.smoothed[0]).all()


def test_batches_that_differ_hide_a_fall_unless_the_same_untrained_are_known():
    batches = np.exp(2 * np.random.default_rng(0).standard_normal((3, 240)))
    losses = batches * (1 - 0.1 * (valley() < 1))
    assert suggest_range(RATES, losses).message != ""
    found = suggest_range(RATES, losses, batches)
    assert found.message == ""
    assert 1e-2 < found.suggestion.peak_lr < 1


def regression(noise, samples, updates, batch_size, optimizer):
    """A table of eight columns; targets with noise, those of validation without."""
    draw = np.random.default_rng(0)
    inputs = draw.standard_normal((samples + 200, 8))
    clean = 2 * inputs[:, 0] + np.sin(2 * inputs[:, 1]) + inputs[:, 2] * inputs[:, 3]
    train = {
        "no noise": clean,
        "student t": clean + draw.standard_t(1.5, len(clean)),
        "log-normal": np.exp(clean / 3 + 2.5 * draw.standard_normal(len(clean))),
    }[noise][:samples]
    val = np.exp(clean / 3 + 2.5**2 / 2) if noise == "log-normal" else clean
    targets = np.concatenate([train, val[samples:]])
    whole = Split(
        torch.tensor(inputs, dtype=torch.float32),
        torch.tensor((targets - train.mean()) / train.std(), dtype=torch.float32)[:, None],
    )
    return Task(
        name=noise,
        train=whole.part(0, samples),
        val=whole.part(samples, samples + 200),
        model=lambda: nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1)),
        loss=F.mse_loss,
        metrics=(MSE,),
        optimizer=optimizer,
        batch_size=batch_size,
        epochs=updates * batch_size / samples,
        validations=1,
        average=None,
    )


@pytest.mark.parametrize(
    ("noise", "samples", "updates", "batch_size", "optimizer"),
    [
        ("student t", 600, 60, 32, "adamw"),
        ("log-normal", 600, 300, 32, "sgd"),
        ("no noise", 20, 200, 8, "sgd"),
        ("no noise", 20, 60, 8, "adamw"),
    ],
)
def test_a_good_peak_is_within_a_factor_of_ten(noise, samples, updates, batch_size, optimizer):
    task = regression(noise, samples, updates, batch_size, optimizer)
    rates = np.geomspace(1e-5, 1.0, 11)
    pool = FusedPool(task, len(rates))
    for slot, rate in enumerate(rates):
        untrained = pool.start(slot, np.full(updates, rate), 0).loss
    losses = np.array([progress.loss for progress in pool.advance()])
    gains = untrained - np.where(np.isfinite(losses), losses, np.inf)
    good = rates[gains > 0.8 * gains.max()]
    test = range_test(task, updates=max(60, updates // 3), make=FusedPool)
    assert good.min() / 10 < test.suggestion.peak_lr < 10 * good.max()
    assert test.suggestion.doubt < MOST_DOUBT


def test_no_gradient_at_all(digits):
    task = replace(digits, loss=lambda outputs, targets: 0 * outputs.sum() + 1)
    found = range_test(task, updates=20, seeds=(0,))
    assert found.message == NOWHERE
    assert found.suggestion.doubt == MOST_DOUBT


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
