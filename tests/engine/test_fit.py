"""What the probe lets through is trained as it is serially."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lrtune.engine import FusedPool, SerialPool
from lrtune.engine.device_task import DeviceTask
from lrtune.engine.vmap_check import vmap_check
from lrtune.errors import InputError
from lrtune.tasks import Split
from tests.engine.models import Counts, Plain


class Unreached(Plain):
    """A layer that the loss does not reach, another that is frozen, a buffer of indices."""

    def __init__(self):
        super().__init__()
        self.idle = nn.Linear(3, 3)
        self.frozen = nn.Linear(10, 10).requires_grad_(False)
        self.register_buffer("index", torch.arange(64).flip(0))
        self.register_buffer("mask", torch.ones(64, dtype=torch.bool), persistent=False)

    def forward(self, x):
        return self.frozen(self.layer(x.flatten(1)[:, self.index] * self.mask))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 10, bias=False), nn.Linear(64, 10)
        self.last.weight = self.first.weight

    def forward(self, x):
        return self.first(x.flatten(1)) + self.last(x.flatten(1).flip(1))


class InPlaceCount(Counts):
    def forward(self, x):
        self.count += 1
        return Plain.forward(self, x) / self.count


class Caches(Plain):
    """What it keeps of a batch is for people to look at."""

    def forward(self, x):
        self.seen = super().forward(x)
        return self.seen


def hooked():
    model = Plain()
    model.layer.register_forward_hook(lambda module, inputs, outputs: outputs * 2)
    model.layer.weight.register_hook(lambda gradient: gradient)
    return model


def table():
    return nn.Sequential(
        nn.Flatten(),
        ToLong(),
        nn.Embedding(200, 10, padding_idx=0),
        nn.Flatten(),
        nn.Linear(640, 10),
    )


class ToLong(nn.Module):
    def forward(self, x):
        return x.abs().long()


FIT = {
    "no buffers": Plain,
    "unreached": Unreached,
    "tied": Tied,
    "in place": InPlaceCount,
    "caches": Caches,
    "hooks": hooked,
    "embedding": table,
    "inactive dropout": lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.0), nn.Linear(64, 10)),
}


def curves(pool):
    rates = np.linspace(0.01, 0.001, 6)
    found = []
    for slot in range(2):
        told = pool.start(slot, rates, slot)
        found.append([told.loss])
    for _ in range(2):
        for told in pool.advance():
            found[told.slot] += [told.loss, *told.losses]
    return found


@pytest.mark.parametrize("ema", [None, 0.5])
@pytest.mark.parametrize("model", FIT.values(), ids=FIT)
def test_fit(model, ema, six):
    task = replace(six, model=lambda: model().double(), ema=ema)
    serial, fused = SerialPool(task, 2), FusedPool(task, 2)
    np.testing.assert_allclose(curves(fused), curves(serial), rtol=1e-9)
    ours, theirs = fused.snapshot(1).tensors, serial.snapshot(1).tensors
    assert {n for n in ours if n.startswith("w")} == {n for n in theirs if n.startswith("w")}
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], check_dtype=False, rtol=1e-9, atol=1e-12)


def test_what_the_loss_does_not_reach_stays_as_it_was(six):
    pool = FusedPool(replace(six, model=lambda: Unreached().double()), 1)
    pool.start(0, np.full(6, 0.1), 0)
    before = pool.snapshot(0).tensors
    pool.advance()
    after = pool.snapshot(0).tensors
    for name in ("idle.weight", "frozen.weight", "frozen.bias", "index"):
        assert torch.equal(before[f"weights/{name}"], after[f"weights/{name}"])
    assert not torch.equal(before["weights/layer.weight"], after["weights/layer.weight"])


class DrawingPrepare(nn.Module):
    """Noise in training alone."""

    def forward(self, x):
        x = x.double() / 16
        return x + 0.1 * torch.randn_like(x) if self.training else x


def test_a_prepare_that_draws_does_so_for_each_trial(six):
    task = replace(six, prepare=DrawingPrepare())
    assert vmap_check(DeviceTask(task, 2, "cpu"))[1]
    assert not vmap_check(DeviceTask(six, 2, "cpu"))[1]
    np.testing.assert_allclose(curves(FusedPool(task, 2)), curves(SerialPool(task, 2)), rtol=1e-9)


def test_bfloat16_models_are_probed_in_full_precision(six, digits):
    task = replace(six, model=Plain, prepare=deepcopy(digits.prepare).float(), precision="bfloat16")
    np.testing.assert_allclose(curves(FusedPool(task, 2)), curves(SerialPool(task, 2)), rtol=0.02)


def test_the_data_s_own_errors_are_no_misfit(six):
    broken = Split(six.train.inputs, six.train.targets)
    setup = DeviceTask(replace(six, train=broken), 2, "cpu")

    def updates(*_):
        raise InputError("the data has changed")

    setup.train.updates = updates
    with pytest.raises(InputError, match="the data has changed"):
        vmap_check(setup)


def test_nothing_is_left_changed(six):
    setup = DeviceTask(six, 2, "cpu")
    settings = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    before = torch.get_rng_state()
    vmap_check(setup)
    assert torch.equal(before, torch.get_rng_state())
    assert settings == (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
    assert not setup.prepare.training
