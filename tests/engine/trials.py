"""Small models, and trials trained in a pool and by a plain loop, as numbers to be compared."""

import os
from copy import deepcopy
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from lrtune.engine import SerialPool
from lrtune.engine.pool import (
    INITIAL_WEIGHTS,
    NO_SETTINGS,
    UPDATE_NOISE,
    AugmentNumbers,
    BatchOrder,
    derive,
)
from lrtune.tasks.images import augment
from lrtune.tasks.splits import tree_map

DEVICE = "cuda:0" if os.environ.get("LRTUNE_TEST_DEVICE") == "cuda" else "cpu"  # of the run
BATCH = 16
PLAIN = {
    "sgd": partial(torch.optim.SGD, momentum=0.9),
    "nesterov": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "adamax": torch.optim.Adamax,
    "adadelta": torch.optim.Adadelta,
}
RATE = {"sgd": 0.05, "nesterov": 0.05}


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3),
        nn.BatchNorm2d(8),
        nn.Flatten(),
        nn.Linear(8, 10),
    )


def dropout():
    """Dropout, and BatchNorm with its running statistics."""
    norm, drop = nn.BatchNorm1d(32), nn.Dropout(0.3)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32, bias=False), norm, nn.ReLU(), drop, nn.Linear(32, 10)
    )


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.layer(x.flatten(1))


class Counts(Plain):
    """A count that is assigned anew."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.count = self.count + 1
        return super().forward(x)


class TwoHeads(nn.Module):
    """Trees in, trees out."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 11)

    def forward(self, inputs):
        outputs = self.layer(inputs["pixels"].flatten(1))
        return {"digit": outputs[:, :10], "ink": (outputs[:, 10],)}


class Pairs(Dataset):
    """A split as a map-style data set that counts its readings, and may augment."""

    def __init__(self, split, noise=0.0):
        self.split, self.noise, self.read = split, noise, 0

    def __len__(self):
        return self.split.samples

    def __getitem__(self, row):
        self.read += 1
        image, target = self.split.inputs[row], self.split.targets[row]
        return image + self.noise * torch.randn(image.shape) if self.noise else image, target


