"""CATALOG: torchvision's data sets of images with one class each, by name.

Of torchvision's other data sets of images with labels, these are left out: CelebA (40 attributes,
no class), Omniglot, LFWPeople and LFWPairs (their test split has other classes), PhotoTour
(patches in pairs), CLEVRClassification (counts of objects, and none in its test split), FakeData
(noise), and LSUN (a class is a database file, and none is labelled in its test split). The rest
hold boxes, masks, captions, flows, depths or videos.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from lrtune.errors import InputError
from lrtune.tasks.data import Data
from lrtune.tasks.images import check_classes, image_data
from lrtune.tasks.options import TaskOptions
from lrtune.tasks.pictures import Files, Source

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
    """One of ``torchvision.datasets``.

    Attributes:
        cls: its name there.
        train: arguments of the training split; of all where there is no other split.
        val: of the validation split; None where there is none with labels.
        test: of the test split; None where there is none with labels.
        by_hand: where a person gets it; empty where torchvision fetches it.
        needs: a module that torchvision's class imports beside its own.
        defaults: Task fields that suit it, where they differ from those of any images.
    """

    cls: str
    train: dict[str, Any] = {}  # noqa: RUF012  # read alone
    val: dict[str, Any] | None = None
    test: dict[str, Any] | None = None
    by_hand: str = ""
    needs: str = ""
    defaults: dict[str, Any] = {}  # noqa: RUF012


def _split(
    train: str, val: str | None = None, test: str | None = None, **more: Any
) -> dict[str, Any]:
    """The three splits as ``split=`` of the class, with what it takes beside."""
    names = {"train": train, "val": val, "test": test}
    return {part: {"split": one, **more} for part, one in names.items() if one is not None}


TRAIN_TEST: dict[str, Any] = {"train": {"train": True}, "test": {"train": False}}

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
    ),
    "eurosat": Entry("EuroSAT"),
    "fashionmnist": Entry("FashionMNIST", **TRAIN_TEST),
    "fer2013": Entry(
        "FER2013",
        **_split("train", test="test"),
        by_hand="kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-"
        "challenge",
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
    "kmnist": Entry("KMNIST", **TRAIN_TEST),
    "mnist": Entry("MNIST", **TRAIN_TEST),
    "oxfordiiitpet": Entry("OxfordIIITPet", **_split("trainval", test="test")),
    "pcam": Entry("PCAM", **_split("train", "val", "test"), needs="h5py"),
    "places365": Entry("Places365", **_split("train-standard", "val", small=True)),
    "qmnist": Entry("QMNIST", **TRAIN_TEST),
    "renderedsst2": Entry("RenderedSST2", **_split("train", "val", "test")),
    "semeion": Entry("SEMEION"),
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
    "usps": Entry("USPS", **TRAIN_TEST),
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
        part: _open(name, entry, given, options)
        for part, given in arguments.items()
        if given is not None
    }
    classes = {part: _classes(dataset) for part, dataset in datasets.items()}
    named = {part: theirs for part, theirs in classes.items() if theirs is not None}
    if "train" in named:
        check_classes(name, named)
    sources = {part: _source(dataset, f"{name} {part}") for part, dataset in datasets.items()}
    return image_data(
        name,
        f"torchvision {entry.cls}",
        sources,
        classes["train"],
        options,
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
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if options.download:
            raise InputError(
                f"{name}: cannot be fetched into {root}/: {said}: look at the network and the "
                "disk, or get it elsewhere and give --data-root"
            ) from error
        if isinstance(error, FileNotFoundError) or any(words in said for words in MISSING):
            raise InputError(not_there) from error
        raise InputError(
            f"{name}: cannot be read from {root}/: {said}: remove it there and fetch it again"
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
