"""DATASETS: data by name: those of scikit-learn, and torchvision's images with one class each.

Left out of torchvision: CelebA, PhotoTour, CLEVRClassification (no class), Omniglot, LFWPeople,
LFWPairs, LSUN (no test split with the classes of training), FakeData (noise).
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from lrtune.errors import InputError
from lrtune.tasks.images import Files, Source, check_classes, image_data, normalize
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

# Where torchvision lists the files in the order of the file system: paths in the place of images,
# to be sorted, lest a split that is cut off here be another one on another copy of the data.
PATHS: dict[str, Any] = {"loader": str}

# How torchvision says that files are missing, beside FileNotFoundError.
MISSING = ("not found", "does not exist", "not present")


class Entry(NamedTuple):
    """One of ``torchvision.datasets``: the class, and the arguments of each split that it has."""

    cls: str
    train: dict[str, Any] = {}  # noqa: RUF012  # read alone
    val: dict[str, Any] | None = None
    test: dict[str, Any] | None = None
    by_hand: str = ""  # where a person gets it; empty where torchvision fetches it
    needs: str = ""  # a module that torchvision's class imports beside its own
    defaults: dict[str, Any] = {}  # noqa: RUF012  # Task fields, where not those of any images
    mode: Literal["L", "RGB"] = "RGB"


def _split(
    train: str, val: str | None = None, test: str | None = None, **more: Any
) -> dict[str, Any]:
    names = {"train": train, "val": val, "test": test}
    return {split: {"split": name, **more} for split, name in names.items() if name is not None}


TRAIN_TEST: dict[str, Any] = {"train": {"train": True}, "test": {"train": False}}
GREY: dict[str, Any] = {**TRAIN_TEST, "mode": "L"}

CATALOG: dict[str, Entry] = {
    "caltech101": Entry("Caltech101"),
    "caltech256": Entry("Caltech256"),
    "cifar10": Entry("CIFAR10", **TRAIN_TEST, defaults=SMALL_PHOTOS),
    "cifar100": Entry("CIFAR100", **TRAIN_TEST, defaults=SMALL_PHOTOS),
    "country211": Entry("Country211", **_split("train", "valid", "test")),
    "dtd": Entry("DTD", **_split("train", "val", "test")),
    "emnist": Entry(
        "EMNIST",
        {"split": "balanced", "train": True},
        test={"split": "balanced", "train": False},
        mode="L",
    ),
    "eurosat": Entry("EuroSAT"),
    "fashionmnist": Entry("FashionMNIST", **GREY),
    "fer2013": Entry(
        "FER2013",
        **_split("train", test="test"),
        by_hand="kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-"
        "challenge",
        mode="L",
    ),
    "fgvcaircraft": Entry("FGVCAircraft", **_split("train", "val", "test")),
    "flowers102": Entry("Flowers102", **_split("train", "val", "test")),
    "food101": Entry("Food101", **_split("train", test="test")),
    "gtsrb": Entry("GTSRB", **_split("train", test="test")),
    "imagenet": Entry(
        "ImageNet",
        **_split("train", "val"),
        by_hand="image-net.org/challenges/LSVRC/2012/2012-downloads.php",
    ),
    "imagenette": Entry("Imagenette", **_split("train", "val")),
    "inaturalist": Entry(
        "INaturalist", {"version": "2021_train_mini", **PATHS}, {"version": "2021_valid", **PATHS}
    ),
    "kmnist": Entry("KMNIST", **GREY),
    "mnist": Entry("MNIST", **GREY),
    "oxfordiiitpet": Entry("OxfordIIITPet", **_split("trainval", test="test")),
    "pcam": Entry("PCAM", **_split("train", "val", "test"), needs="h5py"),
    "places365": Entry("Places365", **_split("train-standard", "val", small=True)),
    "qmnist": Entry("QMNIST", **GREY),
    "renderedsst2": Entry("RenderedSST2", **_split("train", "val", "test")),
    "semeion": Entry("SEMEION", mode="L"),
    "stanfordcars": Entry(
        "StanfordCars",
        **_split("train", test="test"),
        by_hand="github.com/pytorch/vision/issues/7545",
    ),
    "stl10": Entry("STL10", **_split("train", test="test")),
    "sun397": Entry("SUN397", PATHS),
    # Digits: a mirrored one is no digit.
    "svhn": Entry(
        "SVHN", **_split("train", test="test"), defaults={**SMALL_PHOTOS, "augment": ("crop",)}
    ),
    "usps": Entry("USPS", **GREY),
}


def torchvision_data(name: str, options: TaskOptions) -> Data:
    """A data set of the CATALOG.

    Args:
        name: of its row.
        options: ``data_root``, ``download``, and those of ``image_data``.

    Raises:
        InputError: where it is not there, cannot be fetched, or cannot be read.
    """
    entry = CATALOG[name]
    arguments = {"train": entry.train, "val": entry.val, "test": entry.test}
    datasets = {
        split: _open(name, entry, given, options)
        for split, given in arguments.items()
        if given is not None
    }
    classes = {split: names for split, data in datasets.items() if (names := _classes(data))}
    if "train" in classes:
        check_classes(name, classes)
    return image_data(
        name,
        f"torchvision {entry.cls}",
        {split: _source(dataset, f"{name} {split}") for split, dataset in datasets.items()},
        classes.get("train"),
        options,
        mode=entry.mode,
        defaults=entry.defaults,
    )


def _open(name: str, entry: Entry, given: dict[str, Any], options: TaskOptions) -> Any:
    from torchvision import datasets

    root = Path(options.data_root).expanduser()
    if entry.needs and find_spec(entry.needs) is None:
        raise InputError(f"{name}: torchvision reads it with {entry.needs}: pip install it")
    if entry.by_hand and options.download:
        raise InputError(
            f"{name}: torchvision does not fetch it: get it from {entry.by_hand}, "
            "give --data-root, where it lies, and leave --download out"
        )
    way_out = f"or get it from {entry.by_hand}" if entry.by_hand else "or --download to fetch it"
    not_there = f"{name}: not under {root}/: give --data-root, where it lies, {way_out}"
    if not options.download and not root.is_dir():
        raise InputError(not_there)  # some of torchvision's classes would make the folder
    fetch = {} if entry.by_hand else {"download": options.download}
    try:
        return getattr(datasets, entry.cls)(root, **given, **fetch)
    except Exception as error:  # whatever the network, a server, an archive or a file can do
        message = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if options.download:
            raise InputError(
                f"{name}: cannot be fetched into {root}/: {message}: look at the network and the "
                "disk, or get it elsewhere and give --data-root"
            ) from error
        if isinstance(error, FileNotFoundError) or any(words in message for words in MISSING):
            raise InputError(not_there) from error
        raise InputError(
            f"{name}: cannot be read from {root}/: {message}: remove it there and fetch it again"
        ) from error


def _source(dataset: Any, name: str) -> Source:
    if getattr(dataset, "loader", None) is not PATHS["loader"]:
        return Source(dataset, name, f"{name}: sample {{}}".format)
    pairs = sorted(dataset[row] for row in range(len(dataset)))
    files = Files([path for path, _ in pairs], [label for _, label in pairs])
    return Source(files, name, files.where)


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
    whole = Split(
        torch.from_numpy(raw.images).to(torch.uint8).unsqueeze(1),
        torch.from_numpy(raw.target).long(),
    )
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


DATASETS: dict[str, Dataset] = {
    "digits": Dataset("scikit-learn's digits", digits),
    **{
        name: Dataset("a table", partial(sklearn_table, name))
        for name in ("breast_cancer", "diabetes", "wine")
    },
    **{
        name: Dataset("a data set of torchvision", partial(torchvision_data, name))
        for name in CATALOG
    },
}
