"""A run that ends long before its schedule does is told so when the process exits."""

import subprocess
import sys
import warnings

import pytest
from torch import nn
from torch.optim import SGD

from lrtune.schedule import Schedule
from lrtune.scheduler import scheduler, step_monitor

COSINE = Schedule("cosine", peak_lr=0.5, warmup=0.1)


def made(total, schedule=COSINE, **options):
    return scheduler(schedule, SGD(nn.Linear(1, 1).parameters(), lr=1.0), total, **options)


def train(follow, updates, step=True):
    for _ in range(updates):
        follow.optimizer.step()
        if step:
            follow.step()


def ended(monkeypatch, *schedulers):
    """What is said at the end of a process that trained with these schedulers."""
    monkeypatch.setattr(step_monitor, "_trained", [follow.monitor for follow in schedulers])
    monkeypatch.delattr(sys, "last_value", raising=False)
    monkeypatch.delattr(sys, "ps1", raising=False)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        step_monitor._at_exit()
    return [str(w.message) for w in said]


def after(*args, **options):
    follow = made(*args, **options)
    train(follow, 70)
    return follow


NEVER_ENDED = {
    "a total too large": (
        lambda: after(700),
        "the run ended at update 70 of total=700 (step() was called once for every update of the "
        "optimizer), at a rate of 0.5; the schedule ends at 3.11e-06. Unless it was stopped on "
        "purpose (early stopping, an error), give as total the updates of the whole run, its calls "
        "of optimizer.step()",
    ),
    "epochs, stepped by batch": (
        lambda: after(700, unit="epoch"),
        "the run ended at epoch 70 of total=700 (step() was called once for every update of the "
        "optimizer), at a rate of 0.5; the schedule ends at 3.11e-06. Unless it was stopped on "
        "purpose (early stopping, an error), call step() once an epoch, or give total in updates "
        "and unit='update'",
    ),
    "never stepped": (
        lambda: made(700),
        "the run ended at update 0 of total=700 (step() was called 0 times in 70 updates of the "
        "optimizer), at a rate of 0.005; the schedule ends at 3.11e-06. Unless it was stopped on "
        "purpose (early stopping, an error), call step() after every update",
    ),
}


@pytest.mark.parametrize("case", NEVER_ENDED)
def test_a_run_that_never_came_to_its_end_is_told_when_it_is_over(case, monkeypatch):
    make, sentence = NEVER_ENDED[case]
    monkeypatch.setattr(step_monitor, "_trained", [])
    follow = make()
    if not follow.last_epoch:
        train(follow, 70, step=False)
    assert step_monitor._trained == [follow.monitor]
    assert ended(monkeypatch, follow) == [sentence]
    assert ended(monkeypatch, follow) == []


def saved(follow):
    follow.state_dict()
    return follow


HARMLESS = {
    "it ended": lambda: [after(70)],
    "nearly": lambda: [after(75)],
    "one of a search": lambda: [after(700), after(700)],
    "it can go on": lambda: [saved(after(700))],
    "its rate has no end": lambda: [after(700, Schedule("plateau", 0.1))],
    "its rate is that of the end": lambda: [after(700, Schedule("constant", 0.1))],
    "a trial of the code": lambda: [made(700)],
}


@pytest.mark.parametrize("case", HARMLESS)
def test_nothing_is_said_of_an_end_that_may_be_meant(case, monkeypatch):
    assert ended(monkeypatch, *HARMLESS[case]()) == []


@pytest.mark.parametrize("name", ["last_value", "ps1"])
def test_nothing_is_said_after_an_exception_or_at_a_prompt(name, monkeypatch):
    follow = after(700)
    monkeypatch.setattr(step_monitor, "_trained", [follow.monitor])
    monkeypatch.setattr(sys, name, "x", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step_monitor._at_exit()


SCRIPT = """
from torch import nn
from torch.optim import SGD
from lrtune import Schedule

def main():
    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    follow = Schedule("linear", peak_lr=0.5).torch(optimizer, total=700)
    for _ in range(70):
        optimizer.step()
        follow.step()
    {end}

main()
"""


@pytest.mark.parametrize(("end", "says"), [("pass", True), ("raise KeyboardInterrupt", False)])
def test_a_script_says_it_when_it_exits(end, says):
    command = [sys.executable, "-c", SCRIPT.format(end=end)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ("ScheduleWarning: the run ended at update 70 of total=700" in done.stderr) == says
    assert (done.returncode == 0) == says
