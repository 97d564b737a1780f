"""Images with labels: read as uint8 tensors, from folders too; and augmented in training."""

import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lrtune.errors import InputError, nearest
from lrtune.tasks.models import Normalize
from lrtune.tasks.options import TaskOptions
from lrtune.tasks.splits import Data, Split, Stream, check_labels, three_splits
from lrtune.tasks.stream import BadSample, hold, parse_size, room, sample_batches
from lrtune.tasks.text import slug

DEFAULTS: dict[str, Any] = {"model": "cnn", "batch_size": 128, "epochs": 10.0}
SPLITS = ("train", "val", "test")
MEASURED = 10_000  # samples of a Stream that the statistics are taken from
AT_ONCE = 16 << 20  # bytes of a Split
# What PIL raises for a broken file: it depends on the format, and on how far PIL got.
UNREADABLE = (
    *(OSError, ValueError, SyntaxError, EOFError, OverflowError, struct.error),
    Image.DecompressionBombError,
)


class Files(Dataset[tuple[Image.Image, int]]):
    """Image files, opened and not yet decoded."""

    def __init__(self, samples: Sequence[tuple[str, int]]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        path, label = self._samples[row]
        if not os.path.isfile(path):  # a pipe would wait for whoever writes to it
            raise OSError("no regular file")
        return Image.open(path), label

    def where(self, row: int) -> str:
        """The file."""
        return self._samples[row][0]


@dataclass(frozen=True, slots=True)
class Images(Dataset[tuple[Tensor, int]]):
    """Images of one form: ``images[row]`` -> uint8 (channels, height, width), label.

    Raises:
        BadSample: by an image that cannot be read.
        InputError: by an image of another size, or of more than 8 bits.
    """

    dataset: Any  # map-style: ``dataset[row]`` -> PIL image, label
    name: str  # of the split, for errors
    where: Callable[[int], str]  # what an error calls a row
    mode: Literal["L", "RGB"] = "RGB"  # one channel, or three
    side: int | None = None  # pixels of the shorter side, then the centre is cut out; None: as is
    like: tuple[str, tuple[int, int]] | None = None  # an image whose (width, height) all must have

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

        where = self.where(row)
        with _readable(where, *UNREADABLE):  # an IndexError is the data set's: too few labels
            image, label = self.dataset[row]
        with image:
            if image.mode.startswith(("I", "F")):  # PIL would clip: nearly all would be white
                raise InputError(
                    f"{where}: more than 8 bits per channel (mode {image.mode}): save the images "
                    "with 8 bits"
                )
            if self.like is not None and image.size != self.like[1]:
                size, expected = ("{}x{}".format(*each) for each in (image.size, self.like[1]))
                raise InputError(
                    f"{where}: {size} pixels, {self.like[0]} {expected}: resize the images to one "
                    "size, or give --image-size N"
                )
            with _readable(where, *UNREADABLE, IndexError):
                if image.mode == "P" and "transparency" in image.info:
                    image = image.convert("RGBA")  # PIL warns of the direct way
                image = image.convert(self.mode)
                if self.side is not None and image.size != (self.side, self.side):
                    image = center_crop(resize(image, [self.side]), [self.side])
                return pil_to_tensor(image).contiguous(), int(label)


@contextmanager
def _readable(where: str, *unreadable: type[Exception]) -> Iterator[None]:
    try:
        yield
    except unreadable as error:
        message = " ".join(str(error).split())
        raise BadSample(f"{where}: not a readable image ({message})") from error


def _first_size(images: Images) -> tuple[str, tuple[int, int]] | None:
    """An image and its size; what cannot be read is left to the pass that reads all."""
    for row in range(len(images)):
        try:
            image, _ = images.dataset[row]
        except Exception:  # of the image or of the data set
            continue
        with image:
            return images.where(row), image.size
    return None


def image_folder(root: Path, options: TaskOptions) -> Data:
    """Images in torchvision's ``ImageFolder`` layout, as RGB.

    The root holds ``train/CLASS/*`` and ``test/CLASS/*``, ``val/CLASS/*`` too where there is one;
    or ``CLASS/*`` alone, which is split in three.

    Raises:
        InputError: a split with other classes, an empty class, one class, an unreadable image,
            images of different sizes or of more than 8 bits.
    """
    folders = {name: root / name for name in SPLITS if (root / name).is_dir()}
    if folders and "train" not in folders:
        there = "/ and ".join(folders)
        raise InputError(f"{root}: {there}/, no train/: give train/CLASS/*, or CLASS/* alone")
    beside = [name for name in _subfolders(root) if folders and name not in folders]
    if beside:
        raise InputError(f"{root}: {beside[0]}/ beside train/: expected train, val and test alone")
    folders = folders or {"train": root}
    classes = {name: _classes(folder) for name, folder in folders.items()}
    others = Counter[str]()
    files = {name: _files(folder, classes[name], others) for name, folder in folders.items()}
    check_classes(str(root), classes)
    data = image_data(
        slug(root.resolve().name),
        f"image folder {root}",
        {name: Images(files[name], str(folders[name]), files[name].where) for name in folders},
        classes["train"],
        options,
    )
    if not others:
        return data
    are = "file" if others.total() == 1 else "files"
    note = f"{others.total():,} other {are} left out ({', '.join(sorted(others))})"
    return replace(data, notes=(note, *data.notes))


def image_data(
    name: str,
    source: str,
    images: dict[str, Images],
    classes: Sequence[str] | None,
    options: TaskOptions,
    defaults: dict[str, Any] | None = None,
) -> Data:
    """Read the splits that there are, and cut the others off the training split.

    There are images of train, and of val and test where it has them; there are as many classes as
    labels where None are named.

    Raises:
        InputError: an unreadable image, a class without a readable one, a label of no class,
            images of different sizes or of more than 8 bits.
    """
    side = options.image_size
    like = _first_size(images["train"]) if side is None else None
    images = {split: replace(each, side=side, like=like) for split, each in images.items()}
    held, bad = _hold_all(images, options)
    outputs = len(classes) if classes else 1 + max(int(_labels(s).max()) for s in held.values())
    if bad:
        _check_classes_left(images, held, classes or list(map(str, range(outputs))))
    check_labels(name, outputs, held)
    splits = three_splits(images["train"].name, held, options.seed, classes or ())
    notes = []
    if bad:
        count = sum(map(len, images.values()))
        notes.append(f"{len(bad):,} of {count:,} images left out: cannot be read (first: {bad[0]})")
    return Data(
        *splits,
        name=name,
        source=source,
        kind="classification",
        outputs=outputs,
        prepare=normalize(splits[0]),
        defaults=DEFAULTS | (defaults or {}),
        notes=tuple(notes),
    )


def check_classes(source: str, classes: dict[str, list[str]]) -> None:
    """Refuse splits whose classes differ."""
    for split, names in classes.items():
        odd = sorted(set(names) ^ set(classes["train"]))
        if odd:
            raise InputError(f"{source}: class {odd[0]!r} is in one of train/ and {split}/ only")


def normalize(train: Split | Stream) -> Normalize:
    """Zero mean and unit variance per channel, by the training images alone (uint8)."""
    if isinstance(train, Split):
        rows = max(1, AT_ONCE // train.sample_bytes)
        starts = range(0, train.samples, rows)
        parts: Iterator[Tensor] = (train.part(start, start + rows).inputs for start in starts)
    else:
        parts = sample_batches(train, MEASURED)
    counts = torch.zeros(1, 256, dtype=torch.int64)  # (channels, values): exact, and small
    for inputs in parts:
        channels = inputs.unbind(1)
        counts = counts + torch.stack([c.flatten().bincount(minlength=256) for c in channels])
    values = torch.arange(256, dtype=torch.float64)
    share = counts / counts.sum(1, keepdim=True, dtype=torch.float64)
    mean = share @ values
    std = (share * (values - mean[:, None]).square()).sum(1).clamp_min(1e-12).sqrt()
    return Normalize(mean.float().view(-1, 1, 1), std.float().view(-1, 1, 1))


def _hold_all(
    images: Mapping[str, Images], options: TaskOptions
) -> tuple[dict[str, Split | Stream], list[str]]:
    """All splits within one limit, the small ones first: they are read most often."""
    limit = None if options.memory is None else parse_size(options.memory)
    left = room(torch.device("cpu"), limit)
    held: dict[str, Split | Stream] = {}
    bad: list[str] = []
    for name in sorted(images, key=("val", "test", "train").index):
        if name == "train" and len(images) < len(SPLITS):
            left //= 2  # to cut a split in memory is to copy it
        one = images[name]
        held[name], bad_here = hold(one.name, one, left, skip_bad=options.skip_bad)
        bad += bad_here
        if isinstance(held[name], Split):
            left -= held[name].samples * held[name].sample_bytes
    return {name: held[name] for name in images}, bad


def _check_classes_left(
    images: dict[str, Images], held: dict[str, Split | Stream], classes: Sequence[str]
) -> None:
    """Refuse to leave out all images of a class."""
    for split, samples in held.items():
        present = set(_labels(samples).tolist())
        lost = [name for number, name in enumerate(classes) if number not in present]
        if lost:
            name = images[split].name
            raise InputError(f"{name}: class {lost[0]!r} has no readable image: mend or remove it")


def _labels(split: Split | Stream) -> Tensor:
    assert split.labels is not None  # an image's label is a whole number
    return split.labels


def _files(folder: Path, classes: list[str], others: Counter[str]) -> Files:
    """The images of a split; the files that are none, hidden ones apart, are added to others."""
    from torchvision.datasets import ImageFolder
    from torchvision.datasets.folder import IMG_EXTENSIONS

    def is_image(path: str) -> bool:
        if any(name.startswith(".") for name in Path(path).relative_to(folder).parts):
            return False
        if path.lower().endswith(IMG_EXTENSIONS):
            return True
        others[Path(path).suffix.lower() or "no extension"] += 1
        return False

    numbers = {name: number for number, name in enumerate(classes)}
    samples = ImageFolder.make_dataset(
        str(folder), numbers, is_valid_file=is_image, allow_empty=True
    )
    empty = sorted(set(classes) - {classes[label] for _, label in samples})
    if empty:
        known = ", ".join(IMG_EXTENSIONS)
        raise InputError(f"{folder}: class {empty[0]!r} holds no images: expected files in {known}")
    return Files(samples)


def _classes(folder: Path) -> list[str]:
    classes = _subfolders(folder)
    if not classes:
        raise InputError(f"{folder}: holds no folders of images, one per class")
    if len(classes) < 2:
        raise InputError(f"{folder}: a single class ({classes[0]}): nothing to tell apart")
    return classes


def _subfolders(folder: Path) -> list[str]:
    """Names, sorted; hidden ones (.git, .ipynb_checkpoints) are no classes."""
    entries = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return sorted(entry.name for entry in entries if entry.is_dir())


# Augmentation of a batch on its device, by numbers that were drawn before, on the host: as rules of
# those alone, they can run for many trials at once and in a captured graph. torchvision's
# transforms draw once per batch; here each image has numbers of its own.


def flip(inputs: Tensor, numbers: Tensor) -> Tensor:
    """Each image mirrored left to right with probability 1/2."""
    return torch.where(numbers[..., None, None] < 0.5, inputs.flip(-1), inputs)


def crop(inputs: Tensor, numbers: Tensor) -> Tensor:
    """A random window of each image padded by reflection, an eighth of the side on each side."""
    height, width = inputs.shape[2:]
    rows, columns = _window(numbers[:, :1], height), _window(numbers[:, 1:], width)
    pixels = rows[:, :, None] * width + columns[:, None, :]  # (n, height, width)
    index = pixels.flatten(1)[:, None].expand(-1, inputs.shape[1], -1)
    return inputs.flatten(2).gather(2, index).view(inputs.shape)


def cutout(inputs: Tensor, numbers: Tensor) -> Tensor:
    """A square of a quarter of the shorter side, wholly inside each image, set to 0: the mean."""
    height, width = inputs.shape[2:]
    side = max(1, min(height, width) // 4)
    rows, columns = _span(numbers[:, :1], height, side), _span(numbers[:, 1:], width, side)
    return inputs.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)


AUGMENTATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "flip": flip,
    "crop": crop,
    "cutout": cutout,
}
MIXUP_ALPHA = 0.2  # Zhang et al., "mixup: Beyond Empirical Risk Minimization" (2017), on ImageNet
NUMBERS = {"flip": 1, "crop": 2, "cutout": 2, "mixup": 1}  # that each takes per image
NAMES = tuple(NUMBERS)


def draw(
    names: tuple[str, ...], generator: np.random.Generator, updates: int, count: int
) -> NDArray[np.float32]:
    """What ``augment`` takes for some updates on ``count`` images: (updates, count, numbers).

    Uniform in [0, 1), for they know no size of an image; for mixup, which takes the first image's
    alone, from Beta(0.2, 0.2).
    """
    whole = sum(map(NUMBERS.__getitem__, names))
    numbers = generator.random((updates, count, whole), dtype=np.float32)
    if "mixup" in names:
        column = sum(map(NUMBERS.__getitem__, names[: names.index("mixup")]))
        numbers[..., column] = generator.beta(MIXUP_ALPHA, MIXUP_ALPHA, (updates, 1))
    return numbers


def augment(
    names: tuple[str, ...],  # as ``check_augment`` passes them
    inputs: Tensor,  # float (n, channels, height, width), normalised: 0 is the mean
    targets: Tensor,  # (n, ...)
    numbers: Tensor,  # float32 (n, numbers), see ``draw``
) -> tuple[Tensor, list[tuple[Tensor | float, Tensor]]]:
    """Augment a batch in the order of NAMES given, never in place.

    ``mixup`` mixes each sample with its neighbour in the (shuffled) batch, in one proportion per
    batch.

    Returns:
        The inputs, alike, and pairs (weight, targets): the loss of the batch is the sum of the
        losses against each, so weighted. The weights sum to 1.
    """
    weighted: list[tuple[Tensor | float, Tensor]] = [(1.0, targets)]
    for name, own in zip(names, numbers.split([NUMBERS[name] for name in names], 1), strict=True):
        if name == "mixup":
            kept = own[0, 0]
            inputs = inputs.roll(1, 0).lerp(inputs, kept.to(inputs.dtype))
            weighted = [(kept, targets), (1 - kept, targets.roll(1, 0))]
        else:
            inputs = AUGMENTATIONS[name](inputs, own)
    return inputs, weighted


def check_augment(names: tuple[str, ...], shape: tuple[int, ...]) -> None:
    """Refuse names that ``augment`` cannot apply to samples of this shape."""
    for name in names:
        if name not in NAMES:
            hint = nearest(name, NAMES)
            raise InputError(f"augment {name!r}: one of {', '.join(NAMES)}{hint}")
        if names.count(name) > 1:
            raise InputError(f"augment {name!r}: given {names.count(name)} times")
        if len(shape) != 3:
            raise InputError(f"augment {name!r}: takes images, not samples of {shape}")


def _window(numbers: Tensor, side: int) -> Tensor:
    """Which of the pixels 0 .. side - 1 each pixel of a shifted window shows: (n, side)."""
    pad = side // 8
    start = (numbers * (2 * pad + 1)).long() - pad  # (n, 1)
    shown = torch.arange(side, device=numbers.device) + start
    last = side - 1
    return last - (last - shown.abs()).abs()


def _span(numbers: Tensor, side: int, length: int) -> Tensor:
    """A random stretch of the pixels 0 .. side - 1: bool (n, side)."""
    start = (numbers * (side - length + 1)).long()  # (n, 1)
    pixels = torch.arange(side, device=numbers.device)
    return (pixels >= start) & (pixels < start + length)
