"""Images with labels, as PIL reads them: their headers, and their pixels as uint8 tensors."""

import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFile
from torch import Tensor
from torch.utils.data import Dataset

from lrtune.errors import InputError
from lrtune.tasks.reading import BadSample
from lrtune.tasks.split import batches, spread

Mode = Literal["L", "RGB"]

PEEKED = 64  # images that are looked at, where a look means decoding
# What PIL raises for a broken file: it depends on the format, and on how far PIL got.
UNREADABLE = (
    *(OSError, ValueError, SyntaxError, EOFError, OverflowError, struct.error),
    Image.DecompressionBombError,
)


class Files(Dataset[tuple[Image.Image, int]]):
    """Image files, opened and not yet decoded."""

    def __init__(self, paths: Sequence[str], labels: Sequence[int]) -> None:
        self._paths, self._labels = paths, labels

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        return Image.open(self._paths[row]), self._labels[row]

    def where(self, row: int) -> str:
        """The file."""
        return self._paths[row]


class Source(NamedTuple):
    """The images of one split, before they are brought to one form."""

    dataset: Any  # map-style: dataset[row] -> (PIL image, label)
    name: str  # for errors
    where: Callable[[int], str]  # what an error calls a row


class Header(NamedTuple):
    """What an image says of itself."""

    mode: str  # as PIL names them
    size: tuple[int, int]  # width, height
    of_file: bool  # opened, not decoded


@dataclass(frozen=True, slots=True)
class Images(Dataset[tuple[Tensor, int]]):
    """Images of one form: ``images[row]`` -> uint8 (channels, height, width), label.

    Attributes:
        source: where they come from.
        mode: L for one channel, RGB for three.
        side: the shorter side is brought to so many pixels, then the centre cut out; as they are
            where None.
        like: the size that all should have, and which image has it; not looked at where None.

    Raises:
        BadSample: by an image that cannot be read.
        InputError: by an image of another size.
    """

    source: Source
    mode: Mode = "RGB"
    side: int | None = None
    like: tuple[tuple[int, int], str] | None = None

    def __len__(self) -> int:
        return len(self.source.dataset)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        where = self.source.where(row)
        with _readable(where, *UNREADABLE):  # an IndexError is the data set's: too few labels
            image, label = self.source.dataset[row]
        with _readable(where, *UNREADABLE, IndexError), image:
            one = _fit(_convert(image, self.mode), self.side)
            pixels = np.atleast_3d(np.array(one))
        if self.like is not None:
            check_size(where, one.size, *self.like)
        tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        return tensor, int(label)


def check_size(where: str, size: tuple[int, int], expected: tuple[int, int], first: str) -> None:
    """Refuse an image of another size than the first one's."""
    if size != expected:
        raise InputError(
            f"{where}: {size[0]}x{size[1]} pixels, {first} {expected[0]}x{expected[1]}: "
            "resize the images to one size, or give --image-size N"
        )


def check_depth(where: str, mode: str) -> None:
    """Refuse what PIL would clip to 8 bits: nearly all of it would be white."""
    if mode.startswith(("I", "F")):
        raise InputError(
            f"{where}: more than 8 bits a channel (mode {mode}): save the images with 8 bits"
        )


def headers(dataset: Any) -> dict[int, Header]:
    """Mode and size by row: of all where images are opened alone, of a few where decoded.

    What cannot be read is left to the pass that decodes.
    """
    few = _headers(dataset, spread(len(dataset), PEEKED).tolist())
    return _headers(dataset, range(len(dataset))) if any(h.of_file for h in few.values()) else few


@contextmanager
def _readable(where: str, *unreadable: type[Exception]) -> Iterator[None]:
    try:
        yield
    except unreadable as error:
        said = " ".join(str(error).split())
        raise BadSample(f"{where}: not a readable image ({said})") from error


def _headers(dataset: Any, rows: Sequence[int]) -> dict[int, Header]:
    def look(some: list[int]) -> list[Header | None]:
        return [_header(dataset, rows[i]) for i in some]

    # Threads: a header's time is the disk's, or the network's. A few at a time: handing one image
    # to a thread takes as long as its header.
    with ThreadPoolExecutor() as pool:
        found = chain.from_iterable(pool.map(look, batches(len(rows), PEEKED)))
        return {row: header for row, header in zip(rows, found, strict=True) if header is not None}


def _header(dataset: Any, row: int) -> Header | None:
    try:
        image, _ = dataset[row]
    except Exception:  # of the image or of the data set: the pass that decodes says which
        return None
    with image:
        return Header(image.mode, image.size, isinstance(image, ImageFile.ImageFile))


def _convert(image: Image.Image, mode: Mode) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # PIL warns of the direct way
    return image if image.mode == mode else image.convert(mode)


def _fit(image: Image.Image, side: int | None) -> Image.Image:
    """As torchvision's Resize and CenterCrop: bilinear, antialiased."""
    if side is None or image.size == (side, side):
        return image
    from torchvision.transforms import functional

    fitted: Image.Image = functional.center_crop(functional.resize(image, [side]), [side])
    return fitted
