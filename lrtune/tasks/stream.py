"""Map-style data sets: read once by worker processes, then kept in memory or streamed."""

import os
import random
import re
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from lrtune.errors import InputError, described
from lrtune.tasks.splits import (
    Split,
    Stream,
    batches,
    leaves,
    not_finite,
    row_hashes,
    sample_types,
    spread,
    tree_map,
)

Plan: TypeAlias = Iterable[tuple[int, list[int]]]  # seed and rows of each batch

MEMORY_SHARE = 0.5  # of what is free, for data; the rest is for models, activations, other people
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
# A container's own limit and use, version 2 and version 1 of the kernel's interface.
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
# What a user allows, while a task is built that does not say so itself.
LIMIT: ContextVar[int | None] = ContextVar("limit", default=None)

MOST_WORKERS = 8
READ_AT_ONCE = 64  # samples; one batch of the pass
READ_BYTES = 64 << 20  # of such a batch, at most: every worker holds a few
FEW = 2000  # samples that are read here: workers would cost more to start than they save
PROBED = 64  # samples that are read thrice, to see whether they are the same


def room(device: torch.device, limit: int | None) -> int:
    """Bytes of data that may be kept on a device: the user's limit, else half of what is free."""
    if limit is not None:
        return limit
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(MEMORY_SHARE * (torch.cuda.mem_get_info(device)[0] + cached))
    free = [psutil.virtual_memory().available]
    for most, used in CGROUPS:
        try:
            free.append(int(Path(most).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such container, or no limit ("max")
            continue
    return int(MEMORY_SHARE * min(free))


def parse_size(text: str) -> int:
    """Bytes from ``500MB`` or ``1.5 GB``.

    >>> parse_size("1.5 GB")
    1500000000
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B)", text.strip().upper())
    if match is None or (bytes_ := int(float(match[1]) * UNITS[match[2]])) < 1:
        raise InputError(f"memory={text!r}: a number and a unit: 500MB, 2GB")
    return bytes_


def size(count: int) -> str:
    """Bytes for a person.

    >>> size(1_500_000_000)
    '1.5 GB'
    """
    unit = next((u for u, n in reversed(UNITS.items()) if count >= n), "B")
    return f"{count / UNITS[unit]:.3g} {unit}"


class BadSample(Exception):
    """A sample that cannot be read; may be left out where the user says so."""


class OtherData(InputError):
    """A Stream's data cannot be read any more, or are others than when it was made."""


class Read(NamedTuple):
    """What came of one batch of rows."""

    batch: Split | None  # None where no row was good
    rows: list[int]  # the good ones
    bad: list[str]
    error: str | None = None  # why the whole data set is refused


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """A map-style data set, and how a list of its samples becomes a batch."""

    dataset: Any
    split: Callable[[list[Any]], Split]
    pads: bool = False  # to the longest sample of a batch: all that are kept are one batch

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> Any:
        return self.dataset[row]


def _of_pairs(samples: list[Any]) -> Split:
    return Split(*default_collate([tuple(sample) for sample in samples]))


class _Reader(Dataset[Read]):
    """A data set as batches: item (seed, rows) -> Read. Runs in the workers.

    Errors travel as text: raised in a worker, they would arrive as a page of traceback.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._split = dataset.split if isinstance(dataset, Samples) else _of_pairs

    def __getitem__(self, item: tuple[int, list[int]]) -> Read:
        seed, rows = item
        samples, good, bad = [], [], []
        with _seeded(seed):
            for row in rows:
                try:
                    sample = self._dataset[row]
                    is_pair = isinstance(sample, tuple | list) and len(sample) == 2
                    if self._split is _of_pairs and not is_pair:
                        kind = type(sample).__name__
                        raise TypeError(f"{kind}, expected a pair (input, target) or a dictionary")
                except BadSample as error:
                    bad.append(str(error))
                except InputError as error:
                    return Read(None, [], [], str(error))
                except Exception as error:  # whatever a user's data set may raise
                    return Read(None, [], [], f"sample {row}: {described(error)}")
                else:
                    samples.append(sample)
                    good.append(row)
            if not samples:
                return Read(None, [], bad)
            try:
                batch = self._split(samples)
            except Exception as error:
                why = str(error) if isinstance(error, InputError) else described(error)
                return Read(None, [], [], f"samples {rows[0]} to {rows[-1]}: {why}")
        odd = [leaf for leaf in leaves(batch) if not isinstance(leaf, Tensor)]
        if odd:
            what = f"{type(odd[0]).__name__} {str(odd[0])[:40]!r}"
            return Read(None, [], [], f"sample {rows[0]}: holds a {what}, expected numbers")
        return Read(batch, good, bad)


def _read(dataset: Any, plan: Plan, workers: int, *, pin: bool = False) -> Iterator[Read]:
    """Batches in the order of the plan, read ahead by worker processes; 0: here."""
    try:
        yield from _loader(_Reader(dataset), plan, workers, pin_memory=pin)
    except RuntimeError as error:  # of a worker that was killed, or has no memory left
        raise InputError(f"the data cannot be read: {described(error)}") from error


def _loader(dataset: Any, sampler: Any, workers: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        # Python's default is another from 3.14 on: such workers know nothing of a user's own file.
        multiprocessing_context="fork" if workers else None,
        generator=torch.Generator(),  # the loader draws too: not from the caller's
        **options,
    )


def worker_count(batch_bytes: int, busy: int = 1) -> int:
    """Processes that read ahead: one per core but the busy ones; 0 where they cannot start."""
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


def read_splits(stream: Stream, plan: Plan, workers: int, *, pin: bool = False) -> Iterator[Split]:
    """Batches of a Stream, which must still hold what it held when it was made.

    The plan has the seed of whatever the data set draws, and the rows of each batch; ``workers``
    processes read ahead; ``pin`` is for a GPU.

    Raises:
        OtherData: it does not.
    """
    asked: deque[list[int]] = deque()

    def of_dataset() -> Iterator[tuple[int, list[int]]]:
        for seed, rows in plan:
            asked.append(rows)
            yield seed, stream.rows[rows].tolist()

    for done in _read(stream.dataset, of_dataset(), workers, pin=pin):
        rows = asked.popleft()
        if done.batch is None or done.bad:
            raise OtherData(f"the data has changed: {done.error or done.bad[0]}")
        batch = Split(*done.batch)  # pinning makes another type of it
        if not stream.draws and (odd := row_hashes(batch) != stream.hashes[rows]).any():
            row = stream.rows[rows[int(odd.argmax())]]
            raise OtherData(f"the data has changed: sample {row} is another one than at the start")
        yield batch


def take(stream: Stream, rows: Sequence[int]) -> Split:
    """Some samples, read now."""
    (batch,) = read_splits(stream, [(0, list(rows))], min(1, worker_count(0)))
    return batch


def sample_batches(stream: Stream, most: int) -> Iterator[Tensor]:
    """Inputs of a share of the samples, evenly spread, a few at a time."""
    rows = spread(stream.samples, most)
    size = read_size(stream.sample_bytes)
    plan = ((0, rows[part].tolist()) for part in batches(len(rows), size))
    workers = 0 if len(rows) <= FEW else worker_count(size * stream.sample_bytes, busy=0)
    for split in read_splits(stream, plan, workers):
        yield split.inputs


def hold(
    name: str, dataset: Any, memory: int | None, *, skip_bad: bool = False
) -> tuple[Split | Stream, list[str]]:
    """Read a data set once: in memory where it fits, else a Stream; and what was left out.

    A data set that draws at random (augmentation) is always streamed: kept, it would stand still.
    It is read in worker processes alone, lest they share a file that was opened here. It may take
    ``memory`` bytes, or half of what is free; samples that raise BadSample may be skipped.

    Raises:
        InputError: an empty or unreadable data set, NaN, samples of different shapes.
    """
    count = _length(name, dataset)
    first, draws = _probe(name, dataset, count)
    kept = None
    if not draws and count * first.sample_bytes <= room(torch.device("cpu"), memory):
        if isinstance(dataset, Samples) and dataset.pads:
            (done,) = _pass(name, dataset, [(0, list(range(count)))], 0, skip_bad)
            assert done.batch is not None  # the first good sample is in it
            return done.batch, done.bad
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
        if sample_types(done.batch) != sample_types(first):
            raise InputError(
                f"{name}: samples from {done.rows[0]} on are {sample_types(done.batch)}, "
                f"the first {sample_types(first)}: bring them to one shape and type"
            )
        if kept is not None:
            for whole, tensor in zip(leaves(kept), leaves(done.batch), strict=True):
                whole[len(rows) : len(rows) + len(tensor)] = tensor
        elif (batch_labels := done.batch.labels) is not None:
            # A clone, lest it keep the worker's shared memory open.
            labels.append(batch_labels.clone())
            if batch_labels.dim() > 1:  # of masks, the distinct values
                labels = [torch.unique(torch.cat([part.flatten() for part in labels]))[None]]
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


def names_of(dataset: Any, collate: Callable[[list[Any]], Any] | None) -> list[str] | None:
    """Of the first sample, or of what ``collate`` makes of it, where that is a dictionary."""

    def names(sample: Any) -> list[str] | None:
        batch = sample if collate is None else collate([sample])
        return [str(name) for name in batch] if isinstance(batch, Mapping) else None

    loader = _loader(dataset, [0], min(1, worker_count(0)), collate_fn=names)
    try:
        found: list[str] | None = next(iter(loader))
    except Exception:  # ``hold`` will meet it again, and tell
        return None
    return found


def read_size(sample_bytes: int) -> int:
    """Samples that a pass over a whole data set reads at once."""
    return max(1, min(READ_AT_ONCE, READ_BYTES // max(1, sample_bytes)))


def _probe(name: str, dataset: Any, count: int) -> tuple[Split, bool]:
    """The first good sample of some, and whether samples are others under another seed."""
    rows = spread(count, PROBED).tolist()
    plan = [(seed, [row]) for seed in (0, 1, 0) for row in rows]
    reads = list(_pass(name, dataset, plan, min(1, worker_count(0)), skip_bad=True))
    good = [done.batch for done in reads if done.batch is not None]
    if not good:
        raise InputError(f"{name}: none of {len(rows)} samples can be read: {reads[0].bad[0]}")
    hashes = [0 if done.batch is None else int(row_hashes(done.batch)[0]) for done in reads]
    once, other, again = (hashes[i : i + len(rows)] for i in range(0, len(hashes), len(rows)))
    if once != again:
        raise InputError(
            f"{name}: samples draw from a generator of their own: use torch's global one"
        )
    return Split(*tree_map(torch.clone, tuple(good[0]))), once != other


def _pass(name: str, dataset: Any, plan: Plan, workers: int, skip_bad: bool) -> Iterator[Read]:
    for done in _read(dataset, plan, workers):
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
        kind = type(dataset).__name__
        raise InputError(f"{name}: {kind} is not map-style: give __len__, __getitem__") from error
    if count == 0:
        raise InputError(f"{name}: no samples: give it at least one")
    return count
