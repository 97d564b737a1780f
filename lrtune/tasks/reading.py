"""Batches of a map-style data set, read ahead by worker processes."""

import os
import random
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from lrtune.errors import InputError
from lrtune.tasks.split import Split
from lrtune.tasks.tree import leaves

MOST_WORKERS = 8


class BadSample(Exception):
    """A sample that cannot be read; may be left out where the user says so."""


class Read(NamedTuple):
    """What came of one batch of rows."""

    batch: Split | None  # None where no row was good
    rows: list[int]  # the good ones
    bad: list[str]
    error: str | None = None  # why the whole data set is refused


class _Reader(Dataset[Read]):
    """A data set as batches: item (seed, rows) -> Read. Runs in the workers.

    Errors travel as text: raised in a worker, they would arrive as a page of traceback.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __getitem__(self, item: tuple[int, list[int]]) -> Read:
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
                    return Read(None, [], [], str(error))
                except Exception as error:  # whatever a user's data set may raise
                    return Read(None, [], [], f"sample {row}: {_said(error)}")
        if not samples:
            return Read(None, [], bad)
        try:
            batch = Split(*default_collate(samples))
        except Exception as error:
            return Read(None, [], [], f"samples {rows[0]} to {rows[-1]}: {_said(error)}")
        odd = [leaf for leaf in leaves(batch) if not isinstance(leaf, Tensor)]
        if odd:
            what = f"{type(odd[0]).__name__} {str(odd[0])[:40]!r}"
            return Read(None, [], [], f"sample {rows[0]}: holds a {what}, expected numbers")
        return Read(batch, good, bad)


def read(
    dataset: Any, plan: Iterable[tuple[int, list[int]]], workers: int, *, pin: bool = False
) -> Iterator[Read]:
    """Batches of a data set in the order of a plan, read ahead by worker processes.

    Args:
        dataset: map-style.
        plan: seed of whatever the data set draws, and the rows of a batch.
        workers: processes; 0: here.
        pin: batches in page-locked memory, for a GPU.
    """
    loader = DataLoader(
        _Reader(dataset),
        batch_size=None,
        sampler=plan,
        num_workers=workers,
        # Python's default is another from 3.14 on: such workers know nothing of a user's own file.
        multiprocessing_context="fork" if workers else None,
        pin_memory=pin,
        generator=torch.Generator(),  # the loader draws too: not from the caller's
    )
    try:
        yield from loader
    except RuntimeError as error:  # of a worker that was killed, or has no memory left
        raise InputError(f"the data cannot be read: {_said(error)}") from error


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
