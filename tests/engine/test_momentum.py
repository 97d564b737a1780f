"""A momentum cycle: fused is serial is a plain loop with torch's own scheduler."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from lrtune import InputError
from lrtune.engine import OPTIMIZERS, FusedPool, SerialPool
from lrtune.engine.checkpoint import load, save
from lrtune.schedule import FAMILIES, Schedule
from tests.engine.test_equal import decays
from tests.engine.trials import (
    BATCH,
    RATE,
    alone,
    cnn,
    crowded,
    falling,
    numbers,
    plainly,
    same,
    width,
)

KNOBS = {"base_momentum": 0.6, "max_momentum": 0.97}
CYCLES = {
    "one_cycle": {**KNOBS, "pct_start": 0.4},
    "cyclic": {**KNOBS, "step_size_up": 0.2, "mode": "triangular2"},
}
CHANGES = {
    **{name: {"optimizer": name} for name, rule in OPTIMIZERS.items() if rule.cycled},
    "sgd without": {"settings": {"momentum": 0.0}},
    "nesterov with L2": {"optimizer": "nesterov", "settings": {"weight_decay": 0.1}},
    "amsgrad": {"optimizer": "adam", "settings": {"amsgrad": True, "weight_decay": 0.1}},
    "adam without": {"optimizer": "adam", "settings": {"betas": (0.0, 0.99)}},
    "centered": {"optimizer": "rmsprop", "settings": {"centered": True, "momentum": 0.9}},
    "clipped and averaged": {"clip_norm": 0.5, "ema": 0.3},
}


def cycle(task, family="one_cycle"):
    return Schedule(family, RATE.get(task.optimizer, 5e-3), knobs=CYCLES[family])


def torchs(schedule, total):
    """Makes torch's own scheduler of an optimizer."""
    params = schedule.resolve(total)
    del params["peak_lr"], params["warmup_steps"]
    return partial(getattr(lr_scheduler, FAMILIES[schedule.family].torch), **params)


@pytest.mark.parametrize("family", CYCLES)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_fused_is_serial_is_torchs_scheduler(change, family, fifty):
    """Beside neighbours whose momentum is the optimizer's own."""
    task = replace(fifty, **change)
    schedule = cycle(task, family)
    rates, momenta = schedule.rates(task.horizon), schedule.momenta(task.horizon)
    pool = FusedPool(task, 3)
    same(
        plainly(task, rates, 5, torchs(schedule, task.horizon)),
        alone(task, rates, 5, momenta),
        crowded(pool, 1, rates, 5, momenta),
    )
    assert width(pool) == 3
    for slot in range(3):
        pool.release(slot)
    same(alone(task, rates, 5), crowded(pool, 1, rates, 5))  # it has left nothing behind


def test_groups_have_the_cycle_and_their_own_settings(fifty):
    task = replace(fifty, model=lambda: cnn().double(), optimizer="adamw", groups=decays)
    schedule = cycle(task)
    rates, momenta = schedule.rates(task.horizon), schedule.momenta(task.horizon)
    same(alone(task, rates, 5, momenta), crowded(FusedPool(task, 2), 1, rates, 5, momenta))


@pytest.mark.parametrize(
    "change",
    [{"settings": {"momentum": 0.0}}, {"optimizer": "adamw"}, {"optimizer": "rmsprop"}],
    ids=str,
)
def test_a_trial_goes_on_with_its_cycle_in_any_pool(change, fifty, tmp_path):
    """Also from a file."""
    task = replace(fifty, **change)
    schedule = cycle(task)
    rates, momenta = schedule.rates(task.horizon), schedule.momenta(task.horizon)
    curve: list[float] = []
    snapshot = None
    for pool in (SerialPool(task, 2), FusedPool(task, 3), FusedPool(task, 4), SerialPool(task, 2)):
        pool.start(0, falling(task), 1)
        if snapshot is None:
            curve += numbers(pool.start(1, rates, 5, momenta))
        else:
            pool.restore(1, snapshot)
        curve += numbers(pool.advance()[1])
        save(tmp_path / "c", {"0": pool.snapshot(0), "1": pool.snapshot(1)}, {"0": {}, "1": {}})
        kept = load(tmp_path / "c")
        assert kept["0"][0].momenta is None
        snapshot = kept["1"][0]
        np.testing.assert_array_equal(snapshot.momenta, momenta)
    same(alone(task, rates, 5, momenta), curve)


@pytest.mark.parametrize("optimizer", ["nesterov", "adamw", "rmsprop"])
def test_a_compiled_program_has_it(optimizer, fifty, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    task = replace(fifty, optimizer=optimizer, epochs=8 * BATCH / 240)
    schedule = cycle(task)
    rates, momenta = schedule.rates(task.horizon), schedule.momenta(task.horizon)
    pool = FusedPool(task, 2, compiled=True)
    same(alone(task, rates, 5, momenta), crowded(pool, 1, rates, 5, momenta))
    assert width(pool) == 2


@pytest.mark.parametrize("make", [SerialPool, FusedPool])
def test_what_cannot_be_cycled_is_refused(make, fifty):
    rates = falling(fifty)
    with pytest.raises(ValueError, match=r"momenta has shape \(49,\), expected \(50,\)"):
        make(fifty, 2).start(0, rates, 0, rates[1:])
    task = replace(fifty, optimizer="adagrad")
    with pytest.raises(InputError, match="optimizer adagrad has no momentum to cycle: take one of"):
        make(task, 2).start(0, rates, 0, rates)
