"""Map-style data sets: looked at in one pass, then kept in memory or streamed."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from lrtune.errors import InputError
from lrtune.tasks.memory import room
from lrtune.tasks.reading import Read, read, worker_count
from lrtune.tasks.split import Split, Stream, batches, not_finite, row_hashes, spread
from lrtune.tasks.tree import Tree, leaves, tree_map

READ_AT_ONCE = 64  # samples; one batch of the pass
READ_BYTES = 64 << 20  # of such a batch, at most: every worker holds a few
FEW = 2000  # samples that are read here: workers would cost more to start than they save
PROBED = 8  # samples read twice, to see whether they are the same


def read_splits(
    stream: Stream, plan: Iterable[tuple[int, list[int]]], workers: int, *, pin: bool = False
) -> Iterator[Split]:
    """Batches of a Stream whose rows were all good when it was made; else RuntimeError."""
    of_dataset = ((seed, stream.rows[rows].tolist()) for seed, rows in plan)
    for done in read(stream.dataset, of_dataset, workers, pin=pin):
        if done.batch is None or done.bad:
            raise RuntimeError(f"the data has changed: {done.error or done.bad[0]}")
        yield Split(*done.batch)  # pinning makes another type of it


def hold(
    name: str, dataset: Any, memory: int | None, *, skip_bad: bool = False
) -> tuple[Split | Stream, list[str]]:
    """Read a data set once: in memory where it fits, else a Stream; and what was left out.

    A data set that draws at random (augmentation) is always streamed: kept, it would stand still.

    Args:
        name: for errors.
        dataset: map-style: ``len(dataset)`` and ``dataset[row]`` -> (input, target).
        memory: bytes that it may take; half of what is free where None.
        skip_bad: leave out samples that raise BadSample, instead of refusing the data.

    Raises:
        InputError: an empty or unreadable data set, NaN, samples of different shapes.
    """
    count = _length(name, dataset)
    first = _first(name, dataset, count)
    whole = count * first.sample_bytes
    kept = None
    if whole <= room(torch.device("cpu"), memory) and not _draws(dataset):
        kept = tree_map(lambda t: t.new_empty((count, *t.shape[1:])), tuple(first))
    rows: list[int] = []
    hashes, labels, bad = [], [], []
    size = read_size(first.sample_bytes)
    workers = 0 if count <= FEW else worker_count(size * first.sample_bytes, busy=0)
    plan = ((part[0], part) for part in batches(count, size))
    for done in _pass(name, dataset, plan, workers, skip_bad=skip_bad):
        bad += done.bad
        if done.batch is None:
            continue
        _check_like(name, done, first)
        if kept is not None:
            for all_rows, tensor in zip(leaves(kept), leaves(done.batch), strict=True):
                all_rows[len(rows) : len(rows) + len(tensor)] = tensor
        elif (own := done.batch.labels) is not None and own.dim() == 1:
            labels.append(own.clone())  # a clone, lest it keep the worker's shared memory open
        rows += done.rows
        hashes.append(row_hashes(done.batch))
    if kept is not None:
        return Split(*tree_map(lambda tensor: tensor[: len(rows)], kept)), bad
    stream = Stream(
        dataset=dataset,
        rows=np.array(rows),
        hashes=np.concatenate(hashes),
        labels=torch.cat(labels) if labels else None,
        sample_bytes=first.sample_bytes,
    )
    return stream, bad


def read_size(sample_bytes: int) -> int:
    """Samples that a pass over a whole data set reads at once."""
    return max(1, min(READ_AT_ONCE, READ_BYTES // max(1, sample_bytes)))


def _first(name: str, dataset: Any, count: int) -> Split:
    """The first good sample of a few, which tells the shape of all."""
    problem = ""
    for row in spread(count, PROBED).tolist():
        (done,) = _pass(name, dataset, [(row, [row])], 0, skip_bad=True)
        if done.batch is not None:
            return done.batch
        problem = problem or done.bad[0]
    raise InputError(f"{name}: none of {min(count, PROBED)} samples can be read: {problem}")


def _check_like(name: str, done: Read, first: Split) -> None:
    def shapes(tree: Tree) -> list[tuple[torch.dtype, tuple[int, ...]]]:
        return [(leaf.dtype, tuple(leaf.shape[1:])) for leaf in leaves(tree)]

    assert done.batch is not None
    if shapes(done.batch) != shapes(first):
        raise InputError(
            f"{name}: samples from {done.rows[0]} on are {shapes(done.batch)}, "
            f"the first {shapes(first)}: bring them to one shape and type"
        )


def _pass(
    name: str,
    dataset: Any,
    plan: Iterable[tuple[int, list[int]]],
    workers: int,
    *,
    skip_bad: bool,
) -> Iterator[Read]:
    for done in read(dataset, plan, workers):
        if done.error is not None:
            raise InputError(f"{name}: {done.error}")
        if done.bad and not skip_bad:
            raise InputError(f"{done.bad[0]}: mend or remove it, or leave such out with --skip-bad")
        wrong = None if done.batch is None else not_finite(done.batch)
        if wrong is not None:
            part, row = wrong
            raise InputError(f"{name}: {part} hold NaN or infinity, sample {done.rows[row]}")
        yield done


def _length(name: str, dataset: Any) -> int:
    try:
        count = len(dataset)
        dataset.__getitem__  # noqa: B018  # asked for, not used
    except (TypeError, AttributeError) as error:
        raise InputError(
            f"{name}: {type(dataset).__name__} is not a map-style data set: "
            "it needs __len__ and __getitem__"
        ) from error
    if count == 0:
        raise InputError(f"{name}: no samples: give it at least one")
    return count


def _draws(dataset: Any) -> bool:
    """Whether a sample is another one when it is read again."""
    rows = spread(len(dataset), PROBED).tolist()
    seen = [
        None if done.batch is None else row_hashes(done.batch).tolist()
        for done in read(dataset, [(seed, rows) for seed in (0, 1)], 0)
    ]
    return seen[0] != seen[1]
