"""The probe: what cannot run with many weights at once is found, and the user told why."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from lrtune.engine import FusedPool
from lrtune.engine.device_task import DeviceTask
from lrtune.engine.optimizers import Unfit
from lrtune.engine.vmap_check import vmap_check
from tests.engine.models import Counts, Plain


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


@pytest.mark.parametrize(
    ("model", "message"), UNFIT.items(), ids=lambda v: getattr(v, "__name__", str(v))[:60]
)
@pytest.mark.parametrize("attempt", [1, 2])
def test_unfit_and_why(model, message, attempt, six):
    """A second time too: some warnings come once."""
    task = replace(six, model=lambda: model().double())
    with pytest.raises(Unfit, match=message) as why:
        vmap_check(DeviceTask(task, 2, "cpu"))
    assert "\n" not in str(why.value) and len(str(why.value)) < 250


def test_what_remembers_is_unfit(six):
    with pytest.raises(Unfit):
        vmap_check(DeviceTask(replace(six, model=lambda: Remembers().double()), 2, "cpu"))


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
def test_unfit_tasks(change, message, six):
    with pytest.raises(Unfit, match=message):
        FusedPool(change(six), 2)
