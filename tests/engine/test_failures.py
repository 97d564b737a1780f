"""What goes wrong in a pool: memory that runs out, errors, interruptions, divergence."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lrtune.engine import FusedPool, SerialPool
from lrtune.engine.stacked import Program
from lrtune.errors import InputError
from lrtune.tasks import Metric
from lrtune.tasks.metrics import ACCURACY
from tests.engine.trials import (
    BATCH,
    all_curves,
    alone,
    cnn,
    falling,
    mlp,
    numbers,
    same,
    train,
    width,
)


class Fails:
    """Stands in for ``Program.update`` and fails where it is told to."""

    def __init__(self, monkeypatch, when, error):
        self.real, self.calls, self.sizes = Program.update, 0, []
        self.when, self.error = when, error
        monkeypatch.setattr(Program, "update", lambda *given: self(*given))

    def __call__(self, program, state, *given):
        self.calls += 1
        size = len(state.weights[0])
        self.sizes.append(size)
        losses = self.real(program, state, *given)  # the rows are changed by then
        if self.when(size, self.calls):
            raise self.error
        return losses


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize(
    ("fits", "at_once", "error"),
    [(4, 3, OUT_OF_MEMORY[0]), (2, 2, OUT_OF_MEMORY[1]), (1, 1, OUT_OF_MEMORY[0])],
    ids=str,
)
def test_less_at_once_where_memory_runs_out(fits, at_once, error, fifty, monkeypatch):
    task = replace(fifty, model=lambda: cnn().double(), ema=0.3, epochs=24 * BATCH / 240)
    rates = falling(task)
    expected = all_curves(FusedPool(task, 5), rates)
    lines = []
    pool = FusedPool(task, 5, tell=lines.append)
    fails = Fails(monkeypatch, lambda size, calls: size > fits and calls > 8, error)
    same(expected, all_curves(pool, rates))
    assert width(pool) == at_once == max(fails.sizes[-12:])
    assert lines[-1] == f"out of memory: from here on {at_once} trials at once, of 5"
    assert len(lines) == {3: 1, 2: 2, 1: 3}[at_once]


def test_not_even_one_fits(fifty, monkeypatch):
    pool = FusedPool(fifty, 2)
    for slot in range(2):
        pool.start(slot, falling(fifty), slot)
    before = pool.snapshot(0).tensors
    Fails(monkeypatch, lambda size, calls: True, OUT_OF_MEMORY[0])
    with pytest.raises(torch.OutOfMemoryError):
        pool.advance()
    for name, tensor in pool.snapshot(0).tensors.items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_a_full_memory_is_no_trial_s_end(error, fifty, monkeypatch):
    pool = SerialPool(fifty, 2)
    for slot in range(2):
        pool.start(slot, falling(fifty), slot)
    steps = iter(range(3))

    def step(*_):
        if next(steps, None) is None:
            raise error
        return torch.zeros(())

    monkeypatch.setattr(SerialPool, "_step", step)
    with pytest.raises(type(error)):
        pool.advance()


def test_validation_takes_no_more_memory_than_training(fifty, monkeypatch):
    """Models at once times samples: twice those of an update, and no more rows than its."""
    seen, real = [], Program.outputs

    def outputs(self, models, inputs, at_once):
        seen.append((len(next(iter(models.values()))), at_once, len(inputs)))
        return real(self, models, inputs, at_once)

    task = replace(fifty, val=fifty.train)
    pool = FusedPool(task, 6)
    Fails(monkeypatch, lambda size, calls: size > 3, OUT_OF_MEMORY[0])
    monkeypatch.setattr(Program, "outputs", outputs)
    all_curves(pool, falling(task))
    segments = [one for one in seen if one[0] > 1]
    assert segments == [(3, 1, 240)] * 16  # the weights, and their averages
    assert all(at_once == 1 or at_once * n <= 2 * 6 * BATCH for _, at_once, n in seen)


@pytest.mark.parametrize("at", [1, 30])
def test_whatever_else_goes_wrong_the_trials_go_on_serially(at, fifty, monkeypatch):
    task = replace(fifty, ema=0.3, augment=("mixup",))
    rates = falling(task)
    lines = []
    pool = FusedPool(task, 3, tell=lines.append)
    expected = all_curves(SerialPool(task, 3), rates)
    Fails(monkeypatch, lambda size, calls: calls == at, KeyError("what\nnow"))
    same(expected, all_curves(pool, rates))
    assert lines == [
        "trials are trained one after the other from here on: together, KeyError: 'what\\nnow'"
    ]
    assert width(pool) == 1
    for slot in range(3):
        pool.release(slot)
    same(alone(task, rates, 5), train(pool, 1, rates, 5))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InputError("the data has changed")])
def test_an_interrupted_segment_is_undone(error, fifty, monkeypatch):
    rates = falling(fifty)
    pool = FusedPool(fifty, 2)
    curve = numbers(pool.start(1, rates, 5)) + numbers(pool.advance()[0])
    with monkeypatch.context() as patch:
        Fails(patch, lambda size, calls: calls == 7, error)
        with pytest.raises(type(error)):
            pool.advance()
    pool.restore(0, pool.snapshot(1))
    for _ in range(3):
        one, other = pool.advance()
        assert numbers(one) == numbers(other)
        curve += numbers(other)
    same(alone(fifty, rates, 5), curve)


def test_a_diverged_row_disturbs_no_other(fifty):
    task = replace(fifty, model=lambda: cnn().double(), clip_norm=1.0, ema=0.3)
    rates = falling(task)
    pool = FusedPool(task, 3)
    for slot in (0, 2):
        pool.start(slot, np.full(task.horizon, 1e300), slot)
    curve = numbers(pool.start(1, rates, 5))
    for _ in range(4):
        first, second, third = pool.advance()
        curve += numbers(second)
        assert first.error is None and not np.isfinite([first.loss, third.loss]).any()
    same(alone(task, rates, 5), curve)
    for slot in range(3):
        pool.release(slot)
    same(alone(task, rates, 7), train(pool, 0, rates, 7))  # nothing of it is left in the row


@pytest.mark.parametrize("over", ["split", "batch"])
@pytest.mark.parametrize("pool", [SerialPool, FusedPool])
def test_a_metric_that_raises_fails_its_own_slot(pool, over, fifty, monkeypatch):
    monkeypatch.setattr("lrtune.engine.device_task.EVALUATION_BATCH", 25)

    def fragile(outputs, targets):
        if not bool(torch.isfinite(outputs).all()):
            raise ArithmeticError("no\nnumber")
        return outputs.mean()

    metric = Metric("fragile", fragile, "minimize", over=over)
    task = replace(fifty, metrics=(ACCURACY, metric))
    rates = falling(task)
    trials = pool(task, 3)
    curve = numbers(trials.start(1, rates, 5))
    trials.start(0, np.full(50, 1e300), 1)
    for _ in range(4):
        broken, fine = trials.advance()
        curve += numbers(fine)
        assert broken.error.startswith("ArithmeticError: no\nnumber (line ")
        assert (broken.metrics, len(broken.losses)) == ({}, 0)
        assert np.isnan(broken.loss)
    same(alone(task, rates, 5), curve)


class Crammed(nn.Module):
    """Has room for so many samples in evaluation."""

    room = 1000
    seen: tuple[int, ...] = ()

    def __init__(self):
        super().__init__()
        self.inner = mlp()

    def forward(self, inputs):
        if not self.training:
            Crammed.seen += (len(inputs),)
            if len(inputs) > self.room:
                raise OUT_OF_MEMORY[0]
        return self.inner(inputs)


@pytest.mark.parametrize("make", [SerialPool, FusedPool])
def test_fewer_samples_at_once_where_one_trial_is_judged(make, fifty, monkeypatch):
    monkeypatch.setattr(Crammed, "room", 1000)
    task = replace(fifty, model=lambda: Crammed().double(), test=fifty.val.part(0, 45))
    pool = make(task, 2)
    first = pool.start(0, falling(task), 5)
    while pool.advance()[0].update < task.horizon:
        pass
    expected = pool.evaluate(0)
    monkeypatch.setattr(Crammed, "room", 12)
    monkeypatch.setattr(Crammed, "seen", ())
    for _ in range(2):  # it is not tried with more again
        progress = pool.evaluate(0)
        assert progress.metrics == pytest.approx(expected.metrics, rel=1e-12)
        assert len(progress.blocks) == 9
        assert progress.blocks == pytest.approx(expected.blocks, rel=1e-12)
    # Four times 11 and the last one, by the weights and by their average, twice.
    assert Crammed.seen[:2] == (45, 22) and sorted(Crammed.seen[2:]) == [1] * 4 + [11] * 16
    assert pool.start(1, falling(task), 5).loss == pytest.approx(first.loss, rel=1e-12)
    monkeypatch.setattr(Crammed, "room", 0)
    with pytest.raises(torch.OutOfMemoryError):
        pool.evaluate(0)
    assert Crammed.seen[-1] == 1