def decays(model):
    """Two groups."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0, "lr_ratio": 0.5},
    ]


def falling(task):
    return np.geomspace(1, 0.1, task.horizon) * RATE.get(task.optimizer, 5e-3)


def numbers(progress):
    assert progress.error is None
    averaged = [] if np.isnan(progress.averaged) else [progress.averaged]
    figures = [progress.loss, *progress.metrics.values(), *averaged]
    return [progress.update, *figures, *progress.losses]


def train(pool, slot, rates, seed, momenta=None, settings=NO_SETTINGS):
    """A trial from its start to its end, in numbers; the other slots go round and round."""
    curve = numbers(pool.start(slot, rates, seed, momenta, settings))
    while True:
        for progress in pool.advance():
            if progress.slot == slot:
                curve += numbers(progress)
                if progress.update == pool.task.horizon:
                    return np.array(curve)
            elif progress.update == pool.task.horizon:
                pool.release(progress.slot)
                pool.start(progress.slot, rates * 0.7, seed + progress.slot + 1)


def crowded(pool, slot, rates, seed, momenta=None, settings=NO_SETTINGS, late=1):
    """The same in a slot used before, out of step with its neighbours, which have other seeds."""
    for other in range(pool.slots):
        pool.start(other, rates * 0.5, other)
    for _ in range(late):
        pool.advance()
    pool.release(slot)
    return train(pool, slot, rates, seed, momenta, settings)


def alone(task, rates, seed, momenta=None, settings=NO_SETTINGS):
    return train(SerialPool(task), 0, rates, seed, momenta, settings)


def placed(thing):
    """A tensor or a module on the device of the run; functions have none."""
    return deepcopy(thing).to(DEVICE) if isinstance(thing, torch.Tensor | nn.Module) else thing


def plainly(task, rates, seed, follow=None):
    """The same by a loop as people write it; ``follow`` makes torch's scheduler of an optimizer."""
    torch.manual_seed(derive(seed, INITIAL_WEIGHTS))
    model = task.model().to(DEVICE)
    task = replace(task, prepare=placed(task.prepare), loss=placed(task.loss))
    mean = deepcopy(model)
    groups = [{"params": list(model.parameters())}] if task.groups is None else task.groups(model)
    ratios = [group.pop("lr_ratio", 1.0) for group in groups]
    settings = dict(task.settings)
    decay_by = settings.pop("weight_decay_by", None)
    optimizer = PLAIN[task.optimizer](groups, lr=1.0, foreach=False, **settings)
    own = [group["weight_decay"] for group in optimizer.param_groups]
    peak = max(rates)
    scheduler = None if follow is None else follow(optimizer)
    order = BatchOrder(task.train.samples, task.batch_size, torch.device("cpu"))
    drawn = AugmentNumbers(task, torch.device(DEVICE))

    def validation(update):
        judged = (model if task.ema is None else mean).eval()
        inputs, targets = tree_map(placed, tuple(task.val))
        with torch.no_grad():
            outputs = task.outputs(judged, task.prepare(inputs))
            metrics = [float(placed(metric.function)(outputs, targets)) for metric in task.metrics]
            beside = []
            if task.ema is None and task.average is not None:
                outputs_of_mean = task.outputs(mean.eval(), task.prepare(inputs))
                beside = [float(placed(task.objective.function)(outputs_of_mean, targets))]
            return [update, float(task.loss(outputs, targets)), *metrics, *beside]

    curve, losses, looks = validation(0), [], 0
    for update, rate in enumerate(rates):
        batch = task.train.take(order.batch(seed, update))
        inputs, targets = tree_map(placed, tuple(batch))
        torch.manual_seed(derive(seed, UPDATE_NOISE, update))
        numbers = drawn.batches(seed, update, update + 1)[0]
        inputs, parts = augment(task.augment, task.prepare(inputs), targets, numbers)
        for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
            group["lr"] = rate * ratio if scheduler is None else group["lr"]
        optimizer.zero_grad()
        outputs = task.outputs(model.train(), inputs)
        loss = sum(weight * task.loss(outputs, part) for weight, part in parts)
        loss.backward()
        if task.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), task.clip_norm)
        for group, ratio, decay in zip(optimizer.param_groups, ratios, own, strict=True):
            if decay_by is not None:
                share = decay * ratio * {"peak": peak, "schedule": rate / peak}[decay_by]
                group["weight_decay"] = 0.0
                for parameter in group["params"]:
                    parameter.data.mul_(1 - share)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        length = max(1.0, (task.ema or task.average or 0) * task.horizon)
        segments = np.diff(task.checkpoints, prepend=0)
        stride = 1 if task.ema else int(np.clip(length / 4, 1, segments.min()))
        begun = max([0, *(c for c in task.checkpoints if c <= update)])
        if (task.ema or task.average) and (update + 1 - begun) % stride == 0:
            looks += 1
            decay = (1 - 1 / length) ** stride
            newest = (1 - decay) / (1 - decay**looks)
            current = model.state_dict()
            for name, tensor in mean.state_dict().items():
                if tensor.is_floating_point():
                    tensor += newest * (current[name] - tensor)
        losses.append(loss.item())
        if update + 1 in task.checkpoints:
            curve += [*validation(update + 1), *losses]
            losses = []
    return np.array(curve)


def same(*curves, rtol=1e-9):
    for curve in curves[1:]:
        np.testing.assert_allclose(curve, curves[0], rtol=rtol)


def all_curves(pool, rates):
    curves = [numbers(pool.start(slot, rates / (1 + slot), slot)) for slot in range(pool.slots)]
    for _ in pool.task.checkpoints:
        for progress in pool.advance():
            curves[progress.slot] += numbers(progress)
    return np.array(curves)


def width(pool):
    """How many trials a FusedPool trains at once."""
    return 1 if isinstance(pool._pool, SerialPool) else pool._pool.width
