"""Features of a frozen backbone: trainings to rounding as without, and where there are none."""

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from lrtune.engine import FusedPool, SerialPool
from lrtune.engine.features import with_features
from tests.engine.trials import DEVICE


class Tuned(nn.Module):
    """A backbone that is the same in all trials, frozen, and a head with dropout."""

    def __init__(self, backbone_seed=0, middle=None, scale=1.0, drop=0.5):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            if backbone_seed is not None:
                torch.manual_seed(backbone_seed)
            norm, noise = nn.BatchNorm2d(4), nn.Dropout(0.2)
            convolution = nn.Conv2d(1, 4, 3)
        self.backbone = nn.Sequential(convolution, norm, nn.ReLU(), noise).requires_grad_(False)
        self.middle = middle or nn.Flatten()
        self.head = nn.Sequential(nn.BatchNorm1d(144), nn.Dropout(drop), nn.Linear(144, 10))
        self.scale = scale

    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, images):
        return self.scale * self.head(self.middle(self.backbone(images)))


@pytest.fixture(scope="module")
def tuned(digits):
    train, val = digits.train.part(0, 240), digits.val.part(0, 60)
    how = {"optimizer": "adamw", "epochs": 30 * 32 / 240, "validations": 3}
    return replace(digits, train=train, val=val, model=Tuned, clip_norm=1.0, **how)


def finals(pool):
    """Losses of two trainings, and what they are in validation and on the test split."""
    rates = np.linspace(0.01, 0, 30)
    seen = []
    for slot, seed in enumerate((3, 4)):
        pool.start(slot, rates, seed)
    for _ in range(3):
        for progress in pool.advance():
            seen += [*progress.losses, progress.loss, *progress.metrics.values()]
    return np.array(seen + [pool.evaluate(slot).loss for slot in (0, 1)])


@pytest.mark.parametrize(("make", "drop"), [(SerialPool, 0.5), (FusedPool, 0.0)])
def test_trainings_are_the_same_to_rounding(make, drop, tuned):
    tuned, lines = replace(tuned, model=partial(Tuned, drop=drop)), []
    cached, sentence = with_features(tuned, DEVICE, lines.append)
    assert lines == [sentence]
    assert sentence.startswith("features of the frozen backbone computed once: 144 numbers per sam")
    assert cached.sample_shape == (144,)
    assert {n for n, _ in cached.model().named_parameters()} == {
        f"head.{n}" for n, _ in Tuned().head.named_parameters()
    }
    expected = finals(SerialPool(tuned, 2, DEVICE))
    np.testing.assert_allclose(finals(make(cached, 2, DEVICE)), expected, rtol=2e-3)
    assert with_features(cached, DEVICE, lines.append) == (cached, "")


class Noisy(torch.utils.data.Dataset):
    """Draws each sample."""

    def __len__(self):
        return 240

    def __getitem__(self, row):
        return torch.randint(16, (1, 8, 8), dtype=torch.uint8), row % 10


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"augment": ("flip", "crop")}, r"augmentation \(flip, crop\) changes every image"),
        ({"train": Noisy()}, "samples are drawn at random$"),
        ({"model": partial(Tuned, None)}, r"each trial draws another one \(give it --weights\)$"),
        ({"model": partial(Tuned, 0, nn.Sequential(nn.Flatten(), nn.Dropout()))}, "in training"),
        ({"model": partial(Tuned, scale=2.0)}, "the outputs of head are not those of the model$"),
        (
            {"groups": lambda m: [{"params": [m.head[2].weight, *m.backbone.parameters()]}]},
            "groups",
        ),
        ({"memory": 100_000}, r"[\d.]+ [KM]B, and there is room for 100 KB \(--memory\)$"),
    ],
    ids=["augment", "noise", "seeds", "dropout", "output", "groups", "memory"],
)
def test_what_is_not_kept_and_why(change, match, tuned):
    task, lines = replace(tuned, **change), []
    same, sentence = with_features(task, DEVICE, lines.append)
    assert same is task
    assert lines == [sentence] and sentence.startswith(
        "features of the frozen backbone are not kept"
    )
    assert re.search(match, sentence), sentence


def test_where_nothing_is_frozen_before_the_head_nothing_is_said(tuned):
    task = replace(tuned, model=lambda: Tuned().requires_grad_(True))
    assert with_features(task, DEVICE, pytest.fail) == (task, "")


def test_a_stream_becomes_features_in_memory(tuned, no_workers):
    images = TensorDataset(*tuned.train)
    expected, _ = with_features(tuned, DEVICE, lambda line: None)
    streamed = replace(tuned, train=images, memory=10_000)
    assert "not kept" in with_features(streamed, DEVICE, lambda line: None)[1]
    streamed = replace(streamed, memory=None)
    cached, _ = with_features(streamed, DEVICE, lambda line: None)
    torch.testing.assert_close(cached.train.inputs, expected.train.inputs)
