"""Every family against torch's own class, against its formula, and against the bounds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator
from torch import nn
from torch.optim import SGD, AdamW, lr_scheduler
from torch.optim.lr_scheduler import LinearLR, SequentialLR

from lrtune.errors import InputError
from lrtune.schedule import FAMILIES, Schedule
from lrtune.schedule.shapes import pchip

OPEN = [name for name, family in FAMILIES.items() if not family.closed_loop]
NATIVE = [name for name in OPEN if FAMILIES[name].torch != "LambdaLR"]
CYCLING = ["cyclic", "one_cycle"]  # of momentum too
BOTH = {"base_momentum": 0.85, "max_momentum": 0.95}


def follow(schedule, total, make=SGD):
    """Learning rate and momentum of each update under torch's own class."""
    params = schedule.resolve(total)
    optimizer = make(nn.Linear(1, 1).parameters(), lr=params.pop("peak_lr"))
    warmup = params.pop("warmup_steps")
    scheduler = getattr(lr_scheduler, FAMILIES[schedule.family].torch)
    if warmup:
        rise = LinearLR(optimizer, start_factor=schedule.warmup_start, total_iters=warmup)
        parts = [rise, scheduler(optimizer, **params)]
        torchs = SequentialLR(optimizer, parts, milestones=[warmup])
    else:
        torchs = scheduler(optimizer, **params)
    rates, momenta = [], []
    for _ in range(total):
        (group,) = optimizer.param_groups
        rates.append(group["lr"])
        momenta.append(group["betas"][0] if "betas" in group else group["momentum"])
        optimizer.step()
        torchs.step()
    return np.array(rates), np.array(momenta)


@pytest.mark.parametrize("name", OPEN)
@given(data=st.data())
def test_rates_are_torchs_positive_and_at_most_the_peak(name, data, draw_rates):
    schedule, total, rates = draw_rates(data, name)
    assert (rates.shape, rates.dtype) == ((total,), np.float64)
    assert (rates > 0).all()
    assert (rates <= schedule.peak_lr * (1 + 1e-12)).all()
    params = schedule.resolve(total)
    if name in NATIVE and FAMILIES[name].native(params):
        # CosineAnnealingLR multiplies its way along; past T_max, where it starts again from a rate
        # near eta_min, its rounding grows. The documented closed form is ours.
        drift = 1e-8 if params.get("T_max", total) < total else 1e-12
        torchs, _ = follow(schedule, total)
        np.testing.assert_allclose(torchs, rates, rtol=0, atol=drift * schedule.peak_lr)


@pytest.mark.parametrize("make", [SGD, AdamW])
@pytest.mark.parametrize("name", CYCLING)
@given(data=st.data())
def test_momentum_is_torchs(name, make, data, draw_rates):
    drawn, total, rates = draw_rates(data, name)
    low, high = sorted(data.draw(st.tuples(*[st.floats(1e-6, 1 - 1e-6)] * 2)))
    knobs = {**drawn.knobs, "base_momentum": low, "max_momentum": high}
    schedule = Schedule(name, drawn.peak_lr, drawn.warmup, drawn.warmup_start, knobs)
    if not FAMILIES[name].native(drawn.resolve(total)):
        with pytest.raises(InputError, match=r"divides by zero there.* give another pct_start"):
            schedule.momenta(total)
        return
    _, torchs = follow(schedule, total, make)
    np.testing.assert_allclose(schedule.momenta(total), torchs, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(schedule.rates(total), rates)  # which it leaves as they are


def test_momentum_is_left_alone_where_none_is_asked_for():
    assert [name for name, family in FAMILIES.items() if family.momentum] == CYCLING
    for name in CYCLING:
        plain, cycling = Schedule(name, 0.1), Schedule(name, 0.1, knobs=BOTH)
        assert plain.momenta(10) is None
        assert (plain.cycles_momentum, cycling.cycles_momentum) == (False, True)
        assert not {"base_momentum", "max_momentum"} & plain.to_dict()["knobs"].keys()
        assert plain.resolve(10)["cycle_momentum"] is False
        momenta = cycling.momenta(1000)
        assert momenta.min() == pytest.approx(0.85) and momenta.max() == pytest.approx(0.95)
        assert np.corrcoef(momenta, cycling.rates(1000))[0, 1] < -0.95


def test_one_cycle_where_torch_divides_by_zero():
    schedule = Schedule("one_cycle", peak_lr=1.0, knobs={"pct_start": 0.25})
    with pytest.raises(ZeroDivisionError):
        follow(schedule, 4)
    near = Schedule("one_cycle", peak_lr=1.0, knobs={"pct_start": 0.25 + 1e-12})
    np.testing.assert_allclose(schedule.rates(4), follow(near, 4)[0], atol=1e-9)


FORMULAS = {  # of families.md, at u = s/n, of those that torch has not
    "inverse_time": lambda u, k: 1 / (1 + k["decay_rate"] * u),
    "inverse_sqrt": lambda u, k: math.sqrt(k["timescale"] / (u + k["timescale"])),
    "polynomial": lambda u, k: k["end_factor"] + (1 - k["end_factor"]) * (1 - u) ** k["power"],
    "rex": lambda u, k: (1 - u) / (1 - (1 - k["beta"]) * u),
    "tanh": lambda u, k: (
        k["end_factor"]
        + (1 - k["end_factor"]) * 0.5 * (1 - math.tanh(k["lb"] * (1 - u) + k["ub"] * u))
    ),
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
    ("knobs", "ratios"),
    [
        ({"decay_power": 1}, [0.75, 0.5, 0.25]),
        ({}, [0.5, 1 - 0.5**0.5, 1 - 0.75**0.5]),
        ({"decay_power": 2, "end_factor": 0.5}, [1 - 0.5**5, 1 - 0.5**3, 1 - 0.5**5 * 9]),
        ({"decay_shape": "cosine"}, [0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5]),
        ({"decay_shape": "exponential", "end_factor": 0.0625}, [0.5, 0.25, 0.125]),
        ({"decay_shape": "exponential"}, [(0.01**v - 0.01) / 0.99 for v in (0.25, 0.5, 0.75)]),
        ({"decay_shape": "exponential", "end_factor": 1}, [1, 1, 1]),
    ],
    ids=str,
)
def test_wsd(knobs, ratios):
    schedule = Schedule("wsd", peak_lr=2.0, knobs={"decay": 0.66, **knobs})
    np.testing.assert_allclose(schedule.rates(6), 2 * np.array([1, 1, 1, *ratios]))


@given(st.lists(st.floats(-8, 0), min_size=2, max_size=8))
def test_pchip_is_scipys(y):
    cubics = pchip(np.array(y))
    x = np.linspace(0, len(cubics), 41)[:-1]
    c = cubics[x.astype(int)]
    ours = sum(c[:, i] * (x - x.astype(int)) ** i for i in range(4))
    expected = PchipInterpolator(np.linspace(0, len(cubics), len(y)), y)(x)
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
