"""Map-style data sets: looked at in one pass, then kept in memory or streamed."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrtune.errors import InputError
from lrtune.tasks.memory import room
from lrtune.tasks.reading import Read, read, worker_count
from lrtune.tasks.split import Split, Stream, batches, not_finite, row_hashes, spread
from lrtune.tasks.tree import Tree, leaves, tree_map

READ_AT_ONCE = 64  # samples; one batch of the pass
READ_BYTES = 64 << 20  # of such a batch, at most: every worker holds a few
FEW = 2000  # samples that are read here: workers would cost more to start than they save
PROBED = 64  # samples that are read thrice, to see whether they are the same


def read_splits(
    stream: Stream, plan: Iterable[tuple[int, list[int]]], workers: int, *, pin: bool = False
) -> Iterator[Split]:
    """Batches of a Stream, which must still hold what it held when it was made.

    Raises:
        InputError: it does not.
    """
    asked: deque[list[int]] = deque()

    def of_dataset() -> Iterator[tuple[int, list[int]]]:
        for seed, rows in plan:
            asked.append(rows)
            yield seed, stream.rows[rows].tolist()

    for done in read(stream.dataset, of_dataset(), workers, pin=pin):
        rows = asked.popleft()
        if done.batch is None or done.bad:
            raise InputError(f"the data has changed: {done.error or done.bad[0]}")
        batch = Split(*done.batch)  # pinning makes another type of it
        if not stream.draws and (odd := row_hashes(batch) != stream.hashes[rows]).any():
            row = stream.rows[rows[int(odd.argmax())]]
            raise InputError(f"the data has changed: sample {row} is another one than at the start")
        yield batch


def take(stream: Stream, rows: Sequence[int]) -> Split:
    """Some samples, read now."""
    (batch,) = read_splits(stream, [(0, list(rows))], min(1, worker_count(0)))
    return batch


def hold(
    name: str, dataset: Any, memory: int | None, *, skip_bad: bool = False
) -> tuple[Split | Stream, list[str]]:
    """Read a data set once: in memory where it fits, else a Stream; and what was left out.

    A data set that draws at random (augmentation) is always streamed: kept, it would stand still.
    It is read in worker processes alone, lest they share a file that was opened here.

    Args:
        name: for errors.
        dataset: map-style: ``len(dataset)`` and ``dataset[row]`` -> (input, target).
        memory: bytes that it may take; half of what is free where None.
        skip_bad: leave out samples that raise BadSample, instead of refusing the data.

    Raises:
        InputError: an empty or unreadable data set, NaN, samples of different shapes.
    """
    count = _length(name, dataset)
    first, draws = _probe(name, dataset, count)
    kept = None
    if not draws and count * first.sample_bytes <= room(torch.device("cpu"), memory):
        kept = tree_map(lambda t: t.new_empty((count, *t.shape[1:])), tuple(first))
    rows: list[int] = []
    hashes, labels, bad = [], list[Tensor](), []
    size = read_size(first.sample_bytes)
    workers = worker_count(size * first.sample_bytes, busy=0)
    plan = ((part[0], part) for part in batches(count, size))
    for done in _pass(name, dataset, plan, workers if count > FEW else min(1, workers), skip_bad):
        bad += done.bad
        if done.batch is None:
            continue
        _check_like(name, done, first)
        if kept is not None:
            for all_rows, tensor in zip(leaves(kept), leaves(done.batch), strict=True):
                all_rows[len(rows) : len(rows) + len(tensor)] = tensor
        elif (own := done.batch.labels) is not None:
            # A clone, lest it keep the worker's shared memory open.
            labels = [*labels, own.clone()] if own.dim() == 1 else [_distinct([*labels, own])]
        rows += done.rows
        hashes.append(row_hashes(done.batch))
    if kept is not None:
        return Split(*tree_map(lambda tensor: tensor[: len(rows)], kept)), bad
    stream = Stream(
        dataset=dataset,
        rows=np.array(rows),
        hashes=np.concatenate(hashes),
        labels=torch.cat(labels) if labels else None,
        first=first,
        draws=draws,
    )
    return stream, bad


def _distinct(labels: list[Tensor]) -> Tensor:
    values: Tensor = torch.cat([part.flatten() for part in labels]).unique()
    return values[None]


def read_size(sample_bytes: int) -> int:
    """Samples that a pass over a whole data set reads at once."""
    return max(1, min(READ_AT_ONCE, READ_BYTES // max(1, sample_bytes)))


def _probe(name: str, dataset: Any, count: int) -> tuple[Split, bool]:
    """The first good sample of some, and whether samples are others under another seed."""
    rows = spread(count, PROBED).tolist()
    plan = [(seed, [row]) for seed in (0, 1, 0) for row in rows]
    told = list(_pass(name, dataset, plan, min(1, worker_count(0)), skip_bad=True))
    good = [done.batch for done in told if done.batch is not None]
    if not good:
        raise InputError(f"{name}: none of {len(rows)} samples can be read: {told[0].bad[0]}")
    seen = [0 if done.batch is None else int(row_hashes(done.batch)[0]) for done in told]
    once, other, again = (seen[i : i + len(rows)] for i in range(0, len(seen), len(rows)))
    if once != again:
        raise InputError(
            f"{name}: samples draw from a generator of their own: use torch's, numpy's or "
            "random's global one, which are seeded for each batch"
        )
    return Split(*tree_map(torch.clone, tuple(good[0]))), once != other


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
