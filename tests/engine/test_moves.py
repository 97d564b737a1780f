"""A trial goes on the same wherever it is moved, or given other rates."""

from dataclasses import replace

import numpy as np
import pytest

from lrtune.engine import OPTIMIZERS, FusedPool, SerialPool
from tests.engine.trials import alone, cnn, falling, numbers, same


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_trial_goes_on_in_any_pool(optimizer, fifty):
    task = replace(fifty, optimizer=optimizer, model=lambda: cnn().double(), ema=0.3, clip_norm=0.5)
    rates = falling(task)
    curve: list[float] = []
    pools = [SerialPool(task, 2), FusedPool(task, 3), FusedPool(task, 4), SerialPool(task, 2)]
    snapshot = None
    for number, pool in enumerate(pools):
        pool.start(0, rates, 1)
        if snapshot is None:
            curve += numbers(pool.start(1, rates, 5))
        else:
            pool.restore(1, snapshot)
        told = pool.advance()
        curve += numbers(told[1])
        snapshot = pool.snapshot(1)
        assert snapshot.update == task.checkpoints[number]
    same(alone(task, rates, 5), curve)


def test_a_fresh_trial_can_be_moved(fifty):
    rates = falling(fifty)
    for one, other in ((FusedPool, SerialPool), (SerialPool, FusedPool)):
        source, target = one(fifty, 2), other(fifty, 2)
        curve = numbers(source.start(1, rates, 5))
        target.restore(0, source.snapshot(1))
        while target.snapshot(0).update < fifty.horizon:
            curve += numbers(target.advance()[0])
        same(alone(fifty, rates, 5), curve)


def test_rates_may_be_revised(fifty):
    rates = falling(fifty)
    given = rates.copy()
    pool = FusedPool(fifty, 2)
    pool.start(1, rates, 2)
    curve = numbers(pool.start(0, given, 5))
    given[:] = 7.0  # the caller's own again
    for _ in range(4):
        curve += numbers(pool.advance()[0])
        pool.revise(0, np.append(rates[:25], rates[25:] / 3))
    same(alone(fifty, np.append(rates[:25], rates[25:] / 3), 5), curve)
