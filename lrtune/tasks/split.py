"""Split and Stream: samples with their targets, in memory or read batch by batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lrtune.errors import InputError
from lrtune.tasks.tree import Tree, leaves, tree_map

Hashes = NDArray[np.uint64]
Rows = NDArray[np.int64]

HASHED_AT_ONCE = 64 << 20  # bytes
STIR = np.uint64(0xFF51AFD7ED558CCD)  # of MurmurHash3's finalizer


class Split(NamedTuple):
    """Samples and their targets in memory, along the first dimension of every tensor."""

    inputs: Tree  # tensors (n, ...), any dtype
    targets: Tree  # tensors (n, ...)

    @property
    def samples(self) -> int:
        """How many."""
        return len(next(leaves(self)))

    @property
    def first(self) -> "Split":
        """The first sample, as a batch of one."""
        return self.part(0, 1)

    @property
    def sample_bytes(self) -> int:
        """Of one sample with its target."""
        return sum(leaf.nbytes for leaf in leaves(self.first))

    @property
    def hashes(self) -> Hashes:
        """uint64 (n,): see row_hashes."""
        rows = max(1, HASHED_AT_ONCE // max(1, self.sample_bytes))
        starts = range(0, self.samples, rows)
        return np.concatenate([row_hashes(self.part(start, start + rows)) for start in starts])

    @property
    def labels(self) -> Tensor | None:
        """The targets where each is one whole number or a row of them, else None."""
        one = self.targets
        return one if isinstance(one, Tensor) and not one.is_floating_point() else None

    def take(self, rows: Any) -> "Split":
        """The samples of these rows: a list or an index tensor."""
        index = torch.as_tensor(rows)
        flat = index.flatten()

        def taken(tensor: Tensor) -> Tensor:  # up to ten times as fast as tensor[index]
            return tensor.index_select(0, flat).view(*index.shape, *tensor.shape[1:])

        inputs, targets = self
        if isinstance(inputs, Tensor) and isinstance(targets, Tensor):  # once an update: be quick
            return Split(taken(inputs), taken(targets))
        return Split(*tree_map(taken, (inputs, targets)))

    def part(self, start: int, stop: int) -> "Split":
        """The samples ``start ... stop - 1``, without a copy."""
        return Split(*tree_map(lambda tensor: tensor[start:stop], tuple(self)))


@dataclass(frozen=True, eq=False)
class Stream:
    """A map-style data set that stays where it is and is read batch by batch.

    Attributes:
        dataset: ``dataset[row]`` is an (input, target), as ``default_collate`` takes them.
        rows: int64 (n,): which of its samples belong to this split, in order.
        hashes: uint64 (n,): see row_hashes.
        labels: (n,) where each target is one whole number, the distinct ones (1, k) where it is
            several, else None.
        first: the first good sample, as a batch of one.
        draws: whether a sample is another one when it is read under another seed.
    """

    dataset: Any
    rows: Rows
    hashes: Hashes
    labels: Tensor | None
    first: Split
    draws: bool

    @property
    def samples(self) -> int:
        """How many."""
        return len(self.rows)

    @property
    def sample_bytes(self) -> int:
        """Of one sample with its target."""
        return self.first.sample_bytes


def spread(samples: int, most: int) -> Rows:
    """At most so many rows, evenly spaced over all of them."""
    return np.unique(np.linspace(0, samples - 1, min(most, samples)).round().astype(np.int64))


def row_hashes(split: Split) -> Hashes:
    """A number for each sample, uint64 (n,): a changed bit, another number.

    A dot product of the sample's stirred 64-bit words with fixed odd numbers, modulo 2**64: one
    pass at the speed of memory. It tells a change, not a forgery.
    """
    total = np.zeros(split.samples, dtype=np.uint64)
    for number, leaf in enumerate(leaves(split)):
        flat = leaf.detach().contiguous().reshape(len(leaf), -1).view(torch.uint8).numpy()
        words = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 8))).view(np.uint64)
        # Top bits alone, as signs are, would cancel in pairs: stir each word first.
        words ^= words >> np.uint64(32)
        words *= STIR
        words ^= words >> np.uint64(29)
        odd = np.random.default_rng(number).integers(2**63, size=words.shape[1], dtype=np.uint64)
        total += words @ (2 * odd + 1)
    return total


def is_split(value: object) -> bool:
    """Whether this is a Split or a Stream that a task can hold."""
    if isinstance(value, Stream):
        return True
    if not isinstance(value, Split):
        return False
    tensors = list(leaves(value))
    return len(tensors) > 1 and all(
        isinstance(t, Tensor) and t.dim() and t.layout == torch.strided and t.device.type == "cpu"
        for t in tensors
    )


def check_split(name: str, split: Split | Stream) -> None:
    """Refuse samples that do not go with their targets, none at all, and NaN."""
    if isinstance(split, Stream):
        return  # looked at as it was read
    lengths = {part: {len(t) for t in leaves(getattr(split, part))} for part in Split._fields}
    if len(set.union(*lengths.values())) > 1:
        counts = [" or ".join(map(str, sorted(n))) for n in lengths.values()]
        raise InputError(f"{name}: {counts[0]} inputs for {counts[1]} targets: they go one to one")
    if split.samples == 0:
        raise InputError(f"{name}: no samples: give it at least one")
    bad = not_finite(split)
    if bad is not None:
        raise InputError(f"{name}: {bad[0]} hold NaN or infinity, first in sample {bad[1]}")


def check_alike(task: str, val: Split | Stream, test: Split | Stream | None) -> None:
    """Refuse a test split that the model will not take: nobody tries it before the end."""
    if test is None:
        return
    ours, theirs = (
        [(str(leaf.dtype), tuple(leaf.shape[1:])) for leaf in leaves(split.first)]
        for split in (val, test)
    )
    if ours != theirs:
        raise InputError(
            f"{task}: a sample of val is {ours}, one of test {theirs}: make them alike"
        )


def not_finite(split: Split) -> tuple[str, int] | None:
    """Which part holds NaN or infinity, and its first row; None where all is well."""
    for part in Split._fields:
        for tensor in leaves(getattr(split, part)):
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                rows = (~torch.isfinite(tensor)).reshape(len(tensor), -1).any(1)
                return part, int(rows.nonzero()[0])
    return None


def check_labels(task: str, classes: int, splits: dict[str, Split | Stream]) -> None:
    """Refuse labels that lie, a single class, and a class that training never shows."""
    seen = set()
    for name, split in splits.items():
        labels = split.labels
        if labels is None:
            raise InputError(
                f"{task}: {name}: targets are no whole numbers, but classes={classes}: "
                "give class numbers, or classes=None"
            )
        theirs = {int(label) for label in labels.unique()}
        low, high = min(theirs), max(theirs)
        if low < 0 or high >= classes:
            raise InputError(
                f"{task}: {name}: labels go from {low} to {high}; {classes} classes are numbered "
                f"0 to {classes - 1}"
            )
        if name == "train":
            seen = theirs
            if len(seen) < 2:
                raise InputError(f"{task}: train: a single class ({low}): nothing to tell apart")
        elif labels.dim() == 1 and theirs - seen:
            raise InputError(
                f"{task}: {name}: class {min(theirs - seen)} is not in the training split: "
                "add samples of it there, or leave it out"
            )


def batches(samples: int, size: int) -> Iterator[list[int]]:
    """Rows of a pass in order."""
    for start in range(0, samples, size):
        yield list(range(start, min(start + size, samples)))
