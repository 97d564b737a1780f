"""DATASETS: every row fits torchvision; data that are there, are not, or cannot be fetched."""

import bz2
import inspect
import struct
from itertools import chain
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets

from lrtune.tasks import DATASETS
from lrtune.tasks.load import CATALOG
from lrtune.tasks.options import TaskOptions
from lrtune.tasks.splits import SPLIT_SHARE, Split, Stream
from lrtune.tasks.stream import take
from tests.tasks.conftest import SPLITS, refused

RAW = load_digits()
TRAIN, TEST = slice(500), slice(500, 600)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise URLError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def read(name, **options):
    return DATASETS[name].read(TaskOptions(**options))


@pytest.mark.parametrize("name", ["digits", "breast_cancer", "wine"])
def test_splits_are_stratified(name):
    data = read(name)
    rest = 1 - SPLIT_SHARE
    shares = np.array([rest**2, rest * SPLIT_SHARE, SPLIT_SHARE])
    counts = np.array([getattr(data, s).targets.bincount(minlength=data.outputs) for s in SPLITS])
    assert np.abs(counts.sum(1) - shares * counts.sum()).max() <= 2
    assert np.abs(counts - np.outer(shares, counts.sum(0))).max() <= 2


def test_splits_are_no_larger_than_needed(monkeypatch):
    monkeypatch.setattr("lrtune.tasks.splits.SPLIT_MOST", 150)
    data = read("digits")
    assert [len(getattr(data, split).targets) for split in SPLITS] == [1497, 150, 150]
    assert data.test.targets.bincount().min() >= 14


def test_digits_are_all_there_in_one_split_each_by_the_seed_alone(rows):
    pixels = RAW.images.astype(np.uint8)
    whole = sorted(x.tobytes() + bytes([y]) for x, y in zip(pixels, RAW.target, strict=True))
    np.random.seed(1)
    first, again, other = (rows(read("digits", seed=seed)) for seed in (0, 0, 1))
    assert sorted(chain.from_iterable(first)) == whole
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def parameters(cls):
    """Names that the constructor takes, its bases' where it hands the rest on."""
    names = set()
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        given = inspect.signature(base.__init__).parameters.values()
        names |= {each.name for each in given}
        if all(each.kind != inspect.Parameter.VAR_KEYWORD for each in given):
            return names
    return names


@pytest.mark.parametrize("name", CATALOG)
def test_a_row_fits_torchvision_and_what_is_missing_is_said(name, tmp_path):
    entry = CATALOG[name]
    cls = getattr(datasets, entry.cls)
    given = list(entry.splits.values())
    assert all(given.count(arguments) == 1 for arguments in given)  # no split twice
    for arguments in given:
        assert arguments.keys() | {"download"} <= parameters(cls)
        # What is wrong is that nothing is there, and not an argument.
        with pytest.raises((RuntimeError, FileNotFoundError)):
            cls(tmp_path, **arguments, download=False)
    for root in (tmp_path, tmp_path / "missing"):
        with refused(f"^{name}: cannot be read from {root}/: .*give --data-root"):
            read(name, data_root=str(root))
    assert not (tmp_path / "missing").exists()
    with refused(f"^{name}: cannot be read from .* network"):
        read(name, data_root=str(tmp_path), download=True)


def idx(array):
    """The format of MNIST: a magic number with the type and dimensions, the sizes, the bytes."""
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + array.astype(np.uint8).tobytes()


@pytest.fixture
def mnist(tmp_path):
    """Some of scikit-learn's digits in the files of MNIST: 500 to train, 100 to test."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, part in (("train", TRAIN), ("t10k", TEST)):
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(RAW.images[part]))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(RAW.target[part]))
    return tmp_path


def everything(split):
    return split if isinstance(split, Split) else take(split, range(split.samples))


@pytest.mark.parametrize(("memory", "kind"), [(None, Split), ("1KB", Stream)])
def test_mnist_from_its_files(memory, kind, mnist):
    data = read("mnist", data_root=str(mnist), memory=memory)
    assert (data.name, data.source, data.outputs) == ("mnist", "torchvision MNIST", 10)
    assert data.defaults == {"model": "cnn", "batch_size": 128, "epochs": 10.0}
    splits = [getattr(data, split) for split in SPLITS]
    assert all(isinstance(split, kind) for split in splits)
    assert [split.samples for split in splits] == [400, 100, 100]
    test = everything(data.test)
    assert np.array_equal(test.inputs[:, 0].numpy(), RAW.images[TEST])  # grey stays grey
    assert np.array_equal(test.targets.numpy(), RAW.target[TEST])
    train = everything(data.train)
    assert abs(data.prepare(train.inputs).mean()) < 1e-5
    assert train.targets.bincount().min() >= 37  # in proportion


@pytest.mark.parametrize("memory", [None, "1KB"])
def test_broken_files_and_labels_are_named(memory, mnist):
    given = {"data_root": str(mnist), "memory": memory}
    labels = mnist / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + bytes([77]))
    with refused("train: labels go from 0 to 77, not 0 to 9"):
        read("mnist", **given)
    labels.write_bytes(idx(RAW.target[:400]))  # missing ones are no unreadable images
    with refused(r"^mnist train: sample 4\d\d: IndexError: "):
        read("mnist", **given, skip_bad=True)
    images = mnist / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-100])
    with refused(r"^mnist: cannot be read from .*--download"):
        read("mnist", **given)


def test_classes_without_names_are_counted(tmp_path):
    """USPS tells no names; labels are numbered from 1 in its file."""
    for name, part in (("usps.bz2", TRAIN), ("usps.t.bz2", TEST)):
        pixels = np.kron(RAW.images[part], np.ones((2, 2))).reshape(-1, 256) / 8 - 1
        lines = (
            f"{y + 1} " + " ".join(f"{i + 1}:{x:g}" for i, x in enumerate(row))
            for y, row in zip(RAW.target[part], pixels, strict=True)
        )
        (tmp_path / name).write_bytes(bz2.compress("\n".join(lines).encode()))
    data = read("usps", data_root=str(tmp_path))
    assert data.outputs == 10
    assert data.test.inputs.shape == (100, 1, 16, 16)


def test_files_of_a_catalog_set_of_two_sizes_and_modes(tmp_path):
    """Which torchvision opens and does not convert."""
    rng = np.random.default_rng(0)
    for name in ("BACKGROUND_Google", "ant", "bass"):
        folder = tmp_path / "caltech101" / "101_ObjectCategories" / name
        folder.mkdir(parents=True)
        for i in range(1, 31):
            size = (10, 12, 3) if i % 2 else (12, 10, 3)
            image = Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8))
            image.convert("L" if i > 27 else "RGB").save(folder / f"image_{i:04}.jpg")
    given = {"data_root": str(tmp_path)}
    with refused(r"train: sample 1: 10x12 pixels, .*sample 0 12x10"):
        read("caltech101", **given)
    data = read("caltech101", **given, image_size=8)
    assert (data.outputs, data.train.inputs.dtype) == (2, torch.uint8)
    assert data.train.inputs.shape == (38, 3, 8, 8)
    assert [getattr(data, split).samples for split in SPLITS] == [38, 10, 12]
    bad = tmp_path / "caltech101/101_ObjectCategories/ant/image_0003.jpg"
    bad.write_bytes(bad.read_bytes()[:-40])
    with refused(r"train: sample 2: not a readable .*--skip-bad"):
        read("caltech101", **given, image_size=8)
    data = read("caltech101", **given, image_size=8, skip_bad=True)
    assert data.notes[-1].startswith("1 of 60 images left out: cannot be read (first: caltech101")
