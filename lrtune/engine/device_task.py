"""DeviceTask: a task on its device, the loaders of its splits, and what every Pool does alike."""

import ctypes
import inspect
import logging
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import replace
from functools import cache, cached_property
from operator import itemgetter
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lrtune.engine.optimizers import check_momentum, optimizer_settings
from lrtune.engine.pool import (
    DRAWN_AT_ONCE,
    INITIAL_WEIGHTS,
    SAMPLE_NOISE,
    UPDATE_NOISE,
    Array,
    AugmentNumbers,
    BatchOrder,
    derive,
    reseed,
)
from lrtune.errors import InputError
from lrtune.tasks import Split, Task
from lrtune.tasks.images import augment
from lrtune.tasks.metrics import Metric
from lrtune.tasks.splits import Stream, Tree, batches, leaves, stack, tree_map
from lrtune.tasks.stream import read_splits, room, size, worker_count

EVALUATION_BATCH = 1024  # samples, or fewer where they are large:
EVALUATION_BYTES = 32 << 20  # as stored; on the device they become floating point
INDICES_AT_ONCE = 1 << 22
BYTES_AT_ONCE = 1 << 20  # of samples: little enough to be in a cache when their update comes
LOOKS = 4  # at the weights, within the length of an average that nobody asked to be exact
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h

T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[[Any, Any], Any])
Span = tuple[int, int, int]  # seed, first update, one past the last
Parts = list[tuple[Tensor | float, Tree]]  # weights, and the targets that they belong to


class Loader(ABC):
    """Batches of one split on the device.

    Attributes:
        samples: of the split.
        part: most of them in one batch of ``whole``.
        shared: whether a batch is dear enough to be read once for all trials that are in step.
        on_device: whether the data is in the device's memory, for ``rows`` and ``take``.
        placement: where the data is and why, for a person.
    """

    shared: bool
    on_device = False
    placement: str
    _order: BatchOrder

    def __init__(self, split: Split | Stream, task: Task, device: torch.device) -> None:
        self.samples = self._stop = split.samples
        self._device = device
        fitting = EVALUATION_BYTES // max(1, split.sample_bytes, task.output_bytes)
        self.part = min(EVALUATION_BATCH, max(1, fitting), max(1, split.samples))

    @abstractmethod
    def updates(self, seed: int, start: int, stop: int) -> Iterator[Split]:
        """The batches of updates ``start ... stop - 1``, a function of the seed and the update."""

    @abstractmethod
    def stacked(self, spans: Sequence[Span]) -> Iterator[Split]:
        """The batches of several trials, tensors (trials, batch, ...), update after update.

        As many as the longest span has; a shorter one ends with copies of its last batch.
        """

    @abstractmethod
    def whole(self) -> Iterator[Split]:
        """The split once, in order."""

    def rows(self, spans: Sequence[Span], updates: range) -> Tensor:
        """Where the samples are of several trials' batches: (updates, trials, batch)."""
        return by_update(self._order.batches, spans, updates)

    def take(self, rows: Tensor) -> Split:
        """Samples where they are kept."""
        raise NotImplementedError

    @contextmanager
    def begun(self, samples: int) -> Iterator[None]:
        """In it, ``whole`` ends after so many samples."""
        self._stop = samples
        try:
            yield
        finally:
            self._stop = self.samples

    def forget(self, seed: int, update: int) -> None:  # noqa: B027  # for those who keep something
        """No trial goes on from here."""

    def over(self, run: Callable[[], T]) -> T:
        """Do what takes in the whole split; where memory runs out, again with smaller batches."""
        while True:
            try:
                return run()
            except Exception as error:
                if not is_out_of_memory(error) or self.part == 1:
                    raise
            self.part //= 2


