"""Split and Stream: samples with their targets, in memory or read batch by batch.

Inputs and targets are trees: a tensor, or tensors in tuples, lists and dictionaries, as data sets
and models give them. (torch has such functions too, but they are private.)
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lrtune.errors import InputError, one_line
from lrtune.tasks.metrics import Metric
from lrtune.tasks.tokens import Tokenizer

# A recursive alias would say more, but every function of a user's would then have to narrow it.
Tree: TypeAlias = Any
Hashes: TypeAlias = NDArray[np.uint64]
Rows: TypeAlias = NDArray[np.int64]

HASHED_AT_ONCE = 64 << 20  # bytes
STIR = np.uint64(0xFF51AFD7ED558CCD)  # of MurmurHash3's finalizer
# Where the data brings no test split, or no validation split: this share, but not more than needed
# to tell two accuracies apart by half a point.
SPLIT_SHARE = 0.2
SPLIT_MOST = 5000


def leaves(tree: Tree) -> Iterator[Tensor]:
    """The tensors, in order."""
    if isinstance(tree, Mapping):
        tree = tuple(tree.values())
    if isinstance(tree, tuple | list):
        for branch in tree:
            yield from leaves(branch)
    else:
        yield tree


def tree_map(function: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """The same tree, each tensor replaced."""
    return _zip(lambda tensors: function(tensors[0]), [tree])


def keys(tree: Tree) -> Any:
    """The tree's form: the same where the same names and places hold tensors."""
    if isinstance(tree, Mapping):
        return {str(name): keys(branch) for name, branch in tree.items()}
    return [keys(branch) for branch in tree] if isinstance(tree, tuple | list) else "tensor"


def sample_types(tree: Tree) -> list[tuple[str, tuple[int, ...]]]:
    """Type and shape of each tensor, without the dimension of the samples."""
    return [(str(leaf.dtype), tuple(leaf.shape[1:])) for leaf in leaves(tree)]


def laid_out(tree: Tree, layout: torch.memory_format) -> Tree:
    """The same tree, its batches of images in this layout."""
    if layout == torch.contiguous_format:
        return tree
    return tree_map(lambda t: t.to(memory_format=layout) if t.dim() == 4 else t, tree)


def concat(trees: Sequence[Tree], dim: int = 0) -> Tree:
    """Trees of batches as the tree of one batch, joined along the dimension of the samples.

    Of what has no such dimension, as a loss that a model computes, the mean.
    """

    def joined(tensors: list[Tensor]) -> Tensor:
        if tensors[0].dim() <= dim:
            return torch.stack(tensors).mean(0)
        return torch.cat(tensors, dim)

    return trees[0] if len(trees) == 1 else _zip(joined, trees)


def stack(trees: Sequence[Tree]) -> Tree:
    """Trees of one form as one, stacked along a new first dimension."""
    return _zip(torch.stack, trees)


def _zip(function: Callable[[list[Tensor]], Tensor], trees: Sequence[Tree]) -> Tree:
    first = trees[0]
    if isinstance(first, Mapping):
        return named_like(
            first, {name: _zip(function, [tree[name] for tree in trees]) for name in first}
        )
    if isinstance(first, tuple | list):
        branches = [_zip(function, branch) for branch in zip(*trees, strict=True)]
        named = isinstance(first, tuple) and hasattr(first, "_fields")
        return type(first)(*branches) if named else type(first)(branches)
    return function(list(trees))


def named_like(tree: Mapping[str, Any], named: dict[str, Any]) -> Mapping[str, Any]:
    """These as a dictionary; where ``tree`` is a dataclass too, as a ModelOutput is, as one."""
    kind: Callable[..., Mapping[str, Any]] = type(tree)
    return kind(**named) if is_dataclass(tree) else named


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
        targets = self.targets
        return targets if isinstance(targets, Tensor) and not targets.is_floating_point() else None

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
    """A map-style data set that stays where it is and is read batch by batch."""

    dataset: Any  # ``dataset[row]`` is an (input, target), as ``default_collate`` takes them
    rows: Rows  # int64 (n,): which of its samples belong to this split, in order
    hashes: Hashes  # uint64 (n,): see row_hashes
    # (n,) where each target is one whole number, the distinct ones (1, k) where it is several.
    labels: Tensor | None
    first: Split  # the first good sample, as a batch of one
    draws: bool  # whether a sample is another one when it is read under another seed

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(self.rows)

    @property
    def sample_bytes(self) -> int:
        """Of one sample with its target."""
        return self.first.sample_bytes


