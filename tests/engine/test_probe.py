"""The probe: what cannot run with many weights at once is found, and the user told why."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from lrtune.engine import FusedPool, SerialPool
from lrtune.engine.probe import probe
from lrtune.engine.rows import Unfit
from lrtune.engine.setup import Setup
from lrtune.errors import InputError
from lrtune.tasks import Split


@pytest.fixture(scope="module")
def base(digits):
    """Float64, six updates in two segments of a linear model with weight decay."""
    return replace(
        digits,
        model=lambda: Plain().double(),
        prepare=deepcopy(digits.prepare).double(),
        val=digits.val.part(0, 60),
        optimizer="adamw",
        settings={"weight_decay": 0.1},
        groups=None,
        epochs=6 * 32 / 1149,
        validations=2,
    )


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.layer(x.flatten(1))


class Item(Plain):
    def forward(self, x):
        return super().forward(x) * self.layer.weight.sum().item()


class Branch(Plain):
    def forward(self, x):
        outputs = super().forward(x)
        if outputs.sum() > 0:
            outputs = outputs * 2
        return outputs


class Mask(Plain):
    def forward(self, x):
        outputs = super().forward(x)
        return outputs + outputs[outputs > 0].sum()


class Counts(Plain):
    """A count that is assigned anew."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.count = self.count + 1
        return super().forward(x)


class RunningMean(Plain):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(10))

    def forward(self, x):
        outputs = super().forward(x)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * outputs.detach().mean(0)
        return outputs - self.mean


class Late(Plain):
    """A buffer that is not there at first."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", None)

    def forward(self, x):
        if self.scale is None:
            self.scale = x.detach().std()
        return super().forward(x) / self.scale


class InEvaluation(Plain):
    """Reassigns in evaluation alone, where it counts too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if not self.training:
            self.seen = self.seen + 1
        return super().forward(x)


