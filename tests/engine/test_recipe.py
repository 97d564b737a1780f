"""Clipping, averaging, augmentation, parameter groups, precision: each against plain PyTorch."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lrtune.engine import SerialPool
from lrtune.engine.average import Average, newest_shares
from lrtune.engine.optimizers import make_optimizer
from lrtune.engine.order import INITIAL_WEIGHTS, derive
from lrtune.errors import InputError
from lrtune.tasks import Metric, Split
from lrtune.tasks.metrics import CROSS_ENTROPY


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, 10))


@pytest.fixture(scope="module")
def small(digits):
    """Six updates in three segments."""
    return replace(
        digits, model=net, val=digits.val.part(0, 60), epochs=6 * 32 / 1149, validations=3
    )


def states(task, rates, seed=3):
    """The weights after every segment, and the progress of each."""
    made = []

    def model():
        made.append(task.model())
        return made[-1]

    pool = SerialPool(replace(task, model=model))
    told = [pool.admit(0, rates, seed)]
    weights = []
    while told[-1].update < task.horizon:
        told += pool.advance()
        assert told[-1].error is None
        weights.append({name: t.clone() for name, t in made[-1].state_dict().items()})
    return weights, told


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


def test_validation_is_of_the_averaged_weights(small):
    """By hand: the mean of the weights after each update, weighted d**age, bias divided out."""
    task = replace(small, validations=6, ema=0.5)
    weights, told = states(task, np.full(6, 0.3))
    decay = 1 - 1 / (0.5 * 6)
    for count in range(1, 7):
        ages = torch.tensor([decay ** (count - 1 - i) for i in range(count)])
        model = net()
        mean = {
            name: sum(a * w[name] for a, w in zip(ages / ages.sum(), weights, strict=False))
            for name, tensor in weights[0].items()
            if tensor.is_floating_point()
        }
        model.load_state_dict(mean, strict=False)
        inputs, targets = task.val
        expected = F.cross_entropy(model.eval()(task.prepare(inputs)), targets)
        assert told[count].loss == pytest.approx(expected.item(), rel=1e-4)


class Indexed(nn.Module):
    """With an index as a buffer: its mean would be another index."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.register_buffer("index", torch.arange(64).flip(0))

    def forward(self, inputs):
        return self.layer(inputs.flatten(1)[:, self.index])


def test_whole_numbers_are_not_averaged():
    model = Indexed()
    average = Average(model, newest_shares(7, np.array([60]), 1))
    for _ in range(60):
        average.update(model)
    assert torch.equal(average.model.index, model.index)


def test_averaging_leaves_the_training_as_it_is(small):
    plain, told = states(small, np.full(6, 0.1))
    averaged, others = states(replace(small, ema=0.5), np.full(6, 0.1))
    for name, tensor in plain[-1].items():
        assert torch.equal(averaged[-1][name], tensor)
    assert told[-1].loss != others[-1].loss


def test_augmentation_is_a_function_of_seed_and_update(small):
    task = replace(small, augment=("crop", "cutout"))
    runs = [states(task, np.full(6, 0.1), seed)[1] for seed in (3, 3, 4)]
    losses = [np.concatenate([p.losses for p in told]) for told in runs]
    assert (losses[0] == losses[1]).all()
    assert (losses[0] != losses[2]).all()
    plain = np.concatenate([p.losses for p in states(small, np.full(6, 0.1))[1]])
    assert (losses[0] != plain).all()


def test_validation_is_never_augmented(small):
    """Untrained, both see the same."""
    plain, other = (
        states(replace(small, augment=names), np.zeros(6))[1][0].loss
        for names in ((), ("crop", "cutout", "mixup"))
    )
    assert plain == other


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


