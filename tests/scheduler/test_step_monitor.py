"""A loop that steps a scheduler otherwise than it was made for is told once, and goes on."""

import copy
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import SGD

import lrtune
from lrtune.schedule import Schedule
from lrtune.scheduler import scheduler, step_monitor
from lrtune.scheduler.step_monitor import WAY_OUT

COSINE = Schedule("cosine", peak_lr=0.5, warmup=0.1)


def made(total, schedule=COSINE, **options):
    return scheduler(schedule, SGD(nn.Linear(1, 1).parameters(), lr=1.0), total, **options)


def train(follow, updates, every=1, times=1):
    """What is said while step() is called so many times after every so many updates."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for update in range(1, updates + 1):
            follow.optimizer.step()
            for _ in range(times if update % every == 0 else 0):
                follow.step()
    assert {(w.category, w.filename) for w in caught} <= {(lrtune.ScheduleWarning, __file__)}
    return [str(w.message) for w in caught]


ONCE, PAST = "once for every update", "more often"
MISUSE = [  # scheduler; updates, every, times; what is said: unit, rhythms, and the way out
    (lambda: made(40), (45,), "40 updates", (PAST, ONCE), ("update", "even")),
    (lambda: made(5, unit="epoch"), (400, 40), "5 epochs", (PAST, "every 40"), ("epoch", "slow")),
    (lambda: made(30, unit="epoch"), (400,), "30 epochs", (PAST, ONCE), ("epoch", "even")),
    (lambda: made(7180), (400, 90), "7,180 updates", ("every 90",), ("update", "slow")),
    (lambda: made(7180), (400, 1, 2), "7,180 updates", ("2 times for",), ("update", "fast")),
    (lambda: made(20), (19, 1, 2), "20 updates", (PAST, "2 times for"), ("update", "fast")),
    (
        lambda: made(5, Schedule("plateau", 0.5)),
        *((10,), "5 updates", (PAST, ONCE), ("update", "even")),
    ),
]


@pytest.mark.parametrize(("make", "loop", "unit", "rhythms", "way_out"), MISUSE)
def test_it_is_said_once(make, loop, unit, rhythms, way_out):
    (sentence,) = train(make(), *loop)
    assert f"made for total={unit}" in sentence and sentence.endswith(WAY_OUT[way_out])
    assert all(rhythm in sentence for rhythm in rhythms)


def test_past_the_end_every_family_holds_its_last_rate(opened):
    follow = made(40, opened)
    train(follow, 39)
    for _ in range(3):
        train(follow, 1)
        assert follow.get_last_lr() == pytest.approx([opened.rates(40)[-1]], abs=1e-12)
        assert follow.optimizer.param_groups[0]["lr"] == follow.get_last_lr()[0]
    assert follow.state_dict()["update"] == 40


def test_past_the_end_a_closed_loop_holds_its_last_rate(closed):
    follow = made(40, closed)
    assert len(train(follow, 45)) == 1
    for metric in [2.0] * 20:
        follow.step(metric)
    assert follow.get_last_lr() == [0.5]
    assert follow.state_dict()["update"] == 40


SOUND = {
    "every update": (lambda: made(400), 400),
    "every epoch": (lambda: made(10, unit="epoch"), 400, 40),
    "one batch an epoch": (lambda: made(100, unit="epoch"), 100),
    "without the optimizer's steps": (lambda: made(400), 0),
    "the last batches dropped": (lambda: made(400), 397),
}


@pytest.mark.parametrize("case", SOUND)
def test_nothing_is_said_of_a_sound_loop(case):
    make, *loop = SOUND[case]
    assert train(make(), *loop) == []


def test_nothing_is_said_of_what_cannot_be_counted():
    follow = made(400, Schedule("linear", 0.5))
    train(follow, 3)
    _, again = copy.deepcopy((follow.optimizer, follow))  # hooks are not copied
    assert train(again, 390) == []


class Doubled(SGD):
    def step(self, closure=None):
        return super().step(closure)


def test_an_update_by_a_subclass_is_one_update():
    """torch runs the hooks once for each class in the chain whose step it has wrapped."""
    SGD(nn.Linear(1, 1).parameters())
    optimizer, hooks = Doubled(nn.Linear(1, 1).parameters(), lr=1.0), []
    follow = scheduler(COSINE, optimizer, 400)
    optimizer.register_step_post_hook(lambda *_: hooks.append(1))
    assert train(follow, 100) == []
    assert (len(hooks), follow.monitor.updates) == (200, 100)


@pytest.mark.gpu
def test_nothing_is_said_of_the_pace_of_a_cuda_graph():
    p = nn.Parameter(torch.zeros(1, device="cuda"))
    p.grad = torch.ones_like(p)
    lr = torch.tensor(1.0, device="cuda")
    optimizer = torch.optim.AdamW([p], lr=lr, capturable=True)
    follow = scheduler(COSINE, optimizer, 400)
    assert train(follow, 3) == []
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(390):
            graph.replay()
            follow.step()


def test_updates_before_the_first_step_are_another_schedulers():
    follow = made(400)
    for _ in range(300):
        follow.optimizer.step()
    assert train(follow, 400) == []


@pytest.mark.parametrize("skipped", [16, 24])
def test_updates_that_a_loss_scaler_skips_are_no_other_unit(skipped):
    """It halves its scale with each, from 2**16 by default."""
    model = nn.Linear(1, 1)
    optimizer = SGD(model.parameters(), lr=1.0)
    follow, scaler = scheduler(COSINE, optimizer, 100), GradScaler("cpu", 2.0**skipped)
    done = []
    optimizer.register_step_post_hook(lambda *_: done.append(1))
    scaler.scale(torch.zeros(()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's, of the first step
        warnings.simplefilter("error", lrtune.ScheduleWarning)
        for update in range(100):
            for p in model.parameters():
                p.grad = p.new_full(p.shape, np.inf if update < skipped else 0.0)
            scaler.step(optimizer)
            scaler.update()
            follow.step()
    assert len(done) == 100 - skipped


def test_a_resumed_scheduler_goes_on_counting():
    first = made(100)
    train(first, 100)
    again = made(100)
    again.load_state_dict(first.state_dict())
    assert len(train(again, 2)) == 1
    again.load_state_dict(made(100).state_dict())
    assert train(again, 100) == []


def test_it_can_be_an_error_and_the_loop_goes_on():
    follow = made(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", lrtune.ScheduleWarning)
        for _ in range(3):
            follow.optimizer.step()
            follow.step()
        with pytest.raises(lrtune.ScheduleWarning, match="made for total=3 updates"):
            follow.step()
        follow.step()


def ended(monkeypatch, *schedulers):
    """What is said at the end of a process that trained with these schedulers."""
    monkeypatch.setattr(step_monitor, "_trained", [follow.monitor for follow in schedulers])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step_monitor._at_exit()
    return [str(w.message) for w in caught]


def after(*args, save=False, stepped=True, **options):
    follow = made(*args, **options)
    train(follow, 70, times=int(stepped))
    if save:
        follow.state_dict()
    return follow


NEVER_ENDED = [
    ({}, "update 70 of total=700", ("update", "even")),
    ({"unit": "epoch"}, "epoch 70 of total=700", ("epoch", "even")),
    ({"stepped": False}, "update 0 of total=700", ("update", "never")),
]


@pytest.mark.parametrize(("options", "where", "way_out"), NEVER_ENDED)
def test_a_run_that_never_came_to_its_end_is_told_once(options, where, way_out, monkeypatch):
    monkeypatch.setattr(step_monitor, "_trained", [])
    for name in ("last_value", "ps1"):
        monkeypatch.delattr(sys, name, raising=False)
    follow = after(700, **options)
    assert step_monitor._trained == [follow.monitor]
    (sentence,) = ended(monkeypatch, follow)
    assert sentence.startswith(f"the run ended at {where}")
    assert sentence.endswith(WAY_OUT[way_out]) and "the schedule ends at 3.11e-06" in sentence
    assert ended(monkeypatch, follow) == []


HARMLESS = {
    "it ended": lambda: [after(70)],
    "nearly": lambda: [after(75)],
    "one of a search": lambda: [after(700), after(700)],
    "it can go on": lambda: [after(700, save=True)],
    "its rate has no end": lambda: [after(700, Schedule("plateau", 0.1))],
    "its rate is that of the end": lambda: [after(700, Schedule("constant", 0.1))],
    "a trial of the code": lambda: [made(700)],
}


@pytest.mark.parametrize("case", HARMLESS)
def test_nothing_is_said_of_an_end_that_may_be_meant(case, monkeypatch):
    assert ended(monkeypatch, *HARMLESS[case]()) == []


@pytest.mark.parametrize("name", ["last_value", "ps1"])
def test_nothing_is_said_after_an_exception_or_at_a_prompt(name, monkeypatch):
    monkeypatch.setattr(sys, name, "x", raising=False)
    assert ended(monkeypatch, after(700)) == []


def test_a_script_says_it_when_it_exits():
    script = (
        "from torch import nn, optim\n"
        "from lrtune import Schedule\n"
        "optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)\n"
        "follow = Schedule('linear', peak_lr=0.5).torch(optimizer, total=700)\n"
        "for _ in range(70):\n"
        "    optimizer.step()\n"
        "    follow.step()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0
    assert "ScheduleWarning: the run ended at update 70 of total=700" in done.stderr
