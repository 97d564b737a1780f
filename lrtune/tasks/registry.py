"""DATASETS: data by name: those of scikit-learn, and torchvision's images with one class each.

Left out of torchvision is what it does not fetch (ImageNet, FER2013, StanfordCars), what has no
class per image or no test split with the classes of training, FakeData (noise), and what it lists
in the order of the file system, so that a split is another one on another copy (INaturalist,
SUN397). A folder of images takes what lies on the disk.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from lrtune.errors import InputError, described
from lrtune.tasks.images import Images, check_classes, image_data, normalize
from lrtune.tasks.options import TaskOptions
from lrtune.tasks.splits import Data, Split, three_splits
from lrtune.tasks.tables import sklearn_table

# The recipe of the model: David Page, "How to train your ResNet" (2018).
SMALL_PHOTOS: dict[str, Any] = {
    "model": "resnet9",
    "optimizer": "nesterov",
    "settings": {"momentum": 0.9, "weight_decay": 5e-4},
    "batch_size": 512,
    "epochs": 24.0,
    "augment": ("flip", "crop"),
}

# How torchvision says that files are missing, beside FileNotFoundError.
MISSING = ("not found", "does not exist", "not present")


class Entry(NamedTuple):
    """One of ``torchvision.datasets``: the class, and its arguments for each split it has."""

    cls: str
    splits: dict[str, dict[str, Any]]
    defaults: dict[str, Any] | None = None  # Task fields, where not those of any images
    mode: Literal["L", "RGB"] = "RGB"


def _named(train: str, val: str | None, test: str | None, **more: Any) -> dict[str, dict[str, Any]]:
    names = {"train": train, "val": val, "test": test}
    return {split: {"split": name, **more} for split, name in names.items() if name is not None}


WHOLE: dict[str, dict[str, Any]] = {"train": {}}
TRAIN_TEST: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
BALANCED = {split: {"split": "balanced", **given} for split, given in TRAIN_TEST.items()}

ENTRIES = (
    Entry("Caltech101", WHOLE),
    Entry("Caltech256", WHOLE),
    Entry("CIFAR10", TRAIN_TEST, SMALL_PHOTOS),
    Entry("CIFAR100", TRAIN_TEST, SMALL_PHOTOS),
    Entry("Country211", _named("train", "valid", "test")),
    Entry("DTD", _named("train", "val", "test")),
    Entry("EMNIST", BALANCED, mode="L"),
    Entry("EuroSAT", WHOLE),
    Entry("FashionMNIST", TRAIN_TEST, mode="L"),
    Entry("FGVCAircraft", _named("train", "val", "test")),
    Entry("Flowers102", _named("train", "val", "test")),
    Entry("Food101", _named("train", None, "test")),
    Entry("GTSRB", _named("train", None, "test")),
    Entry("Imagenette", _named("train", "val", None)),
    Entry("KMNIST", TRAIN_TEST, mode="L"),
    Entry("MNIST", TRAIN_TEST, mode="L"),
    Entry("OxfordIIITPet", _named("trainval", None, "test")),
    Entry("PCAM", _named("train", "val", "test")),
    Entry("Places365", _named("train-standard", "val", None, small=True)),
    Entry("QMNIST", TRAIN_TEST, mode="L"),
    Entry("RenderedSST2", _named("train", "val", "test")),
    Entry("SEMEION", WHOLE, mode="L"),
    Entry("STL10", _named("train", None, "test")),
    # Digits: a mirrored one is no digit.
    Entry("SVHN", _named("train", None, "test"), {**SMALL_PHOTOS, "augment": ("crop",)}),
    Entry("USPS", TRAIN_TEST, mode="L"),
)
CATALOG = {entry.cls.lower(): entry for entry in ENTRIES}


def torchvision_data(name: str, options: TaskOptions) -> Data:
    """A data set of the CATALOG.

    Raises:
        InputError: where it is not there, cannot be fetched, or cannot be read.
    """
    entry = CATALOG[name]
    datasets = {
        split: _open(name, entry.cls, each, options) for split, each in entry.splits.items()
    }
    classes = {split: names for split, data in datasets.items() if (names := _classes(data))}
    if classes:
        check_classes(name, classes)
    images = {
        split: Images(data, f"{name} {split}", f"{name} {split}: sample {{}}".format, entry.mode)
        for split, data in datasets.items()
    }
    source = f"torchvision {entry.cls}"
    return image_data(name, source, images, classes.get("train"), options, entry.defaults)


def _open(name: str, cls: str, given: dict[str, Any], options: TaskOptions) -> Any:
    from torchvision import datasets

    root = Path(options.data_root).expanduser()
    missing = InputError(
        f"{name}: not under {root}/: give --data-root, where it lies, or --download to fetch it"
    )
    if not options.download and not root.is_dir():
        raise missing  # some of torchvision's classes would make the folder
    try:
        return getattr(datasets, cls)(root, **given, download=options.download)
    except Exception as error:  # whatever the network, a server, an archive or a file can do
        message = described(error)
        if "pip install" in message:
            raise InputError(f"{name}: {message}") from error
        if options.download:
            raise InputError(
                f"{name}: cannot be fetched into {root}/: {message}: look at the network and the "
                "disk, or get it elsewhere and give --data-root"
            ) from error
        if isinstance(error, FileNotFoundError) or any(words in message for words in MISSING):
            raise missing from error
        raise InputError(
            f"{name}: cannot be read from {root}/: {message}: remove it there and fetch it again"
        ) from error


def _classes(dataset: Any) -> list[str] | None:
    """Names, where torchvision tells them; under three different attributes."""
    for attribute in ("classes", "categories", "all_categories"):
        if names := getattr(dataset, attribute, None):
            return [str(name) for name in names]
    return None


def digits(options: TaskOptions) -> Data:
    """scikit-learn's digits: 1,797 grey 8x8 images, 10 classes; needs no download."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.from_numpy(raw.images).to(torch.uint8).unsqueeze(1)
    whole = Split(images, torch.from_numpy(raw.target).long())
    splits = three_splits("digits", {"train": whole}, options.seed, raw.target_names.astype(str))
    return Data(
        *splits,
        name="digits",
        source="scikit-learn load_digits",
        kind="classification",
        outputs=len(raw.target_names),
        prepare=normalize(splits[0]),
        defaults={"model": "mlp", "batch_size": 4, "epochs": 3.0},
    )


class Dataset(NamedTuple):
    """Data by name: what it is, as errors call it, and how it is read."""

    kind: str
    read: Callable[[TaskOptions], Data]


TABLES = ("breast_cancer", "diabetes", "wine")
DATASETS = {
    "digits": Dataset("scikit-learn's digits", digits),
    **{name: Dataset("a table", partial(sklearn_table, name)) for name in TABLES},
    **{
        name: Dataset("a data set of torchvision", partial(torchvision_data, name))
        for name in CATALOG
    },
}