class ResidentLoader(Loader):
    """Data in memory in its compact type: the device's, or the host's where that is too small."""

    shared = False

    def __init__(self, split: Split, task: Task, device: torch.device, slots: int) -> None:
        super().__init__(split, task, device)
        key = id(split), device
        self._placed = _PLACES[key] = _PLACES.get(key) or _Placed(split, device)
        self._split, self._home = self._placed.split, self._placed.home
        self._order = BatchOrder(split.samples, task.batch_size, self._home, slots)
        self.placement = self._placed.placement
        self.on_device = self._home == device

    def updates(self, seed: int, start: int, stop: int) -> Iterator[Split]:
        """See Loader."""
        for update in range(start, stop):
            batch = self._split.take(self._order.batch(seed, update))
            yield batch if self._home == self._device else _to(batch, self._device)

    def stacked(self, spans: Sequence[Span]) -> Iterator[Split]:
        """See Loader."""
        longest = max(stop - start for _, start, stop in spans)
        samples = len(spans) * self._order.batch_size  # of an update
        block = max(1, INDICES_AT_ONCE // samples)
        some = max(1, BYTES_AT_ONCE // (samples * max(1, self._split.sample_bytes)))
        for first in range(0, longest, block):
            updates = range(first, min(first + block, longest))
            for rows in self.rows(spans, updates).split(some):
                several = _to(self._split.take(rows), self._device)
                for number in range(len(rows)):
                    item = itemgetter(number)  # of the tensors: one update's batch
                    yield Split(*tree_map(item, tuple(several)))

    def take(self, rows: Tensor) -> Split:
        """See Loader."""
        return self._split.take(rows)

    def whole(self) -> Iterator[Split]:
        """See Loader."""
        for start in range(0, self._stop, self.part):
            stop = min(start + self.part, self._stop)
            yield _to(self._split.part(start, stop), self._device)


def by_update(
    batches: Callable[[int, int, int], Tensor], spans: Sequence[Span], updates: range
) -> Tensor:
    """What ``batches`` (seed, start, stop) gives of several trials: (updates, trials, ...).

    Updates are counted from the start of each span; past the end of one, its last is repeated.
    """
    tables = {}
    for seed, start, stop in set(spans):
        last = max(1, stop - start) - 1
        first, end = min(updates.start, last), min(updates.stop, last + 1)
        table = batches(seed, start + first, start + end)
        missing = table[-1:].expand(len(updates) - len(table), *table.shape[1:])
        tables[seed, start, stop] = torch.cat([table, missing])
    return torch.stack([tables[span] for span in spans], dim=1)


class _Placed:
    """A split in the device's memory where it fits, else in the host's."""

    def __init__(self, split: Split, device: torch.device) -> None:
        whole, space = split.samples * split.sample_bytes, room(device, None)
        fits = device.type == "cpu" or whole <= space
        self.home = home = device if fits else torch.device("cpu")
        self.source = split  # kept, lest another one get its id
        self.split = Split(*tree_map(lambda tensor: tensor.to(home), tuple(split)))
        full = "" if fits else f" of the host: {device} has room for {size(space)}"
        self.placement = f"{size(whole)} in memory{full}"


# One for all pools of a process: those that are tried would have no room beside each other.
_PLACES = WeakValueDictionary[tuple[int, torch.device], _Placed]()


class StreamLoader(Loader):
    """A data set read by worker processes, batch after batch in the order of the updates."""

    shared = True

    def __init__(self, stream: Stream, task: Task, device: torch.device, slots: int) -> None:
        super().__init__(stream, task, device)
        self._stream = stream
        self._horizon = task.horizon
        self._order = BatchOrder(stream.samples, task.batch_size, torch.device("cpu"), slots)
        largest = max(self.part, task.batch_size) * stream.sample_bytes
        # Each trial may be at another batch, and validation reads beside them.
        self._workers = worker_count((slots + 1) * largest)
        self._live: dict[tuple[int, int], Iterator[Split]] = {}  # by seed and next update
        whole = size(stream.samples * stream.sample_bytes)
        self.placement = f"{whole} streamed by {self._workers} worker(s)"

    def updates(self, seed: int, start: int, stop: int) -> Iterator[Split]:
        """See Loader."""
        # A stream goes on where the last segment left it: starting workers takes a while.
        stream = self._live.pop((seed, start), None) or self._open(seed, start)
        for update, batch in zip(range(start, stop), stream, strict=False):
            if update + 1 == stop < self._horizon:
                self._live[seed, stop] = stream  # before the last batch: a caller may stop at it
            yield _to(batch, self._device)

    def stacked(self, spans: Sequence[Span]) -> Iterator[Split]:
        """See Loader."""
        streams = {span: self.updates(*span) for span in set(spans)}
        latest: dict[Span, Split] = {}
        for _ in range(max(stop - start for _, start, stop in spans)):
            latest |= {span: batch for span in streams if (batch := next(streams[span], None))}
            yield Split(*stack([tuple(latest[span]) for span in spans]))

    def forget(self, seed: int, update: int) -> None:
        """See Loader: its workers end."""
        self._live.pop((seed, update), None)

    def whole(self) -> Iterator[Split]:
        """See Loader."""
        plan = ((part[0], part) for part in batches(self._stop, self.part))
        for part in self._read(plan):
            yield _to(part, self._device)

    def _open(self, seed: int, start: int) -> Iterator[Split]:
        order = self._order  # not self, which keeps the stream: a cycle keeps its workers alive
        updates = range(start, self._horizon)
        return self._read(
            (derive(seed, SAMPLE_NOISE, update), order.batch(seed, update).tolist())
            for update in updates
        )

    def _read(self, plan: Iterable[tuple[int, list[int]]]) -> Iterator[Split]:
        return read_splits(self._stream, plan, self._workers, pin=self._device.type == "cuda")


def make_loader(split: Split | Stream, task: Task, device: torch.device, slots: int = 1) -> Loader:
    """The loader that suits where the data is."""
    if isinstance(split, Split):
        return ResidentLoader(split, task, device, slots)
    return StreamLoader(split, task, device, slots)


def _to(batch: Split, device: torch.device) -> Split:
    def moved(tensor: Tensor) -> Tensor:
        if tensor.device == device:
            return tensor
        pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
        return pinned.to(device, non_blocking=True)

    return Split(*tree_map(moved, tuple(batch)))


def to_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU; the device is waited for once, not for each tensor."""
    kept = {
        name: tensor.detach().to("cpu", non_blocking=True, copy=True)
        for name, tensor in tensors.items()
    }
    for device in {tensor.device for tensor in tensors.values() if tensor.is_cuda}:
        torch.cuda.synchronize(device)
    return kept


def numbers_of(module: object) -> dict[str, object]:
    """What a module holds beside tensors and other modules, by name; nothing of what is none."""
    if not isinstance(module, nn.Module):
        return {}
    return {
        f"{path}.{name}".lstrip("."): value
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, int | float | str)
    }


class DeviceTask:
    """A task's data where it fits, its loss and ``prepare`` on the device, and all Pools' rules.

    Attributes:
        task: what is trained.
        device: where.
        train, val: loaders.
        placement: where the data is and why, for a person, by split.
        prepare, loss, metrics: the task's, on the device.
    """

    def __init__(self, task: Task, slots: int, device: str) -> None:
        self._settings = optimizer_settings(task)
        if slots < 1:
            raise InputError(f"slots={slots}: at least 1")
        self.task = task
        self.device = torch.device(device)
        if self.device.type == "cpu":
            self.device = torch.device("cpu")  # cpu:0 is the same one, but not equal to it
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", torch.cuda.current_device())
        self.prepare = deepcopy(task.prepare).to(self.device).eval()
        self.loss = self._placed(task.loss)
        self.metrics = tuple(
            replace(m, function=self.loss if m.function is task.loss else self._placed(m.function))
            for m in task.metrics
        )
        self.val = make_loader(task.val, task, self.device, slots)  # first: it is read more often
        self.train = make_loader(task.train, task, self.device, slots)
        if self.device.type == "cpu" and not self.train.shared:
            _keep_memory()  # a stream's user has said how much there is to be
        self._numbers = AugmentNumbers(task, self.device, slots)
        self.placement = {"train": self.train.placement, "val": self.val.placement}
        self.checkpoints = task.checkpoints

    def _placed(self, function: Function) -> Function:
        """A loss or a metric on the device: those that are modules may hold tensors."""
        return deepcopy(function).to(self.device) if isinstance(function, nn.Module) else function

    @cached_property
    def test(self) -> Loader:
        """The test split; validation where there is none."""
        split = self.task.test
        return self.val if split is None else make_loader(split, self.task, self.device)

    @cached_property
    def average_shares(self) -> Array | None:
        """(horizon,) See ``ema_shares``; None where no weights are averaged."""
        share = self.task.ema or self.task.average
        if share is None:
            return None
        length = share * self.task.horizon
        stride = 1 if self.task.ema else max(1, int(length / LOOKS))
        return ema_shares(length, self.checkpoints, stride)

    @property
    def objective(self) -> Metric:
        """The first of the metrics."""
        return self.metrics[0]

    def measured(self, weights: T, averaged: T | None) -> list[tuple[T, tuple[Metric, ...]]]:
        """Which weights are judged at a validation, and by what.

        With ``ema`` the averaged ones in place of the current ones; else beside, by the objective.
        """
        everything = Metric("loss", self.loss, "minimize", over="batch"), *self.metrics
        if averaged is None:
            return [(weights, everything)]
        if self.task.ema is not None:
            return [(averaged, everything)]
        return [(weights, everything), (averaged, (self.objective,))]

    def next_validation(self, update: int) -> int:
        """The update after which this update's segment ends.

        Raises:
            RuntimeError: there is none.
        """
        if update == self.task.horizon:
            raise RuntimeError("the trial is over: release its slot")
        return int(self.checkpoints[np.searchsorted(self.checkpoints, update, "right")])

    def model(self, seed: int) -> nn.Module:
        """A fresh model in training mode."""
        with self.own_generators():
            reseed(self.device, seed, INITIAL_WEIGHTS)
            model = self.task.model().to(self.device).train()
        return model.to(memory_format=self.task.layout)

    def updates(self, seed: int, start: int, stop: int) -> Iterator[Split]:
        """The batches of updates ``start ... stop - 1`` as they are stored.

        Where they are to be augmented, their inputs are a pair: as stored, and the numbers for it.
        """
        for update, batch in enumerate(self.train.updates(seed, start, stop), start):
            if self.task.augment:
                numbers = self._numbers.batches(seed, update, update + 1)[0]
                batch = Split((batch.inputs, numbers), batch.targets)
            yield batch

    def numbers(self, spans: Sequence[Span], updates: range) -> Tensor:
        """What augmentation takes: float32 (updates, trials, batch, numbers), see ``by_update``."""
        return by_update(self._numbers.batches, spans, updates)

    def inputs(self, batch: Split) -> tuple[Tree, Parts]:
        """A batch of ``updates`` as the model takes it; generators are to be seeded before."""
        if not self.task.augment:
            return self.prepare(batch.inputs), [(1.0, batch.targets)]
        stored, numbers = batch.inputs
        return augment(self.task.augment, self.prepare(stored), batch.targets, numbers)

    def loss_of(self, outputs: Tree, parts: Parts, smoothing: Tensor | None = None) -> Tensor:
        """The loss, of mixed targets too; of outputs in float32 at least.

        With another label smoothing () where one is given, see ``smoothing_of``.
        """
        outputs = tree_map(exact, outputs)
        losses = [self._loss(outputs, targets, smoothing) for _, targets in parts]
        if len(parts) == 1:
            return losses[0]
        return torch.stack([w * loss for (w, _), loss in zip(parts, losses, strict=True)]).sum()

    def _loss(self, outputs: Tree, targets: Tree, smoothing: Tensor | None) -> Tensor:
        if smoothing is None:
            return self.loss(outputs, targets)
        function: Any = self.loss
        # Its loss is on a line between that without smoothing and that of all classes alike.
        none, all_alike = (function(outputs, targets, label_smoothing=s) for s in (0.0, 1.0))
        lifted: Tensor = none + smoothing.to(none.dtype) * (all_alike - none)
        return lifted

    @cached_property
    def is_mixed(self) -> bool:
        """Whether the precision is bfloat16: by default, where a GPU has that in hardware."""
        if self.task.precision is not None or self.device.type == "cpu":
            return self.task.precision == "bfloat16"
        with torch.cuda.device(self.device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))

    def autocast(self) -> AbstractContextManager[object]:
        """The task's precision."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.is_mixed else nullcontext()

    def own_generators(self) -> AbstractContextManager[object]:
        """Whatever is drawn inside leaves the caller's generators as they were."""
        return torch.random.fork_rng([self.device] if self.device.type == "cuda" else [])

    @contextmanager
    def training(self) -> Iterator[None]:
        """``prepare`` in training mode, generators of its own."""
        self.prepare.train()
        try:
            with self.own_generators():
                yield
        finally:
            self.prepare.eval()

    def check_tables(self, rates: Array, momenta: Array | None = None) -> None:
        """Refuse tables of another length than the horizon, and momenta that nothing takes."""
        expected = (self.task.horizon,)
        if rates.shape != expected:
            raise ValueError(f"rates has shape {rates.shape}, expected {expected}")
        if momenta is not None:
            check_momentum(self.task.optimizer_name, self._settings)
            if momenta.shape != expected:
                raise ValueError(f"momenta has shape {momenta.shape}, expected {expected}")

    def stored_batches(self, spans: Sequence[Span]) -> Iterator[tuple[Tree, Parts]]:
        """Batches of several trials, see ``updates``, tensors (trials, batch, ...).

        As many as the longest span has; what a shorter one gets at the end is to be ignored.
        """
        ones = torch.ones(len(spans), device=self.device)
        longest = max(stop - start for _, start, stop in spans)
        for update, (inputs, targets) in enumerate(self.train.stacked(spans)):
            if self.task.augment:
                place = update % DRAWN_AT_ONCE
                if place == 0:
                    several = range(update, min(update + DRAWN_AT_ONCE, longest))
                    numbers = self.numbers(spans, several)
                inputs = inputs, numbers[place]
            yield inputs, [(ones, targets)]

    def prepared_batches(self, spans: Sequence[Span]) -> Iterator[tuple[Tree, Parts]]:
        """The same, prepared as each trial draws it, and augmented."""
        streams = {span: self.updates(*span) for span in set(spans)}
        latest: dict[Span, tuple[Tree, Parts]] = {}
        for done in range(max(stop - start for _, start, stop in spans)):
            for span, stream in streams.items():
                seed, start, stop = span
                if start + done < stop:
                    reseed(self.device, seed, UPDATE_NOISE, start + done)
                    with self.autocast():
                        latest[span] = self.inputs(next(stream))
            yield stack_batches([latest[span] for span in spans])


def stack_batches(batches: Sequence[tuple[Tree, Parts]]) -> tuple[Tree, Parts]:
    """Batches of one form as one, stacked."""
    parts: Parts = []
    for part in zip(*(parts for _, parts in batches), strict=True):
        targets = stack([targets for _, targets in part])
        weights = [weight for weight, _ in part]
        if isinstance(weights[0], Tensor):
            parts.append((torch.stack([torch.as_tensor(weight) for weight in weights]), targets))
        else:  # 1.0, nothing is mixed: filled in there, a tensor of each would be copied there
            device = next(leaves(targets)).device
            parts.append((torch.full((len(weights),), float(weights[0]), device=device), targets))
    return stack([inputs for inputs, _ in batches]), parts


def exact(outputs: Tensor) -> Tensor:
    """Autocast's bfloat16 is scored in float32; a float64 model keeps its digits."""
    if not outputs.is_floating_point():
        return outputs
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def ema_shares(length: float, checkpoints: NDArray[np.int64], stride: int) -> Array:
    """What the weights after each update count in an average over about ``length`` updates.

    After the n-th look (1 - d) / (1 - d**n) with d = (1 - 1 / length)**stride: without bias towards
    the initial weights, as in Adam (Kingma & Ba 2015, section 3). Looks are counted from each
    validation on, so that trials that are trained together are looked at together.

    Args:
        length: in updates.
        checkpoints: (validations,) increasing, the last is the horizon.
        stride: every which update is looked at; at least one before each validation is.

    Returns:
        (horizon,), 0 where the weights are not looked at.
    """
    lengths = np.diff(checkpoints, prepend=0)
    starts = np.repeat(checkpoints - lengths, lengths)
    place = np.arange(1, checkpoints[-1] + 1) - starts  # in the segment, from 1
    looked = place % min(stride, lengths.min()) == 0
    decay = (1 - 1 / max(1.0, length)) ** min(stride, lengths.min())
    shares = (1 - decay) / (1 - decay ** np.maximum(1, looked.cumsum()))
    return np.where(looked, shares, 0.0)


def attempt(function: Callable[[], T]) -> T | Exception:
    """What a function of the task's gives, or raises of one trial."""
    try:
        return function()
    except InputError:  # the data's fault, not the trial's: all of the search stops
        raise
    except Exception as error:
        if is_out_of_memory(error):  # nor is that: where there is room it goes on
            raise
        return error


# What CUDA and its libraries say of it, the last where torch itself frees memory and tries again,
# and what CPUs do.
FULL = re.compile(
    r"out of memory|ALLOC(ATION)?_FAILED|CUBLAS_STATUS_NOT_INITIALIZED|allocate memory|bad_alloc"
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether there would be room for less."""
    full = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return full or FULL.search(str(error)) is not None


# From PyTorch 2.14 on a call counts its own; before, all pools of a process count together.
HAS_ALONE = "isolate_recompiles" in inspect.signature(torch.compile).parameters
ALONE: dict[str, Any] = {"isolate_recompiles": True} if HAS_ALONE else {}


def compile_alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.compile`` for fixed sizes, which says nothing of a CUDA compiler without a GPU.

    PyTorch compiles a function for eight sizes at the most and then runs it uncompiled, which all
    pools of a process together would soon reach: so each has a count of its own.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    compiled: Callable[..., Any] = torch.compile(function, dynamic=False, **ALONE)
    return compiled


@cache
def _keep_memory() -> None:
    """Let freed memory stay with this process, for as long as it runs.

    By default glibc gives large blocks back at once, and a training step asks for the same ones
    again and again: each time the kernel must fill them with zeros. Without glibc, nothing is done.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # musl
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