class Steps(Plain):
    """A number of Python's own that grows."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Module()
        self.inner.steps = 0

    def forward(self, x):
        self.inner.steps += 1
        return super().forward(x) / min(self.inner.steps, 100)


class Remembers(Plain):
    """Its last outputs have a say in the next ones."""

    last = 0.0

    def forward(self, x):
        outputs = super().forward(x)
        outputs, self.last = outputs + self.last, outputs.detach()
        return outputs


class Clamps(Plain):
    def forward(self, x):
        self.layer.weight.data.clamp_(-0.01, 0.01)
        return super().forward(x)


class InPlace(Plain):
    def forward(self, x):
        return super().forward(x.mul_(2))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 10, batch_first=True)

    def forward(self, x):
        return self.lstm(x.flatten(1).view(-1, 8, 8))[0][:, -1]


class Gru(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(8, 10, batch_first=True)

    def forward(self, x):
        return self.gru(x.flatten(1).view(-1, 8, 8))[0][:, -1]


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(200, 10, sparse=True)

    def forward(self, x):
        return self.table(x.flatten(1).long().abs()).mean(1)


class HalfDouble(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 16), nn.Linear(16, 10).double()

    def forward(self, x):
        return self.last(self.first(x.flatten(1).float()).double())

    def double(self):
        return self


class Noisy(Plain):
    def forward(self, x):
        return F.dropout(super().forward(x), 0.3, training=not self.training)


class Raises(Plain):
    def forward(self, x):
        raise LookupError("no\nway")


def with_dropout():
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 10))


def normed(how):
    return lambda: nn.Sequential(nn.Flatten(), how(nn.Linear(64, 10)))


UNFIT = {
    Item: r"a number is read off a tensor: .* \(line \d+ of test_probe.py: .*\.item\(\)\)",
    Branch: r"a number is read off a tensor: .* by an if on .*test_probe.py: if outputs.sum\(\) >",
    Mask: r"the shape of a tensor depends on its values, .* boolean mask .*outputs\[outputs > 0\]",
    Counts: "its forward puts a new tensor in place of its buffer count$",
    RunningMean: "its forward puts a new tensor in place of its buffer mean$",
    Late: "its forward puts a new tensor in place of its buffer scale$",
    InEvaluation: "its buffer seen comes out otherwise when several trials run together$",
    Steps: "its forward changes inner.steps, which all trials would share",
    Clamps: "its forward changes its parameter layer.weight$",
    InPlace: "its forward changes its input in place",
    Recurrent: r"torch's \w*(rnn|lstm)\w* takes no weights of several models at once",
    Gru: "torch's gru takes no weights of several models at once",
    with_dropout: "its Dropout draws random numbers, each trial its own$",
    Noisy: r"random numbers are drawn \(line \d+ of test_probe.py: return F.dropout",
    normed(parametrizations.weight_norm): r"torch's _weight_norm_interface takes no weights",
    normed(parametrizations.spectral_norm): r"torch's \w+ takes no weights of several models",
    normed(nn.utils.spectral_norm): r"torch's \w+ takes no weights of several models",
    Sparse: "the gradient of table.weight is sparse$",
    HalfDouble: "parameters are of several types: float32, float64$",
    Raises: r"LookupError: no way \(line \d+ of test_probe.py: raise LookupError",
}


@pytest.mark.parametrize(("model", "message"), UNFIT.items(), ids=lambda v: str(v)[:60])
@pytest.mark.parametrize("attempt", [1, 2])
def test_unfit_and_why(model, message, attempt, base):
    """A second time too: some warnings come once."""
    task = replace(base, model=lambda: model().double())
    with pytest.raises(Unfit, match=message) as why:
        probe(Setup(task, 2, "cpu"))
    assert "\n" not in str(why.value) and len(str(why.value)) < 250


def test_what_remembers_is_unfit(base):
    with pytest.raises(Unfit):
        probe(Setup(replace(base, model=lambda: Remembers().double()), 2, "cpu"))


def half(task):
    return replace(task, model=lambda: Plain().bfloat16(), prepare=ToBfloat16())


class ToBfloat16(nn.Module):
    def forward(self, x):
        return x.bfloat16()


def noisy_loss(outputs, targets):
    return F.cross_entropy(F.dropout(outputs, 0.1), targets)


def strangers(model):
    return [{"params": [*model.parameters(), nn.Parameter(torch.zeros(1))]}]


def a_few(model):
    return [{"params": [model.layer.bias]}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (half, "its parameters are bfloat16: only float32 and float64 can be"),
        (lambda t: replace(t, loss=noisy_loss), "the loss draws random numbers"),
        (
            lambda t: replace(t, groups=strangers),
            "group 0 of groups holds what is no parameter of the model",
        ),
        (
            lambda t: replace(t, groups=a_few, clip_norm=1.0),
            "the clipped norm is of all gradients, but layer.weight is in none of the groups",
        ),
        (
            lambda t: replace(t, optimizer="sgd", settings={"dampening": 0.1, "momentum": 0.9}),
            "with dampening, SGD's first update",
        ),
    ],
)
def test_unfit_tasks(change, message, base):
    with pytest.raises(Unfit, match=message):
        FusedPool(change(base), 2)


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
        told = pool.admit(slot, rates, slot)
        found.append([told.loss])
    for _ in range(2):
        for told in pool.advance():
            found[told.slot] += [told.loss, *told.losses]
    return found


@pytest.mark.parametrize("ema", [None, 0.5])
@pytest.mark.parametrize("model", FIT.values(), ids=FIT)
def test_fit(model, ema, base):
    task = replace(base, model=lambda: model().double(), ema=ema)
    serial, fused = SerialPool(task, 2), FusedPool(task, 2)
    np.testing.assert_allclose(curves(fused), curves(serial), rtol=1e-9)
    ours, theirs = fused.snapshot(1).tensors, serial.snapshot(1).tensors
    assert {n for n in ours if n.startswith("w")} == {n for n in theirs if n.startswith("w")}
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], check_dtype=False, rtol=1e-9, atol=1e-12)


def test_what_the_loss_does_not_reach_stays_as_it_was(base):
    pool = FusedPool(replace(base, model=lambda: Unreached().double()), 1)
    pool.admit(0, np.full(6, 0.1), 0)
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


def test_a_prepare_that_draws_does_so_for_each_trial(base):
    task = replace(base, prepare=DrawingPrepare())
    assert probe(Setup(task, 2, "cpu")).draws
    assert not probe(Setup(base, 2, "cpu")).draws
    np.testing.assert_allclose(curves(FusedPool(task, 2)), curves(SerialPool(task, 2)), rtol=1e-9)


def test_bfloat16_models_are_probed_in_full_precision(base, digits):
    task = replace(
        base, model=Plain, prepare=deepcopy(digits.prepare).float(), precision="bfloat16"
    )
    np.testing.assert_allclose(curves(FusedPool(task, 2)), curves(SerialPool(task, 2)), rtol=0.02)


def test_the_data_s_own_errors_are_no_misfit(base):
    broken = Split(base.train.inputs, base.train.targets)
    setup = Setup(replace(base, train=broken), 2, "cpu")

    def updates(*_):
        raise InputError("the data has changed")

    setup.train.updates = updates
    with pytest.raises(InputError, match="the data has changed"):
        probe(setup)


def test_nothing_is_left_changed(base):
    setup = Setup(base, 2, "cpu")
    settings = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    before = torch.get_rng_state()
    probe(setup)
    assert torch.equal(before, torch.get_rng_state())
    assert settings == (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
    assert not setup.prepare.training
