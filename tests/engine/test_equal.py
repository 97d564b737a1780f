"""Fused is serial is plain PyTorch: every optimizer, setting and form of data."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from lrtune.engine import OPTIMIZERS, FusedPool
from lrtune.tasks import Metric, Split
from lrtune.tasks.metrics import CrossEntropy
from lrtune.tasks.models import model_maker, transformer
from tests.engine.models import TwoHeads
from tests.engine.trials import BATCH, alone, cnn, crowded, falling, plainly, same, train, width


def reader(monkeypatch):
    """A transformer of one layer, made small enough to be quick."""
    for name, value in (("LAYERS", 1), ("WIDTH", 16), ("HEADS", 2)):
        monkeypatch.setattr(f"lrtune.tasks.models.{name}", value)
    return lambda: transformer((8,), 17)


def texts(task, make):
    """Rows of pixels as characters, each to tell the next."""

    def part(split):
        rows = split.inputs.flatten(1)
        return Split(rows[:, 20:28].clone(), rows[:, 21:29].clone())

    return replace(
        task,
        train=part(task.train),
        val=part(task.val),
        prepare=nn.Identity(),
        model=lambda: make().double(),
        loss=CrossEntropy(),
        metrics=(Metric("cross_entropy", CrossEntropy(), "minimize"),),
        classes=None,
    )


def three_channels(task, batch):
    def part(split):
        return Split(split.inputs.double().expand(-1, 3, -1, -1) / 16, split.targets)

    make = model_maker("resnet18", (3, 8, 8), 10)
    return replace(
        task,
        train=part(task.train),
        val=part(task.val).part(0, 8),
        prepare=nn.Identity(),
        model=lambda: make().double(),
        batch_size=batch,
    )


def in_parts(model):
    """Several settings, and parameters that are in no group."""
    first, *_, last = [m for m in model.modules() if list(m.parameters(recurse=False))]
    return [
        {"params": list(first.parameters()), "lr_ratio": 0.3},
        {"params": list(last.parameters())[:1], "weight_decay": 0.1, "lr_ratio": 2},
    ]


def decays(model):
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0, "lr_ratio": 0.5},
    ]


VARIANTS = {
    "clipping": {"clip_norm": 0.5},
    "average": {"ema": 0.3},
    "smoothing": {"loss": CrossEntropy(0.1)},
    "weights of classes": {"loss": CrossEntropy(0.0, torch.linspace(0.5, 2, 10).double())},
    "flip": {"augment": ("flip",)},
    "mixup": {"augment": ("crop", "mixup")},
    "some parameters": {"groups": in_parts},
    "momentum of none": {"settings": {"momentum": 0.0}},
    "L2": {"settings": {"weight_decay": 0.1}},
    "all": {
        "clip_norm": 0.5,
        "ema": 0.3,
        "loss": CrossEntropy(0.1, torch.linspace(0.5, 2, 10).double()),
        "augment": ("flip", "crop", "cutout", "mixup"),
        "groups": decays,
        "optimizer": "adamw",
        "settings": {"amsgrad": True},
    },
    **{f"groups of {name}": {"groups": decays, "optimizer": name} for name in OPTIMIZERS},
    "nesterov with L2": {"optimizer": "nesterov", "settings": {"weight_decay": 0.1}},
    "amsgrad": {"optimizer": "adam", "settings": {"amsgrad": True, "weight_decay": 0.1}},
    "betas": {"optimizer": "adamw", "settings": {"betas": (0.8, 0.9), "eps": 1e-3}},
    "centered": {
        "optimizer": "rmsprop",
        "settings": {"centered": True, "momentum": 0.9, "weight_decay": 0.1},
    },
    "rate that falls": {
        "optimizer": "adagrad",
        "settings": {"lr_decay": 0.1, "initial_accumulator_value": 0.2, "weight_decay": 0.1},
    },
}


def three_ways(task, slots=3, slot=1, seed=5):
    rates = falling(task)
    torch.manual_seed(0)
    pool = FusedPool(task, slots)
    same(
        plainly(task, rates, seed),
        alone(task, rates, seed),
        crowded(pool, slot, rates, seed),
    )
    assert width(pool) == slots


@pytest.mark.parametrize("model", ["mlp", "cnn", "transformer"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_fused_is_serial_is_plain_pytorch(optimizer, model, fifty, monkeypatch):
    task = replace(fifty, optimizer=optimizer)
    if model == "transformer":
        task = replace(texts(task, reader(monkeypatch)), batch_size=8, epochs=50 * 8 / 240)
    elif model == "cnn":
        task = replace(task, model=lambda: cnn().double())
    three_ways(task, slots=2)


@pytest.mark.parametrize("updates", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_resnet18(fifty, updates):
    task = three_channels(fifty, batch=8)
    task = replace(task, epochs=updates * 8 / 240, validations=1, clip_norm=5.0, ema=0.5)
    rates = falling(task) / 10
    pool = FusedPool(task, 2)
    pool.admit(0, rates, 3)
    same(plainly(task, rates, 5), train(pool, 1, rates, 5))


@pytest.mark.parametrize("change", VARIANTS.values(), ids=VARIANTS)
def test_every_setting(change, fifty):
    task = replace(fifty, model=lambda: cnn().double(), epochs=14 * BATCH / 240)
    three_ways(replace(task, **change), slots=2)


class Pairs(Dataset):
    def __init__(self, split):
        self.split = split

    def __len__(self):
        return self.split.samples

    def __getitem__(self, row):
        return self.split.inputs[row], self.split.targets[row]


@pytest.mark.parametrize("augmentation", [(), ("flip",)])
def test_streamed_data(augmentation, fifty, monkeypatch):
    monkeypatch.setattr("lrtune.engine.feed.worker_count", lambda batch_bytes: 0)
    task = replace(fifty, augment=augmentation)
    streamed = replace(task, train=Pairs(fifty.train), val=Pairs(fifty.val), memory=1000)
    rates = falling(task)
    pool = FusedPool(streamed, 3)
    same(alone(task, rates, 5), crowded(pool, 1, rates, 5))
    for slot in range(3):
        pool.release(slot)
    assert not pool.setup.train._live


def test_trees(fifty):
    def part(split):
        images = split.inputs.double() / 16
        ink = images.mean((1, 2, 3))
        return Split({"pixels": images, "unused": ink}, {"digit": split.targets, "ink": [ink]})

    def loss(outputs, targets):
        error = F.mse_loss(outputs["ink"][0], targets["ink"][0])
        return F.cross_entropy(outputs["digit"], targets["digit"]) + error

    task = replace(
        fifty,
        train=part(fifty.train),
        val=part(fifty.val),
        prepare=nn.Identity(),
        model=lambda: TwoHeads().double(),
        loss=loss,
        metrics=(
            Metric("split", loss, "minimize"),
            Metric("batch", loss, "minimize", over="batch"),
        ),
        classes=None,
    )
    three_ways(task)
