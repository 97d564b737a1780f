"""DATASETS: data by name, and image folders."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lrtune.errors import InputError
from lrtune.tasks.data import Data, split_size
from lrtune.tasks.models import Normalize
from lrtune.tasks.split import Split
from lrtune.tasks.tables import embedded


def digits(seed: int) -> Data:
    """scikit-learn's digits: 1,797 grey 8x8 images, 10 classes; needs no download."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    samples = Split(
        torch.from_numpy(raw.images).to(torch.uint8).unsqueeze(1),
        torch.from_numpy(raw.target).long(),
    )
    classes = tuple(str(c) for c in range(10))
    rest, test = _split(samples, seed, classes)
    train, val = _split(rest, seed, classes)
    return Data(
        name="digits",
        source="scikit-learn load_digits",
        train=train,
        val=val,
        test=test,
        classes=classes,
        prepare=_normalize(train.inputs),
        defaults={"model": "mlp", "batch_size": 32, "epochs": 20.0},
    )


DATASETS: dict[str, Callable[[int], Data]] = {
    "digits": digits,
    "breast_cancer": partial(embedded, "breast_cancer", "load_breast_cancer"),
    "diabetes": partial(embedded, "diabetes", "load_diabetes"),
    "wine": partial(embedded, "wine", "load_wine"),
}


def image_folder(root: Path, seed: int) -> Data:
    """Images in torchvision's ``ImageFolder`` layout.

    Args:
        root: holds ``train/CLASS/*`` and ``test/CLASS/*``, ``val/CLASS/*`` too where there is one;
            or ``CLASS/*`` alone, which is split in three.
        seed: of the splits that are made here, stratified by class.

    Raises:
        InputError: a split with other classes, an empty class, one class, an unreadable image.
    """
    parts = {name: root / name for name in ("train", "val", "test") if (root / name).is_dir()}
    if parts and "train" not in parts:
        raise InputError(
            f"{root}: has {'/ and '.join(parts)}/ but no train/: "
            "give train/CLASS/*, or CLASS/* alone to have it split"
        )
    beside = [name for name in _subfolders(root) if parts and name not in parts]
    if beside:
        raise InputError(f"{root}: {beside[0]}/ beside train/: expected train, val and test alone")
    train, classes = _read_folder(parts.get("train", root))
    splits = {"train": train}
    for name in parts.keys() - {"train"}:
        splits[name], theirs = _read_folder(parts[name])
        if theirs != classes:
            odd = sorted(set(theirs) ^ set(classes))
            raise InputError(
                f"{root}: train/ and {name}/ differ in their classes: "
                f"{odd[0]!r} is in one of them only"
            )
    for name in ("test", "val"):
        if name not in splits:
            splits["train"], splits[name] = _split(splits["train"], seed, classes)
    sizes = {tuple(split.inputs.shape[1:]) for split in splits.values()}
    if len(sizes) > 1:
        raise InputError(
            f"{root}: the splits differ in image size: {sorted(sizes)}: "
            "resize the images to one size"
        )
    return Data(
        name=root.resolve().name,
        source=f"image folder {root}",
        classes=classes,
        prepare=_normalize(splits["train"].inputs),
        defaults={"model": "cnn", "batch_size": 128, "epochs": 10.0},
        **splits,
    )


def _read_folder(folder: Path) -> tuple[Split, tuple[str, ...]]:
    """Every image under ``folder/CLASS/``, decoded: uint8 (n, 3, height, width)."""
    from torchvision.datasets import ImageFolder
    from torchvision.datasets.folder import IMG_EXTENSIONS

    def is_image(path: str) -> bool:
        return not Path(path).name.startswith(".") and path.lower().endswith(IMG_EXTENSIONS)

    classes = _subfolders(folder)
    if not classes:
        raise InputError(f"{folder}: holds no folders of images, one a class")
    if len(classes) < 2:
        raise InputError(f"{folder}: a single class ({classes[0]}): nothing to tell apart")
    numbers = {name: number for number, name in enumerate(classes)}
    try:
        samples = ImageFolder.make_dataset(str(folder), numbers, is_valid_file=is_image)
    except FileNotFoundError as error:
        raise InputError(f"{folder}: {str(error).splitlines()[0]}") from error
    with ThreadPoolExecutor() as pool:  # PIL decodes outside the interpreter lock
        images = list(pool.map(_read_image, (path for path, _ in samples), chunksize=256))
    for (path, _), image in zip(samples, images, strict=True):
        if image.shape != images[0].shape:
            raise InputError(
                f"{path}: {image.shape[1]}x{image.shape[0]} pixels, "
                f"{samples[0][0]} {images[0].shape[1]}x{images[0].shape[0]}: "
                "resize the images to one size"
            )
    inputs = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return Split(inputs, torch.tensor([number for _, number in samples])), tuple(classes)


def _subfolders(folder: Path) -> list[str]:
    """Names, sorted; hidden ones (.git, .ipynb_checkpoints) are no classes."""
    entries = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return sorted(entry.name for entry in entries if entry.is_dir())


def _read_image(path: str) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable image ({error}): mend or remove it") from error


def _split(samples: Split, seed: int, classes: tuple[str, ...]) -> tuple[Split, Split]:
    """Cut a part off, every class in proportion."""
    from sklearn.model_selection import train_test_split

    targets = samples.targets.numpy()
    rarest = int(np.bincount(targets).min())
    if rarest < 2:
        label = classes[int(np.bincount(targets).argmin())]
        raise InputError(
            f"class {label!r} has {rarest} sample(s) left: too few to split: "
            "add more, or bring val/ and test/ yourself"
        )
    try:
        keep, cut = train_test_split(
            np.arange(len(targets)),
            test_size=split_size(len(targets)),
            random_state=seed,
            stratify=targets,
        )
    except ValueError as error:
        raise InputError(
            f"the data cannot be split by class: {error}: "
            "add more samples, or bring val/ and test/ yourself"
        ) from error
    return _take(samples, keep), _take(samples, cut)


def _take(samples: Split, rows: NDArray[np.int64]) -> Split:
    index = torch.from_numpy(rows)
    return Split(samples.inputs[index], samples.targets[index])


def _normalize(images: Tensor) -> Normalize:
    """Zero mean and unit variance per channel, by the training images alone."""
    # In slices: a float64 copy of a large uint8 tensor would not fit.
    count = images.numel() / images.shape[1]
    total, squares = torch.zeros(2, images.shape[1], dtype=torch.float64)
    for part in images.split(4096):
        total += part.double().sum((0, 2, 3))
        squares += part.double().square().sum((0, 2, 3))
    mean, square = total / count, squares / count
    std = (square - mean**2).clamp_min(1e-12).sqrt()
    return Normalize(mean.float().view(-1, 1, 1), std.float().view(-1, 1, 1))
