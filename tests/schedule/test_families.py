"""Every family against torch's own class, against its formula, and against the bounds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator
from torch import nn
from torch.optim import SGD, lr_scheduler
from torch.optim.lr_scheduler import LinearLR, SequentialLR

from lrtune.errors import InputError
from lrtune.schedule import FAMILIES, Schedule
from lrtune.schedule.shapes import pchip

OPEN = [name for name, family in FAMILIES.items() if not family.closed_loop]
NATIVE = [name for name in OPEN if FAMILIES[name].torch != "LambdaLR"]


def follow(scheduler, total):
    rates = []
    for _ in range(total):
        rates.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return np.array(rates)


def torch_rates(schedule, total):
    params = schedule.resolve(total)
    peak, warmup = params.pop("peak_lr"), params.pop("warmup_steps")
    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=peak)
    native = getattr(lr_scheduler, FAMILIES[schedule.family].torch)
    if not warmup:
        return follow(native(optimizer, **params), total)
    rise = LinearLR(optimizer, start_factor=schedule.warmup_start, total_iters=warmup)
    parts = [rise, native(optimizer, **params)]
    return follow(SequentialLR(optimizer, parts, milestones=[warmup]), total)


@pytest.mark.parametrize("name", NATIVE)
@given(data=st.data())
def test_torch_gives_the_same_rates(name, data, draw_rates):
    schedule, total, rates = draw_rates(data, name)
    params = schedule.resolve(total)
    if not FAMILIES[name].native(params):
        return
    # CosineAnnealingLR multiplies its way along; past T_max, where it starts again from a rate
    # near eta_min, its rounding grows. The documented closed form is ours.
    drift = 1e-8 if params.get("T_max", total) < total else 1e-12
    np.testing.assert_allclose(
        torch_rates(schedule, total), rates, rtol=0, atol=drift * schedule.peak_lr
    )


def test_one_cycle_where_torch_divides_by_zero():
    schedule = Schedule("one_cycle", peak_lr=1.0, knobs={"pct_start": 0.25})
    with pytest.raises(ZeroDivisionError):
        torch_rates(schedule, 4)
    near = Schedule("one_cycle", peak_lr=1.0, knobs={"pct_start": 0.25 + 1e-12})
    np.testing.assert_allclose(schedule.rates(4), torch_rates(near, 4), atol=1e-9)


@pytest.mark.parametrize("name", OPEN)
@given(data=st.data())
def test_rates_are_positive_and_at_most_the_peak(name, data, draw_rates):
    schedule, total, rates = draw_rates(data, name)
    assert rates.shape == (total,)
    assert rates.dtype == np.float64
    assert (rates > 0).all()
    assert (rates <= schedule.peak_lr * (1 + 1e-12)).all()


FORMULAS = {  # of families.md, at u = s/n
    "inverse_time": lambda u, k: 1 / (1 + k["decay_rate"] * u),
    "inverse_sqrt": lambda u, k: math.sqrt(k["timescale"] / (u + k["timescale"])),
    "polynomial": lambda u, k: k["end_factor"] + (1 - k["end_factor"]) * (1 - u) ** k["power"],
    "rex": lambda u, k: (1 - u) / (1 - (1 - k["beta"]) * u),
    "tanh": lambda u, k: (
        k["end_factor"]
        + (1 - k["end_factor"]) * 0.5 * (1 - math.tanh(k["lb"] * (1 - u) + k["ub"] * u))
    ),
    "exponential": lambda u, k: k["final_ratio"] ** u,
    "custom": lambda u, k: 1 - 0.5 * u,
}


@pytest.mark.parametrize("name", FORMULAS)
@given(data=st.data())
def test_rates_follow_the_formula(name, data, draw_rates):
    schedule, total, rates = draw_rates(data, name)
    n = total - schedule.resolve(total)["warmup_steps"]
    expected = [schedule.peak_lr * FORMULAS[name](s / n, schedule.knobs) for s in range(n)]
    np.testing.assert_allclose(rates[total - n :], expected, atol=1e-12 * schedule.peak_lr)


@pytest.mark.parametrize(
    ("shape", "ratios"),
    [
        ("linear", [1, 1, 1, 0.75, 0.5, 0.25]),
        ("cosine", [1, 1, 1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5]),
        ("sqrt", [1, 1, 1, 0.5, 1 - 0.5**0.5, 1 - 0.75**0.5]),
    ],
)
def test_wsd(shape, ratios):
    schedule = Schedule("wsd", peak_lr=2.0, knobs={"decay": 0.66, "decay_shape": shape})
    np.testing.assert_allclose(schedule.rates(6), 2 * np.array(ratios))


@given(st.lists(st.floats(-8, 0), min_size=1, max_size=8))
def test_pchip_is_scipys(y):
    cubics = pchip(np.array(y))
    x = np.linspace(0, len(cubics), 41)[:-1]
    c = cubics[x.astype(int)]
    ours = sum(c[:, i] * (x - x.astype(int)) ** i for i in range(4))
    if len(y) == 1:
        expected = np.full(40, y[0])
    else:
        knots = np.linspace(0, len(cubics), len(y))
        expected = PchipInterpolator(knots, y)(x)
    np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_sequence_gives_each_part_its_span():
    parts = [Schedule("linear", peak_lr=0.2), Schedule("cosine", peak_lr=0.4, warmup=0.25)]
    schedule = Schedule("sequence", 0.4, knobs={"schedules": parts, "milestones": [0.6]})
    expected = np.concatenate([parts[0].rates(6), parts[1].rates(4)])
    np.testing.assert_array_equal(schedule.rates(10), expected)
    with pytest.raises(InputError, match="at least 1 each"):
        schedule.rates(1)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_defaults_lie_in_the_search_range(family):
    assert hasattr(lr_scheduler, family.torch)
    for knob in family.knobs if family.searchable else ():
        default = knob.default if isinstance(knob.default, tuple) else (knob.default,)
        assert len(default) == knob.length
        if knob.scale == "choice":
            assert knob.default in knob.choices
        else:
            assert knob.valid[0] <= knob.low < knob.high <= knob.valid[1]
            assert all(knob.low <= value <= knob.high for value in default)
