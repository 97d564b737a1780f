"""Clipping, parameter groups, precision, metrics, trees: each against plain PyTorch."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lrtune.engine import SerialPool
from lrtune.engine.optimizers import make_optimizer
from lrtune.engine.rng import INITIAL_WEIGHTS, derive
from lrtune.errors import InputError
from lrtune.tasks import Metric, Split, check_model
from lrtune.tasks.metrics import CROSS_ENTROPY
from tests.engine.models import TwoHeads
from tests.engine.trials import net, states


def test_long_gradients_are_shortened(small):
    """One update of plain SGD moves the weights by rate times the clipped norm."""
    task = replace(small, settings={"momentum": 0.0}, groups=None, validations=6, clip_norm=1e-3)
    weights, _ = states(task, np.full(6, 0.5))
    trained = [name for name, _ in net().named_parameters()]
    for before, after in pairwise(weights):
        moved = torch.cat([(after[n] - before[n]).flatten() for n in trained]).norm()
        assert moved == pytest.approx(0.5 * 1e-3, rel=1e-3)


def test_short_gradients_are_left_alone(small):
    plain, _ = states(small, np.full(6, 0.1))
    clipped, _ = states(replace(small, clip_norm=1e6), np.full(6, 0.1))
    for name, tensor in plain[-1].items():
        torch.testing.assert_close(clipped[-1][name], tensor)


class ModeSeen(nn.Module):
    """Scales by what it is told the mode is."""

    def forward(self, inputs):
        return inputs.float() * (1.0 if self.training else 0.0)


def test_prepare_is_in_training_mode_for_updates_alone(small):
    task = replace(small, prepare=ModeSeen(), model=lambda: nn.Sequential(nn.Flatten(), zero()))
    _, told = states(task, np.full(6, 1e-3))
    assert told[0].loss == pytest.approx(np.log(10))
    assert told[-1].losses[-1] < told[-1].loss  # training sees the pixels, validation does not


def zero():
    layer = nn.Linear(64, 10)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def test_groups_have_their_own_rate_and_settings(small):
    def groups(model):
        _, first, norm, last = model
        return [
            {"params": first.parameters(), "lr_ratio": 0.5},
            {"params": norm.parameters(), "weight_decay": 0.25},
            {"params": last.parameters(), "lr_ratio": 0.0},
        ]

    task = replace(small, groups=groups, settings={"momentum": 0.0})
    weights, _ = states(replace(task, validations=6), np.full(6, 0.1))
    first, whole = (
        states(replace(task, groups=g, validations=6), np.full(6, 0.1))[0][0]["1.weight"]
        for g in (groups, None)
    )
    torch.manual_seed(derive(3, INITIAL_WEIGHTS))
    start = net()[1].weight
    torch.testing.assert_close(first - start, 0.5 * (whole - start))
    assert torch.equal(weights[0]["3.weight"], weights[-1]["3.weight"])
    assert not torch.equal(weights[0]["1.weight"], weights[-1]["1.weight"])
    optimizer = make_optimizer(task, net())
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0, 0.25, 0]


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"lr": 0.1}, "lr is the schedule's: give lr_ratio"),
        ({"lr_ratio": float("nan")}, "lr_ratio=nan: a finite number from 0"),
        ({"lr_ratio": "2"}, "lr_ratio='2': a finite number from 0"),
        ({"params": 3}, "digits: groups: TypeError: "),
        ({"weigth_decay": 0.1}, "has no 'weigth_decay'; did you mean 'weight_decay'"),
    ],
)
def test_groups_that_cannot_be(group, message, small):
    task = replace(small, groups=lambda model: [{"params": model.parameters(), **group}])
    with pytest.raises(InputError, match=message):
        make_optimizer(task, net())


def test_bfloat16_is_near_float32(small):
    exact, rounded = (
        states(replace(small, precision=name), np.full(6, 0.1))[1][-1].loss
        for name in ("float32", "bfloat16")
    )
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.05)


def test_metrics_over_batches_and_over_the_split_agree(digits, monkeypatch):
    monkeypatch.setattr(
        "lrtune.engine.device_task.EVALUATION_BATCH", 50
    )  # 288 samples: a short last one
    whole = Metric("whole", CROSS_ENTROPY.function, "minimize", over="split")
    task = replace(digits, metrics=(CROSS_ENTROPY, whole))
    told = SerialPool(task).start(0, np.zeros(task.horizon), seed=0)
    assert told.metrics["whole"] == pytest.approx(told.metrics["cross_entropy"], rel=1e-6)
    assert told.loss == pytest.approx(told.metrics["whole"], rel=1e-6)


def test_inputs_outputs_and_targets_may_be_trees(digits):
    def part(split):
        images = split.inputs.float() / 16
        ink = images.mean((1, 2, 3))
        return Split({"pixels": images, "unused": ink}, {"digit": split.targets, "ink": ink})

    def loss(outputs, targets):
        return F.cross_entropy(outputs["digit"], targets["digit"]) + F.mse_loss(
            outputs["ink"][0], targets["ink"]
        )

    def worst(outputs, targets):
        return (outputs["ink"][0] - targets["ink"]).abs().max()

    task = replace(
        digits,
        **{name: part(getattr(digits, name)) for name in ("train", "val", "test")},
        prepare=nn.Identity(),
        model=TwoHeads,
        loss=loss,
        metrics=(
            Metric("worst", worst, "minimize"),
            Metric("total", loss, "minimize", over="batch"),
        ),
        classes=None,
        epochs=1,
        validations=2,
    )
    assert check_model(task) == 65 * 11
    _, told = states(task, np.full(task.horizon, 1e-2))
    assert told[-1].metrics["total"] < told[0].metrics["total"]
    assert told[-1].loss == pytest.approx(told[-1].metrics["total"])
