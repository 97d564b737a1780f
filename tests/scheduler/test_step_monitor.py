"""A loop that steps a scheduler otherwise than it was made for is told once, and goes on."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import SGD

import lrtune
from lrtune.schedule import Schedule
from lrtune.scheduler import scheduler

COSINE = Schedule("cosine", peak_lr=0.5, warmup=0.1)


def made(total, schedule=COSINE, **options):
    return scheduler(schedule, SGD(nn.Linear(1, 1).parameters(), lr=1.0), total, **options)


def train(follow, updates, every=1, times=1):
    """What is said while step() is called so many times after every so many updates."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for update in range(1, updates + 1):
            follow.optimizer.step()
            for _ in range(times if update % every == 0 else 0):
                follow.step()
    assert [(w.category, w.filename) for w in said] == [(lrtune.ScheduleWarning, __file__)] * len(
        said
    )
    return [str(w.message) for w in said]


ONCE_AN_EPOCH = "call step() once an epoch, or give total in updates and unit='update'"
ACCELERATE = (
    "call step() once after every update (a scheduler that Accelerate prepared is stepped once "
    "for each process: leave it out of prepare())"
)
MISUSE = {
    "past the end": (
        [made(40), 45],
        "made for total=40 updates, but step() is called more often (once for every update of the "
        "optimizer): the rate stays at its last value; give as total the updates of the whole run, "
        "its calls of optimizer.step()",
    ),
    "past the end in epochs": (
        [made(5, unit="epoch"), 400, 40],
        "made for total=5 epochs, but step() is called more often (once for every 40 updates of "
        "the optimizer): the rate stays at its last value; give as total the epochs of the whole "
        "run",
    ),
    "a few epochs, stepped by batch": (
        [made(30, unit="epoch"), 400],
        "made for total=30 epochs, but step() is called more often (once for every update of the "
        f"optimizer): the rate stays at its last value; {ONCE_AN_EPOCH}",
    ),
    "updates, stepped by epoch": (
        [made(7180), 400, 90],
        "made for total=7,180 updates, but step() is called once for every 90 updates of the "
        "optimizer: call step() after every update, or give total in epochs and unit='epoch' (or "
        "unit='epoch' if total counts calls of step())",
    ),
    "by process": (
        [made(7180), 400, 1, 2],
        "made for total=7,180 updates, but step() is called 2 times for every update of the "
        f"optimizer: {ACCELERATE}",
    ),
    "a short run by process": (
        [made(20), 19, 1, 2],
        "made for total=20 updates, but step() is called more often (2 times for every update of "
        f"the optimizer): the rate stays at its last value; {ACCELERATE}",
    ),
    "a closed loop past its end": (
        [made(5, Schedule("plateau", 0.5)), 10],
        "made for total=5 updates, but step() is called more often (once for every update of the "
        "optimizer): the rate stays at its last value; give as total the updates of the whole run, "
        "its calls of optimizer.step()",
    ),
}


@pytest.mark.parametrize("case", MISUSE)
def test_it_is_said_once(case):
    args, sentence = MISUSE[case]
    assert train(*args) == [sentence]


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
    "every update": [made(400), 400],
    "every epoch": [made(10, unit="epoch"), 400, 40],
    "one batch an epoch": [made(100, unit="epoch"), 100],
    "without the optimizer's steps": [made(400), 0],
    "the last batches dropped": [made(400), 397],
}


@pytest.mark.parametrize("case", SOUND)
def test_nothing_is_said_of_a_sound_loop(case):
    assert train(*SOUND[case]) == []


def test_nothing_is_said_of_what_cannot_be_counted():
    follow = made(400, Schedule("linear", 0.5))
    train(follow, 3)
    _, again = copy.deepcopy((follow.optimizer, follow))  # hooks are not copied
    assert train(again, 390, 1, 1) == []


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
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
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