@dataclass(frozen=True, slots=True)
class Data:
    """What a data set brings to a Task, which says more of the fields that it has too."""

    train: Split | Stream
    val: Split | Stream
    test: Split | Stream
    name: str
    source: str  # the Task's ``data``
    kind: Literal["classification", "regression", "text"]
    outputs: int  # of a model: classes, 1 for a number, or distinct tokens
    prepare: nn.Module = field(default_factory=nn.Identity)
    # Task fields that suit this data, and ``model``: a name of MODELS.
    defaults: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what was done to the data, one line each: samples left out, say
    # The first is the objective unless told otherwise; those of METRICS for the kind if none.
    metrics: tuple[Metric, ...] = ()
    tokenizer: Tokenizer | None = None  # what made the inputs, where they are texts


def batches(samples: int, size: int) -> Iterator[list[int]]:
    """Rows of a pass in order."""
    for start in range(0, samples, size):
        yield list(range(start, min(start + size, samples)))


def spread(samples: int, most: int) -> Rows:
    """At most so many rows, evenly spaced over all of them."""
    return np.unique(np.linspace(0, samples - 1, min(most, samples)).round().astype(np.int64))


def row_hashes(split: Split) -> Hashes:
    """A number for each sample, uint64 (n,): a changed bit, another number; no forgery is told.

    A dot product of the sample's stirred 64-bit words with fixed odd numbers, modulo 2**64.
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


def cut(
    source: str, rows: Rows, labels: NDArray[np.int64] | None, seed: int, names: Sequence[str] = ()
) -> tuple[Rows, Rows]:
    """Cut a split off some rows, every class in proportion: the rows that stay, and those cut off.

    Rows are int64 (n,) of the whole data, labels of the whole data too, or None for a number;
    names are those of the classes.
    """
    from sklearn.model_selection import train_test_split

    way_out = "add more, or bring val and test splits yourself"
    strata = None if labels is None else labels[rows]
    if strata is not None:
        present, counts = np.unique(strata, return_counts=True)
        if counts.min() < 2:
            label = present[counts.argmin()]
            name = one_line(names[label] if names else label)
            raise InputError(f"{source}: class {name} has 1 sample: too few to split: {way_out}")
    size = min(math.ceil(SPLIT_SHARE * len(rows)), SPLIT_MOST)
    try:
        keep, off = train_test_split(rows, test_size=size, random_state=seed, stratify=strata)
    except ValueError as error:
        raise InputError(f"{source}: too few samples to split: {error}: {way_out}") from error
    return keep, off


def three_splits(
    source: str, given: dict[str, Split | Stream], seed: int, classes: Sequence[str]
) -> tuple[Split | Stream, Split | Stream, Split | Stream]:
    """Train, val and test: those that are missing are cut off train, test first."""
    whole, splits = given["train"], dict(given)
    assert whole.labels is not None  # of classes
    rows = np.arange(whole.samples)
    for name in ("test", "val"):
        if name not in given:
            rows, chosen = cut(source, rows, whole.labels.numpy(), seed, classes)
            splits |= {name: _select(whole, chosen), "train": _select(whole, rows)}
    return splits["train"], splits["val"], splits["test"]


def _select(split: Split | Stream, rows: Rows) -> Split | Stream:
    if isinstance(split, Split):
        return split.take(rows)
    labels = None if split.labels is None else split.labels[torch.from_numpy(rows)]
    return replace(split, rows=split.rows[rows], hashes=split.hashes[rows], labels=labels)


def is_split(value: object) -> bool:
    """Whether this is a Split or a Stream that a task can hold."""
    if not isinstance(value, Split):
        return isinstance(value, Stream)
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
    known = set()
    for name, split in splits.items():
        where, labels = f"{task}: {name}", split.labels
        if labels is None:
            raise InputError(f"{where}: targets are no class numbers: give them, or classes=None")
        values = {int(label) for label in labels.unique()}
        low, high = min(values), max(values)
        if low < 0 or high >= classes:
            raise InputError(f"{where}: labels go from {low} to {high}, not 0 to {classes - 1}")
        if name == "train":
            known = values
            if len(known) < 2:
                raise InputError(f"{where}: a single class ({low}): nothing to tell apart")
        elif labels.dim() == 1 and values - known:
            unseen = min(values - known)
            raise InputError(f"{where}: class {unseen} is not in train: add it there or drop it")