def test_mixed_targets_weigh_as_their_inputs(digits):
    """Every pixel holds the target: the mixed inputs tell what the mixed targets must be."""
    inputs = digits.train.targets.float()[:, None, None, None].expand(-1, 1, 8, 8).contiguous()

    def squared(outputs, targets):  # a sample at a time: linear in the weights of the targets
        return outputs.mul(targets[:, None].float()).mean()

    task = replace(
        digits,
        train=Split(inputs, digits.train.targets),
        prepare=nn.Identity(),
        model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 1)),
        classes=None,
        metrics=(Metric("mean", lambda o, t: o.mean(), "minimize"),),
        loss=squared,
        augment=("mixup",),
        epochs=6 * 32 / 1149,
        validations=1,
    )
    seen = []

    def watched(outputs, targets):
        seen.append((outputs.detach().clone(), targets.clone()))
        return squared(outputs, targets)

    pool = SerialPool(replace(task, loss=watched))
    pool.admit(0, np.zeros(6), seed=0)
    seen.clear()
    (told,) = pool.advance()
    torch.manual_seed(derive(0, INITIAL_WEIGHTS))
    model = task.model()
    for update, loss in enumerate(told.losses):
        (outputs, kept), (_, rolled) = seen[2 * update : 2 * update + 2]
        assert torch.equal(rolled, kept.roll(1, 0))
        pixel = (outputs - model[1].bias) / model[1].weight.sum()  # the mixed targets
        mixed = pixel.squeeze(1)
        weight = ((mixed - rolled) / (kept - rolled))[kept != rolled]
        torch.testing.assert_close(weight, weight.mean().expand_as(weight), atol=1e-2, rtol=0)
        expected = (outputs.squeeze(1) * mixed).mean().item()
        assert loss == pytest.approx(expected, rel=1e-2)


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
    monkeypatch.setattr("lrtune.engine.feed.EVALUATION_BATCH", 50)  # 288 samples: a short last one
    whole = Metric("whole", CROSS_ENTROPY.function, "minimize", over="split")
    task = replace(digits, metrics=(CROSS_ENTROPY, whole))
    told = SerialPool(task).admit(0, np.zeros(task.horizon), seed=0)
    assert told.metrics["whole"] == pytest.approx(told.metrics["cross_entropy"], rel=1e-6)
    assert told.loss == pytest.approx(told.metrics["whole"], rel=1e-6)


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 11)

    def forward(self, inputs):
        outputs = self.layer(inputs["pixels"].flatten(1))
        return {"digit": outputs[:, :10], "ink": (outputs[:, 10],)}


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
    assert task.check_model() == 65 * 11
    _, told = states(task, np.full(task.horizon, 1e-2))
    assert told[-1].metrics["total"] < told[0].metrics["total"]
    assert told[-1].loss == pytest.approx(told[-1].metrics["total"])


def test_weights_are_looked_at_from_each_validation_on():
    shares = newest_shares(40, np.array([10, 21, 30]), 5)
    assert (np.flatnonzero(shares) + 1).tolist() == [5, 10, 15, 20, 26]
    decay = (1 - 1 / 40) ** 5
    looks = np.arange(1, 6)
    np.testing.assert_allclose(shares[shares > 0], (1 - decay) / (1 - decay**looks))


def test_each_segment_is_looked_at_however_short():
    shares = newest_shares(400, np.array([3, 6, 9]), 50)
    assert (np.flatnonzero(shares) + 1).tolist() == [3, 6, 9]


def test_the_average_is_judged_beside_the_weights(small):
    """With ema its value is the objective; without, it is told beside, and changes nothing."""
    bare, told = states(replace(small, validations=6, average=None), np.full(6, 0.3))
    beside, others = states(replace(small, validations=6, average=0.5), np.full(6, 0.3))
    for name, tensor in bare[-1].items():
        assert torch.equal(beside[-1][name], tensor)
    assert [one.loss for one in told] == [one.loss for one in others]
    assert all(np.isnan(one.averaged) for one in told)
    _, by_ema = states(replace(small, validations=6, ema=0.5), np.full(6, 0.3))
    assert [one.averaged for one in others[1:]] == pytest.approx(
        [one.metrics[small.objective.name] for one in by_ema[1:]]
    )
