"""Feeds: the batches of a split on the device, from memory or from a stream read ahead."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from lrtune.engine.order import SAMPLE_NOISE, BatchOrder, derive
from lrtune.engine.tally import is_out_of_memory
from lrtune.tasks import Split, Task
from lrtune.tasks.splits import Stream, batches, leaves, stack, tree_map
from lrtune.tasks.stream import read_splits, room, size, worker_count

EVALUATION_BATCH = 1024  # samples, or fewer where they are large:
EVALUATION_BYTES = 32 << 20  # as stored; on the device they become floating point
INDICES_AT_ONCE = 1 << 22
BYTES_AT_ONCE = 1 << 20  # of samples: little enough to be in a cache when their update comes

T = TypeVar("T")
Span = tuple[int, int, int]  # seed, first update, one past the last


class Feed(Protocol):
    """Batches of one split."""

    @property
    def shared(self) -> bool:
        """Whether a batch is dear enough to be read once for all trials that are in step."""

    @property
    def placement(self) -> str:
        """Where the data is and why, for a person."""

    def updates(self, seed: int, start: int, stop: int) -> Iterator[Split]:
        """The batches of updates ``start ... stop - 1``, a function of the seed and the update."""

    def together(self, spans: Sequence[Span]) -> Iterator[Split]:
        """The batches of several trials, tensors (trials, batch, ...), update after update.

        As many as the longest span has; a shorter one ends with copies of its last batch.
        """

    def whole(self) -> Iterator[Split]:
        """The split once, in order."""

    def halve(self) -> bool:
        """Let the batches of ``whole`` be half as large; False where they are single samples."""

    def forget(self, seed: int, update: int) -> None:
        """No trial goes on from here."""


def feed(split: Split | Stream, task: Task, device: torch.device, slots: int = 1) -> Feed:
    """The feed that suits where the data is."""
    if isinstance(split, Split):
        return Resident(split, task, device, slots)
    return Streamed(split, task, device, slots)


def over(split: Feed, run: Callable[[], T]) -> T:
    """Do what takes in the whole split; where memory runs out, again with fewer samples at once."""
    while True:
        try:
            return run()
        except Exception as error:
            if not is_out_of_memory(error) or not split.halve():
                raise


class _Whole:
    """How large the batches of a whole split are."""

    def __init__(self, split: Split | Stream, task: Task) -> None:
        self._part = min(_evaluation_batch(split, task), max(1, split.samples))

    def halve(self) -> bool:
        """See Feed."""
        before, self._part = self._part, max(1, self._part // 2)
        return self._part < before


class Resident(_Whole):
    """Data in memory in its compact type: the device's, or the host's where that is too small."""

    shared = False

    def __init__(self, split: Split, task: Task, device: torch.device, slots: int) -> None:
        super().__init__(split, task)
        self._device = device
        self._placed = _placed(split, device)
        self._split, self._home = self._placed.split, self._placed.home
        self._order = BatchOrder(split.samples, task.batch_size, self._home, slots)
        self.placement = self._placed.told

    def updates(self, seed: int, start: int, stop: int) -> Iterator[Split]:
        """See Feed."""
        for update in range(start, stop):
            batch = self._split.take(self._order.batch(seed, update))
            yield batch if self._home == self._device else _to(batch, self._device)

    def together(self, spans: Sequence[Span]) -> Iterator[Split]:
        """See Feed."""
        longest = max(stop - start for _, start, stop in spans)
        samples = len(spans) * self._order.batch_size  # of an update
        block = max(1, INDICES_AT_ONCE // samples)
        some = max(1, BYTES_AT_ONCE // (samples * max(1, self._split.sample_bytes)))
        for first in range(0, longest, block):
            table = self._indices(spans, range(first, min(first + block, longest)))
            for rows in table.split(some):
                taken = self._split.take(rows)
                batches = taken if self._home == self._device else _to(taken, self._device)
                yield from (_one(batches, number) for number in range(len(rows)))

    def _indices(self, spans: Sequence[Span], updates: range) -> Tensor:
        """int64 (updates, trials, batch), of these updates counted from the start of each span."""
        found = {}
        for seed, start, stop in set(spans):
            last = max(1, stop - start) - 1
            first, end = min(updates.start, last), min(updates.stop, last + 1)
            own = self._order.batches(seed, start + first, start + end)
            missing = len(updates) - len(own)
            found[seed, start, stop] = torch.cat([own, own[-1:].expand(missing, -1)])
        return torch.stack([found[span] for span in spans], dim=1)

    def whole(self) -> Iterator[Split]:
        """See Feed."""
        for start in range(0, self._split.samples, self._part):
            yield _to(self._split.part(start, start + self._part), self._device)

    def forget(self, seed: int, update: int) -> None:
        """See Feed: there is nothing to forget."""


class _Placed:
    """A split in the device's memory where it fits, else in the host's."""

    def __init__(self, split: Split, device: torch.device) -> None:
        whole = split.samples * split.sample_bytes
        space = room(device, None)
        fits = device.type == "cpu" or whole <= space
        self.home = home = device if fits else torch.device("cpu")
        self.source = split  # kept, lest another one get its id
        self.split = Split(*tree_map(lambda tensor: tensor.to(home), tuple(split)))
        self.told = f"{size(whole)} in memory" + (
            "" if fits else f" of the host: {device} has room for {size(space)}"
        )


_PLACES = WeakValueDictionary[tuple[int, torch.device], _Placed]()


def _placed(split: Split, device: torch.device) -> _Placed:
    """One for all pools of a process: those that are tried would have no room beside each other."""
    key = id(split), device
    found = _PLACES.get(key)
    if found is None:
        found = _PLACES[key] = _Placed(split, device)
    return found


class Streamed(_Whole):
    """A data set read by worker processes, batch after batch in the order of the updates."""

    shared = True

    def __init__(self, stream: Stream, task: Task, device: torch.device, slots: int) -> None:
        super().__init__(stream, task)
        self._stream = stream
        self._device = device
        self._horizon = task.horizon
        self._order = BatchOrder(stream.samples, task.batch_size, torch.device("cpu"), slots)
        largest = max(self._part, task.batch_size) * stream.sample_bytes
        # Each trial may be at another batch, and validation reads beside them.
        self._workers = worker_count((slots + 1) * largest)
        self._live: dict[tuple[int, int], Iterator[Split]] = {}  # by seed and next update
        whole = size(stream.samples * stream.sample_bytes)
        self.placement = f"{whole} streamed by {self._workers} worker(s)"

    def updates(self, seed: int, start: int, stop: int) -> Iterator[Split]:
        """See Feed."""
        # A stream goes on where the last segment left it: starting workers takes a while.
        stream = self._live.pop((seed, start), None) or self._open(seed, start)
        for update, batch in zip(range(start, stop), stream, strict=False):
            if update + 1 == stop < self._horizon:
                self._live[seed, stop] = stream  # before the last batch: a caller may stop at it
            yield _to(batch, self._device)

    def together(self, spans: Sequence[Span]) -> Iterator[Split]:
        """See Feed."""
        streams = {span: self.updates(*span) for span in set(spans)}
        latest: dict[Span, Split] = {}
        for _ in range(max(stop - start for _, start, stop in spans)):
            latest |= {span: batch for span in streams if (batch := next(streams[span], None))}
            yield Split(*stack([tuple(latest[span]) for span in spans]))

    def forget(self, seed: int, update: int) -> None:
        """See Feed: its workers end."""
        self._live.pop((seed, update), None)

    def whole(self) -> Iterator[Split]:
        """See Feed."""
        plan = ((part[0], part) for part in batches(self._stream.samples, self._part))
        for part in read_splits(self._stream, plan, self._workers, pin=self._pin):
            yield _to(part, self._device)

    def _open(self, seed: int, start: int) -> Iterator[Split]:
        order = self._order  # not self, which keeps the stream: a cycle keeps its workers alive
        plan = (
            (derive(seed, SAMPLE_NOISE, update), order.batch(seed, update).tolist())
            for update in range(start, self._horizon)
        )
        return read_splits(self._stream, plan, self._workers, pin=self._pin)

    @property
    def _pin(self) -> bool:
        return self._device.type == "cuda"


def _evaluation_batch(split: Split | Stream, task: Task) -> int:
    targets = sum(leaf.numel() for leaf in leaves(split.first.targets))
    largest = max(1, split.sample_bytes, 4 * targets * (task.classes or 1))  # the logits, float32
    return min(EVALUATION_BATCH, max(1, EVALUATION_BYTES // largest))


def _one(batches: Split, number: int) -> Split:
    return Split(*tree_map(lambda tensor: tensor[number], tuple(batches)))


def _to(batch: Split, device: torch.device) -> Split:
    def moved(tensor: Tensor) -> Tensor:
        if tensor.device == device:
            return tensor
        pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
        return pinned.to(device, non_blocking=True)

    return Split(*tree_map(moved, tuple(batch)))
