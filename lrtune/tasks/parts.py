"""Training, validation and test split of images: read, cut, and measured."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lrtune.tasks.data import cut
from lrtune.tasks.memory import parse_size, room
from lrtune.tasks.models import Normalize
from lrtune.tasks.options import TaskOptions
from lrtune.tasks.pictures import Images
from lrtune.tasks.reading import worker_count
from lrtune.tasks.split import Rows, Split, Stream, batches, spread
from lrtune.tasks.stream import FEW, hold, read_size, read_splits

SPLITS = ("train", "val", "test")
MEASURED = 10_000  # samples of a Stream that the statistics are taken from
AT_ONCE = 16 << 20  # bytes of a Split


def hold_all(
    images: Mapping[str, Images], options: TaskOptions
) -> tuple[dict[str, Split | Stream], list[str]]:
    """All splits within one limit, the small ones first: they are read most often."""
    limit = None if options.memory is None else parse_size(options.memory)
    left = room(torch.device("cpu"), limit)
    held: dict[str, Split | Stream] = {}
    bad: list[str] = []
    for part in sorted(images, key=("val", "test", "train").index):
        if part == "train" and len(images) < len(SPLITS):
            left //= 2  # to cut a split in memory is to copy it
        one = images[part]
        held[part], theirs = hold(one.source.name, one, left, skip_bad=options.skip_bad)
        bad += theirs
        if isinstance(held[part], Split):
            left -= held[part].samples * held[part].sample_bytes
    return {part: held[part] for part in images}, bad


def three_parts(
    source: str, held: dict[str, Split | Stream], seed: int, classes: Sequence[str]
) -> dict[str, Split | Stream]:
    """Train, val and test: those that are missing are cut off train, test first."""
    missing = [part for part in ("test", "val") if part not in held]
    if not missing:
        return held
    whole = held["train"]
    classes_of = labels(whole).numpy()
    rows: dict[str, Rows] = {"train": np.arange(whole.samples)}
    for part in missing:
        rows["train"], rows[part] = cut(source, rows["train"], classes_of, seed, classes)
    return held | {part: _select(whole, chosen) for part, chosen in rows.items()}


def normalize(train: Split | Stream) -> Normalize:
    """Zero mean and unit variance per channel, by the training images alone (uint8)."""
    counts = torch.zeros(1, 256, dtype=torch.int64)  # (channels, values): exact, and small
    for inputs in _parts(train):
        channels = inputs.unbind(1)
        counts = counts + torch.stack([c.flatten().bincount(minlength=256) for c in channels])
    values = torch.arange(256, dtype=torch.float64)
    share = counts / counts.sum(1, keepdim=True, dtype=torch.float64)
    mean = share @ values
    std = (share * (values - mean[:, None]).square()).sum(1).clamp_min(1e-12).sqrt()
    return Normalize(mean.float().view(-1, 1, 1), std.float().view(-1, 1, 1))


def labels(split: Split | Stream) -> Tensor:
    """Class numbers, int64 (n,)."""
    assert split.labels is not None  # an image's label is a whole number
    return split.labels


def _select(split: Split | Stream, rows: Rows) -> Split | Stream:
    if isinstance(split, Split):
        return split.take(rows)
    index = torch.from_numpy(rows)
    return replace(
        split, rows=split.rows[rows], hashes=split.hashes[rows], labels=labels(split)[index]
    )


def _parts(train: Split | Stream) -> Iterator[Tensor]:
    """The images, or a Stream's evenly spread share of them, a few at a time."""
    if isinstance(train, Split):
        rows = max(1, AT_ONCE // train.sample_bytes)
        for start in range(0, train.samples, rows):
            yield train.part(start, start + rows).inputs
        return
    some = spread(train.samples, MEASURED)
    size = read_size(train.sample_bytes)
    plan = ((0, some[part].tolist()) for part in batches(len(some), size))
    workers = 0 if len(some) <= FEW else worker_count(size * train.sample_bytes, busy=0)
    for split in read_splits(train, plan, workers):
        yield split.inputs
