"""DATASETS: how they are split, and that nothing of them is lost."""

from itertools import chain

import numpy as np
import pytest
from sklearn.datasets import load_digits

from lrtune.tasks import DATASETS
from lrtune.tasks.options import TaskOptions
from lrtune.tasks.splits import SPLIT_SHARE

SPLITS = ("train", "val", "test")


def rows(data):
    """Every sample with its label, as bytes; one list a split."""
    return [
        sorted(x.numpy().tobytes() + bytes([y]) for x, y in zip(*getattr(data, split), strict=True))
        for split in SPLITS
    ]


@pytest.mark.parametrize("name", ["digits", "breast_cancer", "wine"])
def test_splits_are_stratified(name):
    data = DATASETS[name](TaskOptions())
    share = {"test": SPLIT_SHARE, "val": (1 - SPLIT_SHARE) * SPLIT_SHARE}
    share["train"] = 1 - sum(share.values())
    counts = {s: np.bincount(getattr(data, s).targets, minlength=data.outputs) for s in SPLITS}
    total = sum(counts.values())
    for split in SPLITS:
        assert abs(counts[split].sum() - share[split] * total.sum()) <= 2
        assert np.abs(counts[split] - share[split] * total).max() <= 2


def test_splits_are_no_larger_than_needed(monkeypatch):
    monkeypatch.setattr("lrtune.tasks.splits.SPLIT_MOST", 150)
    data = DATASETS["digits"](TaskOptions())
    assert [len(getattr(data, split).targets) for split in SPLITS] == [1497, 150, 150]
    assert data.test.targets.bincount().min() >= 14


def test_digits_are_all_there_and_in_one_split_each():
    raw = load_digits()
    whole = sorted(
        x.astype(np.uint8).tobytes() + bytes([y])
        for x, y in zip(raw.images, raw.target, strict=True)
    )
    assert sorted(chain.from_iterable(rows(DATASETS["digits"](TaskOptions())))) == whole


def test_splits_depend_on_the_seed_alone():
    np.random.seed(1)
    first, again, other = (rows(DATASETS["digits"](TaskOptions(seed=seed))) for seed in (0, 0, 1))
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_digits_normalised_by_the_training_split():
    data = DATASETS["digits"](TaskOptions())
    prepared = data.prepare(data.train.inputs)
    assert abs(prepared.mean()) < 1e-5
    assert abs(prepared.std(correction=0) - 1) < 1e-5
