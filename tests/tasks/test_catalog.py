"""CATALOG: every row fits torchvision; data sets that are there, are not, or cannot be fetched."""

import bz2
import inspect
import struct
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets

from lrtune.errors import InputError
from lrtune.tasks import DATASETS
from lrtune.tasks.options import TaskOptions
from lrtune.tasks.registry import CATALOG
from lrtune.tasks.splits import Split, Stream
from lrtune.tasks.stream import take

SPLITS = ("train", "val", "test")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise URLError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def parameters(cls):
    """Names that the constructor takes, its bases' where it hands the rest on."""
    names = set()
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        given = inspect.signature(base.__init__).parameters.values()
        names |= {one.name for one in given}
        if all(one.kind != inspect.Parameter.VAR_KEYWORD for one in given):
            return names
    return names


@pytest.mark.parametrize("name", CATALOG)
def test_rows_fit_torchvision(name):
    entry = CATALOG[name]
    cls = getattr(datasets, entry.cls)
    assert name == entry.cls.lower()
    takes = parameters(cls)
    for arguments in (entry.train, entry.val, entry.test):
        assert set(arguments or ()) <= takes
    if not entry.by_hand:
        assert "download" in takes
    given = [arguments for arguments in (entry.train, entry.val, entry.test) if arguments]
    assert all(given.count(arguments) == 1 for arguments in given)  # no split twice
    assert entry.defaults.keys() <= {
        *("model", "optimizer", "settings", "batch_size", "epochs", "augment")
    }


@pytest.mark.parametrize("name", CATALOG)
def test_torchvision_takes_the_splits_of_every_row(name, tmp_path):
    """What is wrong is that nothing is there, and not an argument."""
    entry = CATALOG[name]
    for arguments in filter(None, (entry.train, entry.val, entry.test)):
        fetch = {} if entry.by_hand else {"download": False}
        with pytest.raises((RuntimeError, FileNotFoundError)):
            getattr(datasets, entry.cls)(tmp_path, **arguments, **fetch)


@pytest.mark.parametrize("name", CATALOG)
def test_not_there(name, tmp_path, monkeypatch):
    monkeypatch.setattr("lrtune.tasks.registry.find_spec", lambda name: True)
    by_hand = CATALOG[name].by_hand
    way_out = f"or get it from {by_hand}" if by_hand else "or --download to fetch it"
    for root in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError) as caught:
            DATASETS[name](TaskOptions(data_root=str(root)))
        says = f"{name}: not under {root}/: give --data-root, where it lies, {way_out}"
        assert str(caught.value) == says
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("name", CATALOG)
def test_cannot_be_fetched(name, tmp_path, monkeypatch):
    monkeypatch.setattr("lrtune.tasks.registry.find_spec", lambda name: True)
    by_hand = CATALOG[name].by_hand
    said = f"get it from {by_hand}" if by_hand else "cannot be fetched into"
    with pytest.raises(InputError, match=f"^{name}: .*{said}") as caught:
        DATASETS[name](TaskOptions(data_root=str(tmp_path), download=True))
    assert "\n" not in str(caught.value)
    assert "--data-root" in str(caught.value)


def test_a_module_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("lrtune.tasks.registry.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pcam: .* h5py: pip install"):
        DATASETS["pcam"](TaskOptions(data_root=str(tmp_path)))


def idx(array):
    """The format of MNIST: a magic number with the type and dimensions, the sizes, the bytes."""
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + array.astype(np.uint8).tobytes()


@pytest.fixture
def mnist(tmp_path):
    """scikit-learn's digits in the files of MNIST: 1,500 to train, 297 to test."""
    raw = load_digits()
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, part in (("train", slice(1500)), ("t10k", slice(1500, None))):
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(raw.images[part]))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(raw.target[part]))
    return tmp_path


def everything(split):
    return split if isinstance(split, Split) else take(split, range(split.samples))


@pytest.mark.parametrize(("memory", "kind"), [(None, Split), ("1KB", Stream)])
def test_mnist_from_its_files(memory, kind, mnist):
    raw = load_digits()
    data = DATASETS["mnist"](TaskOptions(data_root=str(mnist), memory=memory))
    assert (data.name, data.source, data.outputs, data.notes) == (
        *("mnist", "torchvision MNIST", 10, ()),
    )
    assert data.defaults == {"model": "cnn", "batch_size": 128, "epochs": 10.0}
    parts = {split: getattr(data, split) for split in SPLITS}
    assert all(isinstance(part, kind) for part in parts.values())
    assert [part.samples for part in parts.values()] == [1200, 300, 297]
    test = everything(parts["test"])
    assert test.inputs.shape == (297, 1, 8, 8)  # grey stays grey
    assert np.array_equal(test.inputs[:, 0].numpy(), raw.images[1500:])
    assert np.array_equal(test.targets.numpy(), raw.target[1500:])
    train = everything(parts["train"])
    prepared = data.prepare(train.inputs)
    assert abs(prepared.mean()) < 1e-5
    assert train.targets.bincount().min() >= 110  # in proportion


