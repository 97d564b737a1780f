"""Memory: what nobody needs any more is free at once, and not when the collector comes by."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from lrtune.engine import FusedPool, SerialPool
from lrtune.engine.device_task import make_loader
from tests.engine.test_equal import Pairs
from tests.engine.trials import falling


@pytest.fixture(autouse=True)
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def begun(make, task):
    """A pool with a trial that has been trained, and weak references to what holds its memory."""
    pool = make(task, 2)
    pool.try_updates(1)
    pool.start(0, falling(task), 5)
    assert pool.advance()[0].error is None
    inner = pool._pool if isinstance(pool, FusedPool) else pool
    return pool, [weakref.ref(held) for held in (inner, pool.device_task, pool.device_task.train)]


@pytest.mark.parametrize("make", [SerialPool, FusedPool])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_pool_that_is_gone(make, streamed, fifty, monkeypatch):
    monkeypatch.setattr("lrtune.engine.device_task.worker_count", lambda batch_bytes: 0)
    task = replace(fifty, train=Pairs(fifty.train), memory=1000) if streamed else fifty
    pool, held = begun(make, task)
    assert all(one() is not None for one in held)
    del pool
    assert [one() for one in held] == [None] * 3


def test_a_trial_that_is_over(fifty):
    pool, _ = begun(SerialPool, replace(fifty, ema=0.3))
    trial = pool._trials[0]
    held = [weakref.ref(model) for model in (trial.model, trial.average.model)]
    del trial
    pool.release(0)
    assert [one() for one in held] == [None] * 2


def test_pools_share_the_data_on_their_device(fifty):
    one, other = (make_loader(fifty.train, fifty, torch.device("meta")) for _ in range(2))
    inputs = one._split.inputs
    assert inputs is other._split.inputs is not fifty.train.inputs
    held = weakref.ref(inputs)
    del one, other, inputs
    assert held() is None
