"""OPTIMIZERS: every row trains, gets its settings, and refuses what torch refuses."""

from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from lrtune.engine import OPTIMIZERS, SerialPool
from lrtune.engine.optimizers import make_optimizer, settings_of
from lrtune.errors import InputError

RATES = {"sgd": 0.05, "nesterov": 0.05, "adagrad": 0.01}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_row_trains(name, digits):
    task = replace(digits, optimizer=name, epochs=2, validations=1)
    pool = SerialPool(task)
    before = pool.admit(0, np.full(task.horizon, RATES.get(name, 2e-3)), seed=0)
    (after,) = pool.advance()
    assert after.loss < before.loss / 3
    assert after.metrics["accuracy"] > 0.8


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_settings_are_the_rows_and_the_given(name, digits):
    task = replace(digits, optimizer=name, settings={"weight_decay": 0.125}, groups=None)
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    (group,) = make_optimizer(task, model).param_groups
    expected = {**OPTIMIZERS[name].settings, "weight_decay": 0.125}
    assert {setting: group[setting] for setting in expected} == expected
    full = settings_of(name, {"weight_decay": 0.125})
    assert expected.items() <= full.items()
    assert {setting: group[setting] for setting in full} == full  # torch's defaults too
    assert group["params"] == [model.weight]  # a frozen parameter is not the optimizer's


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("adamm", {}, "optimizer 'adamm': one of sgd, .*; did you mean 'adam"),
        ("sgd", {"lr": 0.1}, "optimizer sgd: lr is the schedule's: see peak_lr"),
        ("sgd", {"momentun": 0.9}, "optimizer sgd has no 'momentun'; did you mean 'momentum'"),
        ("sgd", {"betas": (0.9, 0.99)}, "optimizer sgd has no 'betas'"),
        ("adam", {"fused": False}, "optimizer adam has no 'fused'"),
        ("sgd", {"params": []}, "optimizer sgd has no 'params'"),
        ("sgd", {"momentum": -1}, "optimizer sgd: .*momentum.* -1"),
        ("nesterov", {"momentum": 0}, "optimizer nesterov: Nesterov momentum requires"),
        ("adam", {"betas": (0.9, 2)}, "optimizer adam: .*beta.* 2"),
        (
            "adam",
            {"betas": (0.9,)},
            r"optimizer adam: betas=\(0\.9,\): expected the like of \(0\.9, 0\.999\)",
        ),
        ("adamw", {"weight_decay": "much"}, "weight_decay='much': expected the like of 0"),
        ("rmsprop", {"alpha": -1}, "optimizer rmsprop: .*alpha.* -1"),
        ("adagrad", {"lr_decay": -1}, "optimizer adagrad: .*lr_decay.* -1"),
        ("sgd", {"nesterov": 1}, "optimizer sgd: nesterov=1: expected the like of False"),
        ("sgd", {"momentum": float("nan")}, "momentum=nan: expected the like of 0"),
        ("sgd", {"foreach": True}, "optimizer sgd has no 'foreach'"),
        ("adam", {"maximize": True}, "optimizer adam has no 'maximize'"),
    ],
)
def test_refused(name, settings, message):
    with pytest.raises(InputError, match=message):
        settings_of(name, settings)