def test_image_size_of_a_catalog_set(mnist):
    data = DATASETS["mnist"](TaskOptions(data_root=str(mnist), image_size=16))
    assert data.train.inputs.shape[1:] == (1, 16, 16)
    assert data.notes == ("all images resized to 16x16 pixels",)


def test_broken_files_are_named(mnist):
    file = mnist / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"^mnist: cannot be read from .* fetch it again"):
        DATASETS["mnist"](TaskOptions(data_root=str(mnist)))


@pytest.mark.parametrize("memory", [None, "1KB"])
def test_labels_of_no_class_are_named(memory, mnist):
    file = mnist / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    file.write_bytes(file.read_bytes()[:-1] + bytes([77]))
    with pytest.raises(InputError, match="train: labels go from 0 to 77; 10 classes are numbered"):
        DATASETS["mnist"](TaskOptions(data_root=str(mnist), memory=memory))


def test_missing_labels_are_no_unreadable_images(mnist):
    file = mnist / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    file.write_bytes(idx(load_digits().target[:1400]))
    with pytest.raises(InputError, match=r"^mnist train: sample 14\d\d: IndexError: ") as caught:
        DATASETS["mnist"](TaskOptions(data_root=str(mnist), skip_bad=True))
    assert "\n" not in str(caught.value)


def test_classes_without_names_are_counted(tmp_path):
    """USPS tells no names; labels are numbered from 1 in its file."""
    raw = load_digits()
    for name, part in (("usps.bz2", slice(1500)), ("usps.t.bz2", slice(1500, None))):
        pixels = np.kron(raw.images[part], np.ones((2, 2))).reshape(-1, 256) / 8 - 1
        lines = (
            f"{y + 1} " + " ".join(f"{i + 1}:{x:g}" for i, x in enumerate(row))
            for y, row in zip(raw.target[part], pixels, strict=True)
        )
        (tmp_path / name).write_bytes(bz2.compress("\n".join(lines).encode()))
    data = DATASETS["usps"](TaskOptions(data_root=str(tmp_path)))
    assert data.outputs == 10
    assert data.test.inputs.shape == (297, 1, 16, 16)


@pytest.fixture
def caltech(tmp_path):
    """Files of two sizes, some of them grey, which torchvision opens and does not convert."""
    rng = np.random.default_rng(0)
    for name in ("BACKGROUND_Google", "ant", "bass"):
        folder = tmp_path / "caltech101" / "101_ObjectCategories" / name
        folder.mkdir(parents=True)
        for i in range(1, 31):
            size = (10, 12, 3) if i % 2 else (12, 10, 3)
            image = Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8))
            image.convert("L" if i > 27 else "RGB").save(folder / f"image_{i:04}.jpg")
    return tmp_path


def test_files_of_a_catalog_set_are_scanned(caltech):
    given = {"data_root": str(caltech)}
    with pytest.raises(
        InputError, match=r"caltech101 train: sample 1: 10x12 pixels, .*sample 0 12x"
    ):
        DATASETS["caltech101"](TaskOptions(**given))
    data = DATASETS["caltech101"](TaskOptions(**given, image_size=8))
    assert data.outputs == 2
    assert data.notes == (
        "6 of 60 images made RGB (L 6)",
        "all images resized to 8x8 pixels, and the centre cut out",
    )
    assert data.train.inputs.dtype == torch.uint8
    assert [getattr(data, split).samples for split in SPLITS] == [38, 10, 12]
    bad = caltech / "caltech101/101_ObjectCategories/ant/image_0003.jpg"
    bad.write_bytes(bad.read_bytes()[:-40])
    with pytest.raises(
        InputError, match=r"caltech101 train: sample 2: not a readable .*--skip-bad"
    ):
        DATASETS["caltech101"](TaskOptions(**given, image_size=8))
    data = DATASETS["caltech101"](TaskOptions(**given, image_size=8, skip_bad=True))
    assert data.notes[-1].startswith("1 of 60 images left out: cannot be read (first: caltech101")


def test_the_order_of_the_file_system_makes_no_other_split(tmp_path, monkeypatch):
    folder = tmp_path / "SUN397"
    names = ["/a/abbey", "/b/bar/indoor"]
    for number, name in enumerate(names):
        (folder / name[1:]).mkdir(parents=True)
        for i in range(25):
            shade = Image.new("L", (8, 8), 100 * number + i)
            shade.save(folder / name[1:] / f"sun_{i:02}.jpg", quality=100)
    (folder / "ClassName.txt").write_text("\n".join(names))
    paths = sorted(folder.rglob("sun_*.jpg"))
    found = []
    for listed in (paths, paths[::-1]):
        monkeypatch.setattr("pathlib.Path.rglob", lambda folder, pattern, listed=listed: listed)
        found.append(DATASETS["sun397"](TaskOptions(data_root=str(tmp_path))))
    shades = found[0].train.inputs[:, 0, 0, 0]
    assert found[0].outputs == 2
    assert torch.equal(found[0].train.targets, (shades >= 100).long())
    assert torch.equal(found[1].train.inputs, found[0].train.inputs)
