"""vmap_check: what cannot run with many weights at once is found; the rest trains as serially."""

import re
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from lrtune.engine import FusedPool, SerialPool
from lrtune.engine.device_task import DeviceTask
from lrtune.engine.stacked import StackedState, vmap_check
from lrtune.engine.stacked_optimizers import StackedOptimizer, Unfit
from lrtune.errors import InputError
from tests.engine.trials import DEVICE, Counts, Plain, all_curves, decays, mlp


class By(Plain):
    """Outputs made by a function; tensors that it holds are buffers."""

    def __init__(self, how, **held):
        super().__init__()
        self.how = how
        for name, value in held.items():
            if isinstance(value, torch.Tensor | None):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, x):
        return self.how(self, self.layer(x.flatten(1)))


def running_mean(model, outputs):
    if model.training:
        model.mean = 0.9 * model.mean + 0.1 * outputs.detach().mean(0)
    return outputs - model.mean


def late(model, outputs):
    if model.scale is None:
        model.scale = outputs.detach().std()
    return outputs / model.scale


def in_evaluation(model, outputs):
    if not model.training:
        model.seen = model.seen + 1
    return outputs


def steps(model, outputs):
    model.steps += 1
    return outputs / min(model.steps, 100)


def remembers(model, outputs):
    outputs, model.last = outputs + model.last, outputs.detach()
    return outputs


def branches(model, outputs):
    if outputs.sum() > 0:
        outputs = outputs * 2
    return outputs


def clamps(model, outputs):
    model.layer.weight.data.clamp_(-0.01, 0.01)
    return outputs


def raises(model, outputs):
    raise LookupError("no\nway")


class InPlace(Plain):
    def forward(self, x):
        return super().forward(x.mul_(2))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.inner = kind(8, 10, batch_first=True)

    def forward(self, x):
        return self.inner(x.flatten(1).view(-1, 8, 8))[0][:, -1]


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


def normed(how):
    return nn.Sequential(nn.Flatten(), how(nn.Linear(64, 10)))


ZERO = torch.zeros(())
HERE = r"\(line \d+ of test_stacked.py: "
SEVERAL = "takes no weights of several models at once"
UNFIT = {
    "item": (
        lambda: By(lambda model, outputs: outputs * model.layer.weight.sum().item()),
        rf"a number is read off a tensor: .* {HERE}.*\.item\(\)",
    ),
    "branch": (lambda: By(branches), rf"off a tensor: .* by an if on .*{HERE}if outputs.sum\(\) >"),
    "mask": (
        lambda: By(lambda model, outputs: outputs + outputs[outputs > 0].sum()),
        r"the shape of a tensor depends on its values, .* boolean mask .*outputs\[outputs > 0\]",
    ),
    "count": (Counts, "its forward puts a new tensor in place of its buffer count$"),
    "mean": (
        lambda: By(running_mean, mean=torch.zeros(10)),
        "its forward puts a new tensor in place of its buffer mean$",
    ),
    "late": (lambda: By(late, scale=None), "puts a new tensor in place of its buffer scale$"),
    "in evaluation": (
        lambda: By(in_evaluation, seen=ZERO.clone()),
        "its buffer seen comes out otherwise when several trials run together$",
    ),
    "steps": (lambda: By(steps, steps=0), "changes steps, which all trials would share"),
    "remembers": (lambda: By(remembers, last=0.0), ""),
    "clamps": (lambda: By(clamps), "its forward changes its parameter layer.weight$"),
    "in place": (InPlace, "its forward changes its input in place"),
    "lstm": (lambda: Recurrent(nn.LSTM), rf"torch's \w*(rnn|lstm)\w* {SEVERAL}"),
    "gru": (lambda: Recurrent(nn.GRU), f"torch's gru {SEVERAL}"),
    "dropout": (
        lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 10)),
        r"its forward or the loss draws random numbers \(dropout, say\)",
    ),
    "noisy in evaluation": (
        lambda: By(lambda model, outputs: F.dropout(outputs, 0.3, training=not model.training)),
        "its forward draws random numbers in evaluation$",
    ),
    "weight norm": (
        lambda: normed(parametrizations.weight_norm),
        rf"torch's _weight_norm_interface {SEVERAL}",
    ),
    "spectral": (lambda: normed(parametrizations.spectral_norm), rf"torch's \w+ {SEVERAL}"),
    "old spectral": (lambda: normed(nn.utils.spectral_norm), rf"torch's \w+ {SEVERAL}"),
    "sparse": (Sparse, "the gradient of table.weight is sparse$"),
    "half double": (HalfDouble, "parameters are of several types: float32, float64$"),
    "raises": (lambda: By(raises), rf"LookupError: no way {HERE}raise LookupError"),
}


