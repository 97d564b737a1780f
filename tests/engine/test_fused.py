"""FusedPool: misuse, and what it leaves behind."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lrtune.engine import FusedPool, SerialPool
from lrtune.errors import InputError
from tests.engine.test_equal import Pairs
from tests.engine.trials import alone, crowded, falling, same, train, width


def test_the_callers_generators_are_untouched(fifty):
    task = replace(fifty, augment=("mixup",), ema=0.3)
    before = torch.get_rng_state()
    pool = FusedPool(task, 3)
    pool.try_updates(3)
    crowded(pool, 1, falling(task), 0)
    pool.restore(pool.release(1) or 1, pool.snapshot(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("make", [FusedPool, SerialPool])
def test_trying_out_leaves_nothing_behind(make, fifty, monkeypatch):
    monkeypatch.setattr("lrtune.engine.device_task.worker_count", lambda batch_bytes: 0)
    streamed = replace(fifty, train=Pairs(fifty.train), memory=1000)
    for task in (fifty, streamed):
        pool = make(task, 2)
        for count in (1, 3):
            pool.try_updates(count)
        assert not getattr(pool.device_task.train, "_live", None)  # no workers that read ahead
        same(alone(fifty, falling(fifty), 5), train(pool, 1, falling(fifty), 5))
        pool.release(1)
    assert not pool.device_task.train._live


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda pool: pool.start(1, np.ones(49), 0), ValueError, r"\(49,\), expected \(50,\)"),
        (lambda pool: pool.revise(0, np.ones(51)), ValueError, r"\(51,\), expected \(50,\)"),
        (lambda pool: pool.start(0, np.ones(50), 0), RuntimeError, "slot 0 is occupied: release"),
        (lambda pool: pool.restore(0, pool.snapshot(0)), RuntimeError, "slot 0 is occupied"),
        (lambda pool: pool.start(2, np.ones(50), 0), IndexError, "slot 2: there are 0 to 1"),
        (lambda pool: pool.start(-1, np.ones(50), 0), IndexError, "slot -1: there are 0 to 1"),
        (lambda pool: pool.revise(1, np.ones(50)), RuntimeError, "slot 1 is free"),
        (lambda pool: pool.snapshot(1), RuntimeError, "slot 1 is free"),
        (lambda pool: pool.try_updates(1), RuntimeError, "there are trials in the pool"),
        (lambda pool: FusedPool(pool.task, 0), InputError, "slots=0: at least 1"),
    ],
)
def test_misuse_is_refused(call, error, message, fifty):
    pool = FusedPool(fifty, 2)
    pool.start(0, falling(fifty), seed=0)
    with pytest.raises(error, match=message):
        call(pool)
    pool.release(1)  # nothing to release is no misuse
    assert [progress.slot for progress in pool.advance()] == [0]


def test_a_trial_that_is_over(fifty):
    pool = FusedPool(fifty, 1)
    assert pool.advance() == []
    train(pool, 0, falling(fifty), 0)
    with pytest.raises(RuntimeError, match="the trial is over"):
        pool.advance()
    assert width(pool) == 1
