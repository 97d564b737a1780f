"""The tasks that ``curves.py`` records and ``race.py`` searches: data, model, optimizer, peaks.

They differ in data (tables, images, text), model (MLP, CNN, residual network, n-gram, transformer),
optimizer, weight decay, batch size, horizon and label noise. What they are made of is embedded in
scikit-learn and statsmodels, but for CIFAR-10 and tiny Shakespeare, whose places the user gives.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrtune.tasks import Split, Task, load_task


class Row(NamedTuple):
    """A task, and the peak rates that are drawn from."""

    make: Callable[[argparse.Namespace], Task]
    peak_lr: tuple[float, float]


class Gpt(nn.Module):
    """A small decoder-only transformer of torch's own layers."""

    def __init__(self, context: int, vocabulary: int, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(0.02 * torch.randn(context, width))
        self.layers = nn.ModuleList(encoder_layer(width) for _ in range(layers))
        self.head = nn.Linear(width, vocabulary)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(context))

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens.long()) + self.places
        for layer in self.layers:
            hidden = layer(hidden, src_mask=self.get_buffer("mask"))
        logits: Tensor = self.head(hidden)
        return logits


class Vit(nn.Module):
    """A small vision transformer: patches of 4 by 4, the mean of its tokens is classified."""

    def __init__(self, pixels: int = 16, width: int = 48, layers: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.places = nn.Parameter(0.02 * torch.randn((pixels // 4) ** 2, width))
        self.layers = nn.ModuleList(encoder_layer(width) for _ in range(layers))
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.patches(images).flatten(2).transpose(1, 2) + self.places
        for layer in self.layers:
            hidden = layer(hidden)
        logits: Tensor = self.head(hidden.mean(1))
        return logits


def encoder_layer(width: int) -> nn.Module:
    return nn.TransformerEncoderLayer(
        width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )


class Grams(nn.Sequential):
    """Embeddings of the letters before, then an MLP."""

    def __init__(self, context: int, count: int) -> None:
        embed = nn.Embedding(count, 16)
        super().__init__(
            embed, nn.Flatten(), nn.Linear(16 * context, 128), nn.ReLU(), nn.Linear(128, count)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = super().forward(tokens.long())
        return logits


class Block(nn.Module):
    """Two convolutions with batch norm, beside them the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(convolution(width, width), nn.ReLU(), convolution(width, width))

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(images + self.body(images))


def convolution(before: int, after: int) -> nn.Module:
    conv = nn.Conv2d(before, after, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after))


def small_resnet(channels: int, width: int = 16) -> nn.Module:
    """A residual network of five convolutions for ten classes."""
    return nn.Sequential(
        convolution(channels, width),
        nn.ReLU(),
        Block(width),
        nn.MaxPool2d(2),
        Block(width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 10),
    )


def named(data: str, args: argparse.Namespace, *, noise: float = 0.0, **options: object) -> Task:
    """A data set by its name, with wrong labels in part."""
    task = load_task(data, **options)
    return with_noise(task, noise) if noise else task


def with_noise(task: Task, share: float) -> Task:
    """Of the training labels, a share drawn anew from all labels."""
    draw = torch.Generator().manual_seed(0)
    labels = task.train.targets
    wrong = torch.rand(labels.shape, generator=draw) < share
    other = labels.flatten()[torch.randint(labels.numel(), labels.shape, generator=draw)]
    return replace(task, train=Split(task.train.inputs, torch.where(wrong, other, labels)))


def frame_task(frame: pd.DataFrame, args: argparse.Namespace, **options: object) -> Task:
    """A table, by the way that a user's own goes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        frame.to_csv(path, index=False)
        return load_task(str(path), **options)


def visits(args: argparse.Namespace) -> Task:
    """RAND's health insurance experiment: a count with a heavy tail."""
    from statsmodels.datasets import randhie

    table = randhie.load_pandas().data
    return frame_task(
        table, args, target="mdvis", kind="regression", optimizer="adamw", batch_size=64, epochs=2.5
    )


def affairs(args: argparse.Namespace) -> Task:
    from statsmodels.datasets import fair

    table = fair.load_pandas().data
    table["affairs"] = np.where(table["affairs"] > 0, "yes", "no")
    options = {"optimizer": "adagrad", "batch_size": 32, "epochs": 3.0}
    return frame_task(table, args, target="affairs", **options)


def friedman(args: argparse.Namespace) -> Task:
    from sklearn.datasets import make_friedman1

    inputs, target = make_friedman1(4000, 10, noise=1.0, random_state=0)
    table = pd.DataFrame(inputs).add_prefix("x").assign(target=target)
    options = {"optimizer": "nesterov:weight_decay=0.0005", "batch_size": 32, "epochs": 8.0}
    return frame_task(table, args, target="target", kind="regression", **options)


def clusters(args: argparse.Namespace) -> Task:
    from sklearn.datasets import make_classification

    inputs, target = make_classification(
        8000, 24, n_informative=12, n_classes=12, flip_y=0.1, n_clusters_per_class=2, random_state=0
    )
    table = pd.DataFrame(inputs).add_prefix("x").assign(target=[f"c{label}" for label in target])
    options = {"optimizer": "adamw:weight_decay=0.05", "batch_size": 128, "epochs": 12.0}
    return frame_task(table, args, target="target", **options)


def patches(args: argparse.Namespace) -> Task:
    """The middle of a patch of a photograph from the pixels around it."""
    from sklearn.datasets import load_sample_image

    photo = load_sample_image("china.jpg").mean(2) / 255
    draw = np.random.default_rng(0)
    rows, columns = (draw.integers(3, size - 3, 9000) for size in photo.shape)
    around = [(i, j) for i in range(-3, 4) for j in range(-3, 4) if max(abs(i), abs(j)) > 1]
    table = pd.DataFrame({f"x{i}_{j}": photo[rows + i, columns + j] for i, j in around})
    table["target"] = photo[rows, columns]
    options = {"optimizer": "adam", "batch_size": 64, "epochs": 8.0}
    return frame_task(table, args, target="target", kind="regression", **options)


@cache
def cifar(folder: str, pixels: int) -> Task:
    """A third of CIFAR-10, made smaller: what fits two cores."""
    task = load_task(folder, image_size=pixels, model="cnn", batch_size=64)
    order = torch.randperm(task.train.samples, generator=torch.Generator().manual_seed(0))[:16_000]
    train = Split(task.train.inputs[order], task.train.targets[order])
    order = torch.randperm(task.val.samples, generator=torch.Generator().manual_seed(0))[:1_000]
    val = Split(task.val.inputs[order], task.val.targets[order])
    test = Split(task.test.inputs[:2_000], task.test.targets[:2_000])
    if task.test.samples > 2_000:
        order = torch.randperm(task.test.samples, generator=torch.Generator().manual_seed(0))
        test = Split(task.test.inputs[order[:2_000]], task.test.targets[order[:2_000]])
    return replace(task, train=train, val=val, test=test)


def images(
    args: argparse.Namespace,
    pixels: int,
    updates: int,
    *,
    model: Callable[[], nn.Module] | str = "cnn",
    noise: float = 0.0,
    **changed: object,
) -> Task:
    """CIFAR-10 under one of our models or of lrtune's own."""
    task = cifar(args.images, pixels)
    if isinstance(model, str) and model != "cnn":
        whole = load_task(args.images, image_size=pixels, model=model)
        task = replace(task, model=whole.model, model_name=model, layout=whole.layout)
    elif not isinstance(model, str):
        task = replace(task, model=model, model_name=getattr(model, "__name__", "custom"))
    task = replace(task, **{"batch_size": 64, **changed})
    task = replace(task, epochs=updates * task.batch_size / task.train.samples)
    return with_noise(task, noise) if noise else task


@cache
def letters(path: str, context: int) -> tuple[Tensor, Tensor, Tensor, int]:
    """Windows of the text, (n, context + 1): of its first nine tenths, and twice of the rest."""
    text = Path(path).read_text(encoding="utf-8")
    known = sorted(set(text))
    tokens = torch.tensor([known.index(letter) for letter in text], dtype=torch.uint8)
    cut, end = 9 * len(tokens) // 10, 19 * len(tokens) // 20
    draw = torch.Generator().manual_seed(0)
    parts = []
    for part, count in (tokens[:cut], 40_000), (tokens[cut:end], 1_000), (tokens[end:], 1_000):
        starts = torch.randint(len(part) - context - 1, (count, 1), generator=draw)
        parts.append(part[starts + torch.arange(context + 1)])
    return parts[0], parts[1], parts[2], len(known)


def text(
    args: argparse.Namespace,
    context: int,
    updates: int,
    *,
    width: int = 0,
    layers: int = 2,
    noise: float = 0.0,
    **changed: object,
) -> Task:
    """The next letter: of each letter by a transformer, of all by an n-gram where no width."""
    train, val, test, count = letters(args.text, context)
    cut = slice(1, None) if width else -1
    splits = [Split(part[:, :-1], part[:, cut].long()) for part in (train, val, test)]
    if width:
        splits = [splits[0], *(Split(*(t[:200] for t in split)) for split in splits[1:])]
    task = Task(
        name="shakespeare",
        train=splits[0],
        val=splits[1],
        test=splits[2],
        model=partial(Gpt, context, count, width, layers)
        if width
        else partial(Grams, context, count),
        loss=load_task("digits").loss,
        model_name="gpt" if width else "grams",
        **changed,
    )
    task = replace(task, epochs=updates * task.batch_size / task.train.samples)
    return with_noise(task, noise) if noise else task


def digits_resnet(args: argparse.Namespace) -> Task:
    task = load_task("digits", model="cnn", optimizer="nesterov", batch_size=64, epochs=6.0)
    return replace(task, model=partial(small_resnet, 1), model_name="small_resnet")


SGD, ADAM, ADAGRAD = (3e-3, 1.0), (1e-4, 3e-2), (1e-3, 0.3)  # 2.5 decades each
DECAY = {"weight_decay": 0.05}

TASKS: dict[str, Row] = {
    "digits-mlp-sgd": Row(partial(named, "digits", model="mlp", batch_size=16, epochs=12.0), SGD),
    "digits-mlp-adamw-large-batch": Row(
        partial(
            named,
            "digits",
            model="mlp",
            optimizer="adamw:weight_decay=0.1",
            batch_size=256,
            epochs=30.0,
        ),
        ADAM,
    ),
    "digits-mlp-sgd-noise": Row(
        partial(
            named,
            "digits",
            model="mlp",
            optimizer="sgd:momentum=0.9,weight_decay=0.0005",
            batch_size=32,
            epochs=25.0,
            noise=0.2,
        ),
        SGD,
    ),
    "digits-mlp-rmsprop": Row(
        partial(named, "digits", model="mlp", optimizer="rmsprop", batch_size=32, epochs=10.0),
        ADAM,
    ),
    "digits-cnn-adamw": Row(
        partial(named, "digits", model="cnn", optimizer="adamw", batch_size=64, epochs=8.0), ADAM
    ),
    "digits-cnn-nesterov": Row(
        partial(named, "digits", model="cnn", optimizer="nesterov", batch_size=32, epochs=6.0), SGD
    ),
    "digits-resnet-nesterov": Row(digits_resnet, SGD),
    "diabetes-mlp-adamw": Row(
        partial(named, "diabetes", optimizer="adamw", batch_size=16, epochs=40.0), ADAM
    ),
    "diabetes-mlp-sgd": Row(
        partial(named, "diabetes", optimizer="sgd", batch_size=32, epochs=60.0), (1e-4, 3e-2)
    ),
    "breast-cancer-mlp-adamw": Row(
        partial(
            named,
            "breast_cancer",
            optimizer="adamw:weight_decay=0.1",
            batch_size=32,
            epochs=20.0,
        ),
        ADAM,
    ),
    "breast-cancer-mlp-sgd": Row(
        partial(
            named,
            "breast_cancer",
            optimizer="sgd:momentum=0.9,weight_decay=0.01",
            batch_size=16,
            epochs=10.0,
        ),
        SGD,
    ),
    "wine-mlp-adam": Row(
        partial(named, "wine", optimizer="adam", batch_size=16, epochs=20.0), ADAM
    ),
    "visits-mlp-adamw": Row(visits, ADAM),
    "affairs-mlp-adagrad": Row(affairs, ADAGRAD),
    "friedman-mlp-nesterov": Row(friedman, (3e-4, 0.1)),
    "clusters-mlp-adamw": Row(clusters, ADAM),
    "patches-mlp-adam": Row(patches, ADAM),
    "shakespeare-grams-sgd": Row(partial(text, context=8, updates=900, batch_size=32), (1e-2, 3.0)),
    "shakespeare-grams-adamw": Row(
        partial(text, context=4, updates=300, batch_size=128, optimizer="adamw", settings=DECAY),
        ADAM,
    ),
    "shakespeare-grams-adagrad": Row(
        partial(text, context=8, updates=600, batch_size=64, optimizer="adagrad"), ADAGRAD
    ),
    "shakespeare-grams-nesterov-noise": Row(
        partial(text, context=6, updates=1500, batch_size=64, optimizer="nesterov", noise=0.2),
        (1e-2, 3.0),
    ),
    "shakespeare-transformer-adamw": Row(
        partial(
            text,
            context=32,
            updates=300,
            width=64,
            batch_size=16,
            optimizer="adamw",
            settings={"weight_decay": 0.1},
        ),
        ADAM,
    ),
    "shakespeare-transformer-adam": Row(
        partial(
            text,
            context=16,
            updates=500,
            width=48,
            layers=1,
            batch_size=8,
            optimizer="adam",
            clip_norm=1.0,
        ),
        ADAM,
    ),
    "cifar10-cnn-sgd": Row(
        partial(images, pixels=16, updates=175, optimizer="sgd", augment=("flip",)), SGD
    ),
    "cifar10-mlp-adamw": Row(
        partial(images, pixels=8, updates=400, model="mlp", optimizer="adamw", batch_size=128), ADAM
    ),
    "cifar10-cnn-adamw": Row(
        partial(images, pixels=8, updates=300, optimizer="adamw", batch_size=32, settings=DECAY),
        ADAM,
    ),
    "cifar10-cnn-nesterov": Row(
        partial(
            images,
            pixels=8,
            updates=700,
            optimizer="nesterov",
            batch_size=32,
            settings={"weight_decay": 5e-4},
        ),
        SGD,
    ),
    "cifar10-cnn-rmsprop-noise": Row(
        partial(images, pixels=8, updates=250, optimizer="rmsprop", noise=0.2), ADAM
    ),
    "cifar10-resnet-sgd": Row(
        partial(images, pixels=16, updates=150, model=partial(small_resnet, 3), optimizer="sgd"),
        SGD,
    ),
    "cifar10-vit-adamw": Row(
        partial(images, pixels=16, updates=250, model=Vit, optimizer="adamw", settings=DECAY), ADAM
    ),
}