@pytest.mark.parametrize(("model", "message"), UNFIT.values(), ids=UNFIT)
def test_unfit_and_why(model, message, six):
    task = replace(six, model=lambda: model().double())
    for _ in range(2):  # a second time too: some warnings come once
        with pytest.raises(Unfit) as why:
            vmap_check(DeviceTask(task, 2, DEVICE))
        assert re.search(message, str(why.value))
        assert "\n" not in str(why.value) and len(str(why.value)) < 250


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
        (
            {"model": lambda: Plain().bfloat16(), "prepare": ToBfloat16()},
            "its parameters are bfloat16: only float32 and float64 can be",
        ),
        ({"loss": noisy_loss}, "or the loss draws random numbers"),
        ({"groups": strangers}, "group 0 of groups holds what is no parameter of the model"),
        (
            {"groups": a_few, "clip_norm": 1.0},
            "the clipped norm is of all gradients, but layer.weight is in none of the groups",
        ),
        (
            {"optimizer": "sgd", "settings": {"dampening": 0.1, "momentum": 0.9}},
            "with dampening, SGD's first update",
        ),
    ],
)
def test_unfit_tasks(change, message, six):
    with pytest.raises(Unfit, match=message):
        FusedPool(replace(six, **change), 2)


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


def counts_in_place(model, outputs):
    model.count += 1
    return outputs / model.count


def caches(model, outputs):
    """What it keeps of a batch is for people to look at."""
    model.seen = outputs
    return outputs


def hooked():
    model = Plain()
    model.layer.register_forward_hook(lambda module, inputs, outputs: outputs * 2)
    model.layer.weight.register_hook(lambda gradient: gradient)
    return model


class ToLong(nn.Module):
    def forward(self, x):
        return x.flatten(1).abs().long()


FIT = {
    "no buffers": Plain,
    "unreached": Unreached,
    "tied": Tied,
    "in place": lambda: By(counts_in_place, count=ZERO.long()),
    "caches": lambda: By(caches),
    "hooks": hooked,
    "embedding": lambda: nn.Sequential(
        ToLong(), nn.Embedding(200, 10, padding_idx=0), nn.Flatten(), nn.Linear(640, 10)
    ),
    "attention": lambda: nn.Sequential(
        nn.Flatten(2),
        nn.Linear(64, 8),
        nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        nn.Flatten(),
        nn.Linear(8, 10),
    ),
    "inactive": lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.0), nn.Linear(64, 10)),
}
RATES = np.linspace(0.01, 0.001, 6)


@pytest.mark.parametrize("ema", [None, 0.5])
@pytest.mark.parametrize("model", FIT.values(), ids=FIT)
def test_fit(model, ema, six):
    task = replace(six, model=lambda: model().double(), ema=ema)
    serial, fused = SerialPool(task, 2), FusedPool(task, 2)
    np.testing.assert_allclose(all_curves(fused, RATES), all_curves(serial, RATES), rtol=1e-9)
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
    fused, serial = (all_curves(make(task, 2), RATES) for make in (FusedPool, SerialPool))
    np.testing.assert_allclose(fused, serial, rtol=1e-9)


def test_bfloat16_models_are_checked_in_full_precision(six, digits):
    task = replace(six, model=Plain, prepare=deepcopy(digits.prepare).float(), precision="bfloat16")
    fused, serial = (all_curves(make(task, 2), RATES) for make in (FusedPool, SerialPool))
    np.testing.assert_allclose(fused, serial, rtol=0.02, atol=0.02)


def test_the_data_s_own_errors_are_no_misfit(six):
    task = DeviceTask(six, 2, DEVICE)

    def updates(*_):
        raise InputError("the data has changed")

    task.updates = updates
    with pytest.raises(InputError, match="the data has changed"):
        vmap_check(task)


@pytest.mark.parametrize("change", [{}, {"prepare": DrawingPrepare()}])
def test_nothing_is_left_changed(change, six):
    task = DeviceTask(replace(six, **change), 2, DEVICE)
    settings = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    before = torch.get_rng_state()
    _, drawing = vmap_check(task)
    assert drawing == bool(change)
    assert torch.equal(before, torch.get_rng_state())
    assert settings == (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
    assert not task.prepare.training


def test_a_matrix_holds_the_parameters_of_a_group_in_line(six):
    """Each begins where kernels like it, as far as the small ones at the end allow."""
    model = mlp().double()
    task = replace(six, model=lambda: model, groups=decays, settings={})
    optimizer = StackedOptimizer(task, model, set(dict(model.named_parameters())))
    matrices, vectors = optimizer.groups
    assert (list(matrices.shapes), list(vectors.shapes)) == (
        ["1.weight", "3.weight"],
        ["1.bias", "3.bias"],
    )
    state = StackedState.empty(optimizer, model, 3, averaged=True)
    assert [matrix.shape for matrix in state.weights] == [(3, 64 * 16 + 16 * 10), (3, 16 + 10 + 6)]
    for whole in (state, state.apart):
        for name, weight in model.named_parameters():
            assert torch.equal(whole.models["average"][name], weight.expand(3, *weight.shape))
            part = whole.parameters[name]
            assert part.untyped_storage().data_ptr() in {
                matrix.untyped_storage().data_ptr() for matrix in state.weights
            }
