"""The momentum cycle of one_cycle and cyclic: torch's own; and nothing where none is asked for."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, AdamW, lr_scheduler
from torch.optim.lr_scheduler import LinearLR, SequentialLR

from lrtune.errors import InputError
from lrtune.schedule import FAMILIES, Schedule, parse

CYCLING = [name for name, family in FAMILIES.items() if family.momentum is not None]
BOTH = {"base_momentum": 0.85, "max_momentum": 0.95}


def held(optimizer):
    (group,) = optimizer.param_groups
    return group["betas"][0] if "betas" in group else group["momentum"]


def torch_momenta(schedule, total, make):
    params = schedule.resolve(total)
    optimizer = make(nn.Linear(1, 1).parameters(), lr=params.pop("peak_lr"))
    warmup = params.pop("warmup_steps")
    scheduler = getattr(lr_scheduler, FAMILIES[schedule.family].torch)
    if warmup:
        rise = LinearLR(optimizer, start_factor=schedule.warmup_start, total_iters=warmup)
        parts = [rise, scheduler(optimizer, **params)]
        follow = SequentialLR(optimizer, parts, milestones=[warmup])
    else:
        follow = scheduler(optimizer, **params)
    found = []
    for _ in range(total):
        found.append(held(optimizer))
        optimizer.step()
        follow.step()
    return found


@pytest.mark.parametrize("make", [SGD, AdamW])
@pytest.mark.parametrize("name", CYCLING)
@given(data=st.data())
def test_it_is_torchs(name, make, data, draw_rates):
    drawn, total, rates = draw_rates(data, name)
    low, high = sorted(data.draw(st.tuples(*[st.floats(1e-6, 1 - 1e-6)] * 2)))
    knobs = {**drawn.knobs, "base_momentum": low, "max_momentum": high}
    schedule = Schedule(name, drawn.peak_lr, drawn.warmup, drawn.warmup_start, knobs)
    if not FAMILIES[name].native(drawn.resolve(total)):
        with pytest.raises(InputError, match=r"divides by zero there.* give another pct_start"):
            schedule.momenta(total)
        return
    np.testing.assert_allclose(
        schedule.momenta(total), torch_momenta(schedule, total, make), rtol=0, atol=1e-12
    )
    np.testing.assert_array_equal(schedule.rates(total), rates)  # which it leaves as they are


def test_the_families_are_the_ones_that_torch_gives_it():
    assert CYCLING == ["cyclic", "one_cycle"]


@pytest.mark.parametrize("name", CYCLING)
def test_a_schedule_without_it_is_what_it_was(name):
    """Also one that was stored before there was any."""
    schedule = Schedule(name, peak_lr=0.1)
    assert schedule.momenta(10) is None and not schedule.cycles_momentum
    assert schedule.to_dict()["knobs"].keys() == {knob.name for knob in FAMILIES[name].knobs}
    resolved = schedule.resolve(10)
    assert resolved["cycle_momentum"] is False and not resolved.keys() & BOTH.keys()
    assert Schedule.from_json(schedule.to_json()) == schedule


@pytest.mark.parametrize("name", CYCLING)
def test_a_schedule_with_it_is_kept(name):
    schedule = parse(f"{name}:peak_lr=0.1,base_momentum=0.85,max_momentum=0.95")
    assert schedule == Schedule(name, peak_lr=0.1, knobs=BOTH) != Schedule(name, peak_lr=0.1)
    assert Schedule.from_json(schedule.to_json()) == schedule
    assert eval(repr(schedule)) == schedule
    assert json.loads(schedule.to_json())["knobs"].items() >= BOTH.items()
    momenta = schedule.momenta(1000)
    assert momenta.min() == pytest.approx(0.85) and momenta.max() == pytest.approx(0.95)
    assert np.corrcoef(momenta, schedule.rates(1000))[0, 1] < -0.95


@pytest.mark.parametrize(
    ("family", "knobs", "message"),
    [
        ("cyclic", {"base_momentum": 0.8}, "base_momentum alone: give base_momentum and max_"),
        ("one_cycle", {"max_momentum": 0.9}, "max_momentum alone: give .*, or neither"),
        ("one_cycle", {"base_momentum": 0.9, "max_momentum": 0.8}, "the lower first"),
        ("cyclic", {**BOTH, "max_momentum": 1.0}, r"max_momentum=1\.0: expected a number in"),
        ("cyclic", {**BOTH, "base_momentum": 0}, "base_momentum=0: expected a number in"),
        ("cosine", BOTH, "cosine: knob 'base_momentum' is unknown"),
    ],
)
def test_what_cannot_be(family, knobs, message):
    with pytest.raises(InputError, match=message):
        Schedule(family, 0.1, knobs=knobs)


def test_a_sequence_cannot_hold_it():
    parts = [Schedule("one_cycle", 0.1, knobs=BOTH), Schedule("constant", 0.1)]
    with pytest.raises(InputError, match=r"schedules\[0\]='one_cycle': expected one without base_"):
        Schedule("sequence", 0.1, knobs={"schedules": parts, "milestones": [0.5]})
