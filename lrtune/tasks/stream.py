"""Map-style data sets: looked at in one pass, then kept in memory or streamed."""

import os
import random
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from lrtune.errors import InputError
from lrtune.tasks.memory import room
from lrtune.tasks.split import Split, Stream, batches, not_finite, row_hashes, spread
from lrtune.tasks.tree import Tree, leaves, tree_map

READ_AT_ONCE = 64  # samples; one batch of the pass
READ_BYTES = 64 << 20  # of such a batch, at most: every worker holds a few
FEW = 2000  # samples that are read here: workers would cost more to start than they save
MOST_WORKERS = 8
PROBED = 8  # samples read twice, to see whether they are the same


class BadSample(Exception):
    """A sample that cannot be read; may be left out where the user says so."""


class _Read(NamedTuple):
    """What came of one batch of rows."""

    batch: Split | None  # None where no row was good
    rows: list[int]  # the good ones
    bad: list[str]
    error: str | None = None  # why the whole data set is refused


class _Reader(Dataset[_Read]):
    """A data set as batches: item (seed, rows) -> _Read. Runs in the workers.

    Errors travel as text: raised in a worker, they would arrive as a page of traceback.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __getitem__(self, item: tuple[int, list[int]]) -> _Read:
        seed, rows = item
        samples, good, bad = [], [], []
        with _seeded(seed):
            for row in rows:
                try:
                    samples.append(_pair(self._dataset[row]))
                    good.append(row)
                except BadSample as error:
                    bad.append(str(error))
                except InputError as error:
                    return _Read(None, [], [], str(error))
                except Exception as error:  # whatever a user's data set may raise
                    return _Read(None, [], [], f"sample {row}: {_said(error)}")
        if not samples:
            return _Read(None, [], bad)
        try:
            return _Read(Split(*default_collate(samples)), good, bad)
        except Exception as error:
            return _Read(None, [], [], f"samples {rows[0]} to {rows[-1]}: {_said(error)}")


def read(
    dataset: Any, plan: Iterable[tuple[int, list[int]]], workers: int, *, pin: bool = False
) -> Iterator[_Read]:
    """Batches of a data set in the order of a plan, read ahead by worker processes.

    Args:
        dataset: map-style.
        plan: seed of whatever the data set draws, and the rows of a batch.
        workers: processes; 0: here.
        pin: batches in page-locked memory, for a GPU.
    """
    yield from DataLoader(
        _Reader(dataset),
        batch_size=None,
        sampler=plan,
        num_workers=workers,
        # Python's default is another from 3.14 on: such workers know nothing of a user's own file.
        multiprocessing_context="fork" if workers else None,
        pin_memory=pin,
        generator=torch.Generator(),  # the loader draws too: not from the caller's
    )


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


def worker_count(batch_bytes: int, busy: int = 1) -> int:
    """Processes that read ahead: one a core but the busy ones; 0 where they cannot start.

    Args:
        batch_bytes: of what a worker reads at once.
        busy: cores that have other work: the training's own; none in a pass that only reads.
    """
    if sys.platform != "linux":
        return 0  # elsewhere a worker starts afresh and knows nothing of a user's own file
    cores = len(os.sched_getaffinity(0))
    # A worker hands its batches over in shared memory, which containers keep small.
    shared = shutil.disk_usage("/dev/shm").free // (4 * max(1, batch_bytes))
    return min(MOST_WORKERS, max(1, cores - busy), shared)


def _first(name: str, dataset: Any, count: int) -> Split:
    """The first good sample of a few, which tells the shape of all."""
    problem = ""
    for row in spread(count, PROBED).tolist():
        (done,) = _pass(name, dataset, [(row, [row])], 0, skip_bad=True)
        if done.batch is not None:
            return done.batch
        problem = problem or done.bad[0]
    raise InputError(f"{name}: none of {min(count, PROBED)} samples can be read: {problem}")


def _check_like(name: str, done: _Read, first: Split) -> None:
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
) -> Iterator[_Read]:
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


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed what a data set may draw from, and leave it as it was afterwards."""
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])


def _pair(sample: Any) -> tuple[Any, Any]:
    if not isinstance(sample, tuple | list) or len(sample) != 2:
        raise TypeError(f"{type(sample).__name__}, expected a pair (input, target)")
    return sample[0], sample[1]


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
