"""Closed loops: plateau against torch's class, greedy against cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lrtune.errors import InputError
from lrtune.schedule import Schedule

METRICS = st.sampled_from([-1.0, 0.0, 0.5, 0.9, 1.0, 1.001, 2.0, float("nan")])


@pytest.mark.parametrize("mode", ["min", "max"])
@given(data=st.data())
def test_plateau_is_torchs(mode, data, draw_schedule):
    drawn = draw_schedule(data, "plateau")
    schedule = Schedule("plateau", drawn.peak_lr, knobs=drawn.knobs)
    metrics = data.draw(st.lists(METRICS, max_size=60))
    total = len(metrics) + 1
    params = schedule.resolve(total)
    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=params.pop("peak_lr"))
    assert params.pop("warmup_steps") == 0
    torchs = ReduceLROnPlateau(optimizer, mode=mode, **params)
    controller = schedule.controller(total, mode)
    expected = [schedule.peak_lr]
    for update, metric in enumerate(metrics, start=1):
        torchs.step(metric)
        controller.observe(update, metric)
        expected.append(optimizer.param_groups[0]["lr"])
    np.testing.assert_array_equal(controller.rates, expected)


GREEDY = {"factor": 0.5, "patience": 1, "smooth": 1, "max_lr": 1.0, "min_lr": 0.1}


@pytest.mark.parametrize(
    ("change", "mode", "metrics", "rates"),
    [
        ({}, "min", [3, 3, 3, 3, 3], [1, 1, 0.5, 0.5, 0.25]),
        ({}, "min", [3, 3, 3, 2, 1], [1, 1, 0.5, 0.5, 1]),
        ({}, "max", [1, 1, 1, 2, 3], [1, 1, 0.5, 0.5, 1]),
        ({}, "min", [5, 4, 3, 2, 1], [1, 1, 1, 1, 1]),
        ({"max_lr": 0.6}, "min", [3, 3, 3, 2, 1], [1, 1, 0.5, 0.5, 0.6]),
        ({"max_lr": 0.4}, "min", [3, 3, 3, 2, 1], [1, 1, 0.5, 0.5, 0.5]),
        ({"patience": 0, "min_lr": 0.3}, "min", [3, 3, 3, 3], [1, 0.5, 0.3, 0.3]),
        # Averages over two: 4, 3, 3, 2: the third is the one bad validation.
        ({"patience": 0, "smooth": 2}, "min", [4, 2, 4, 0], [1, 1, 0.5, 1]),
    ],
)
def test_greedy(change, mode, metrics, rates):
    controller = Schedule("greedy", peak_lr=1.0, knobs=GREEDY | change).controller(10, mode)
    for update, metric in enumerate(metrics):
        controller.observe(update, metric)
        assert controller.rates[update] == rates[update]
    assert (controller.rates[len(metrics) :] == rates[-1]).all()


@pytest.mark.parametrize("name", ["plateau", "greedy"])
@given(data=st.data(), mode=st.sampled_from(["min", "max"]))
def test_rates_are_positive_and_at_most_the_peak(name, mode, data, draw_schedule):
    schedule = draw_schedule(data, name)
    controller = schedule.controller(100, mode)
    for update in range(0, 101, 2):
        controller.observe(update, data.draw(METRICS))
    assert (controller.rates > 0).all()
    assert (controller.rates <= schedule.peak_lr).all()


def test_warmup_is_not_the_machines():
    knobs = {"factor": 0.5, "patience": 0}
    controller = Schedule("plateau", 1.0, 0.4, 0.5, knobs).controller(10)
    for update in range(1, 8):
        controller.observe(update, 1.0)
    # The first validation that counts is after update 4 and sets the best; the next three drop.
    assert controller.rates.tolist() == [0.5, 0.625, 0.75, 0.875, 1, 0.5, 0.25, *3 * [0.125]]
    with pytest.raises(InputError, match=r"update=6: .* at least 7"):
        controller.observe(6, 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.rates(10), r"plateau: .* use \.controller\(10\)"),
        (lambda s: s.controller(10, "low"), "mode='low': expected 'min'"),
        (lambda s: s.controller(10).observe(11, 1.0), "update=11: .* at most 10"),
        (lambda s: s.controller(10).observe(True, 1.0), "update=True"),
        (lambda s: s.controller(0), "total=0"),
        (lambda s: Schedule("cosine", 0.1).controller(7), r"use \.rates\(7\)"),
    ],
)
def test_misuse_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(Schedule("plateau", peak_lr=0.1))
