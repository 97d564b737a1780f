"""One truth for torch: the rates that training really used are those of `rates(total)`."""

import io
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.optim import SGD

from lrtune.schedule import Schedule
from lrtune.scheduler import scheduler

TOTAL, BATCH = 24, 4


class Recorder(SGD):
    """An SGD that notes the rates that its updates use, as [updates][groups]."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.used = []

    def step(self, closure=None):
        self.used.append([float(group["lr"]) for group in self.param_groups])
        return super().step(closure)


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    body, head = model[0].parameters(), model[2].parameters()
    return model, Recorder([{"params": body}, {"params": head, "lr": 0.3}], lr=0.1)


def train(model, optimizer, follow, updates, accumulate=1, per_step=1, metrics=None):
    """The loop of everyone: losses of micro-batches added up, a step, a step of the scheduler."""
    for _ in range(updates):
        optimizer.zero_grad()
        for _ in range(accumulate):
            inputs = torch.randn(BATCH, 3)
            (mse_loss(model(inputs), inputs.sum(1, keepdim=True)) / accumulate).backward()
        optimizer.step()
        if len(optimizer.used) % per_step == 0:
            follow.step()
        if len(optimizer.used) in (metrics or {}):
            follow.step(metrics[len(optimizer.used)])


def expected(schedule, total, metrics=None, per_step=1):
    """The rates of the table: [updates, groups]."""
    if schedule.closed_loop:
        controller = schedule.controller(total)
        for update, metric in (metrics or {}).items():
            controller.observe(update, metric)
        rates = controller.rates
    else:
        rates = schedule.rates(total)
    return np.outer(np.repeat(rates, per_step), [1, 3])


def assert_used(optimizer, rates):
    np.testing.assert_allclose(optimizer.used, rates, rtol=0, atol=1e-12)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_open_loops_with_and_without_accumulation(opened, accumulate):
    model, optimizer = network()
    train(model, optimizer, scheduler(opened, optimizer, TOTAL), TOTAL, accumulate)
    assert_used(optimizer, expected(opened, TOTAL))


def test_open_loops_by_epoch(opened):
    model, optimizer = network()
    follow = scheduler(opened, optimizer, TOTAL, unit="epoch")
    train(model, optimizer, follow, 3 * TOTAL, per_step=3)
    assert_used(optimizer, expected(opened, TOTAL, per_step=3))


def test_closed_loops_with_accumulation(closed):
    metrics = {update: 1.0 for update in range(2, TOTAL + 1, 2)}
    model, optimizer = network()
    train(model, optimizer, scheduler(closed, optimizer, TOTAL), TOTAL, 2, metrics=metrics)
    assert_used(optimizer, expected(closed, TOTAL, metrics))


@pytest.mark.parametrize("stop", [1, 11, TOTAL - 1])
def test_a_run_that_is_killed_and_resumed(opened, stop):
    """All of it from one file that holds data only, in another process's objects."""
    model, optimizer = network()
    follow = scheduler(opened, optimizer, TOTAL)
    train(model, optimizer, follow, stop)
    file = io.BytesIO()
    parts = {"model": model, "optimizer": optimizer, "scheduler": follow}
    torch.save({name: part.state_dict() for name, part in parts.items()}, file)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    model, again = network()
    follow = scheduler(opened, again, TOTAL)
    for name, part in {"model": model, "optimizer": again, "scheduler": follow}.items():
        part.load_state_dict(saved[name])
    train(model, again, follow, TOTAL - stop)
    again.used = optimizer.used + again.used
    assert_used(again, expected(opened, TOTAL))


def test_nothing_is_compiled_anew_at_every_update():
    """The hook that counts updates costs a compiled optimizer step no graph."""
    model, optimizer = network()
    follow = scheduler(Schedule("cosine", 0.1), optimizer, TOTAL)
    graphs = []

    def backend(module, inputs):
        graphs.append(module)
        return module.forward

    step = torch.compile(optimizer.step, backend=backend)
    for _ in range(TOTAL):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's compiler has its own to say
            step()
        follow.step()
    assert follow.monitor.updates == TOTAL
    assert len(graphs) <= 2
