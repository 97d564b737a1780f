"""The Pool: K slots that train K trials of one Task, a segment at a time.

And everything random that a trial meets, as a function of (seed, update) alone.
"""

import hashlib
import math
import struct
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lrtune.tasks import Task
from lrtune.tasks.images import draw

Array = NDArray[np.float64]
SMOOTHING = "label_smoothing"  # the one setting that is the loss's
SCHEDULE_FREE = "schedule_free"  # the one that puts another optimizer in the place of the task's
# Folders whose lines are not the user's.
OURS = (Path(torch.__file__).parent, Path(__file__).parent)
NO_SETTINGS: Mapping[str, Any] = {}  # never changed


def raised_at(error: BaseException) -> str:
    """Where an error was raised: the innermost line that is neither torch's nor the engine's."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if not any(path.is_relative_to(folder) for folder in OURS):
            return f" (line {frame.lineno} of {path.name}: {frame.line})"
    return ""


class EvalResult(NamedTuple):
    """Of a trial at a validation; see Progress."""

    loss: float
    metrics: dict[str, float]
    averaged: float


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a slot stands at a validation."""

    slot: int  # which one, 0 ... K-1
    update: int  # updates done so far
    loss: float  # the task's loss on the validation split; may be non-finite
    # The task's metrics on the validation split, by name; may be non-finite.
    metrics: dict[str, float]
    # The objective there of the averaged weights; NaN where they are not judged beside.
    averaged: float = math.nan
    # float64 (updates since the last validation,): training loss of each.
    losses: Array = field(default_factory=lambda: np.empty(0))
    seconds: float = 0.0  # what this took, this slot's share alone
    # Of ``evaluate``: the objective on the parts of the split, see ``Blocks``.
    blocks: list[float] = field(default_factory=list)
    # Why the trial cannot go on (the user's model raised, and in which line, say), else None.
    error: str | None = None

    @classmethod
    def at(
        cls, slot: int, update: int, result: EvalResult | Exception, seconds: float, **given: Any
    ) -> "Progress":
        """What a validation has come to, or the error with which the trial ends."""
        if not isinstance(result, Exception):
            return cls(slot, update, *result, seconds=seconds, **given)
        notes = "".join(f", {note}" for note in getattr(result, "__notes__", ()))
        error = f"{type(result).__name__}: {result}{raised_at(result)}{notes}"
        return cls(slot, update, math.nan, {}, seconds=seconds, error=error)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a trial is after an update: it goes on from here in any slot of any Pool.

    Nothing random is in it: all that a trial will draw follows from its seed and its update.
    """

    seed: int  # of everything random that the trial meets
    update: int  # updates done
    rates: Array  # float64 (horizon,)
    # On the CPU, by name: ``weights/W`` of every parameter and buffer W, ``optimizer/W/S`` of
    # the optimizer's state S of a parameter, and ``average/W``.
    tensors: dict[str, Tensor]
    momenta: Array | None = None  # float64 (horizon,), or None: see ``Pool.start``
    # JSON of a state that is not a tensor per parameter, see ``packed``; else empty.
    optimizer: str = ""
    # In place of the task's own: see ``Pool.start``.
    settings: Mapping[str, Any] = field(default_factory=dict)
    # That has the tensors, which are not here then; else empty. See ``checkpoint.whole``.
    file: str = ""


class Pool(Protocol):
    """Trains trials side by side; knows rates and seeds, nothing of schedules or searches.

    A trial's result depends on its rates and its seed alone, but for rounding: not on the slot, on
    K, or on when it was started.
    """

    task: Task  # what is trained
    slots: int  # K
    placement: dict[str, str]  # where the data is and why, for a person, by split
    # Whether ``ready`` gives the groups in the order in which they were launched, so that a
    # search takes the same course each time.
    in_order: bool = True

    @property
    def groups(self) -> Sequence[range]:
        """The slots in parts, in their order: each trains for itself, whatever the others do."""
        return [range(self.slots)]

    def host(self, slot: int) -> str:
        """The name of what trains a slot; empty where there is but one process."""
        return ""

    def start(
        self,
        slot: int,
        rates: Array,
        seed: int,
        momenta: Array | None = None,
        settings: Mapping[str, Any] = NO_SETTINGS,
    ) -> Progress:
        """Put a fresh trial in a free slot and validate it untrained.

        Args:
            slot: 0 ... K-1.
            rates: (horizon,) learning rate of each update.
            seed: of everything random that the trial meets.
            momenta: (horizon,) momentum, or Adam's beta1, of each update; None: the optimizer's.
            settings: the optimizer's in place of the task's own, but where a parameter group has
                one of its own; ``label_smoothing``, in training alone; and ``schedule_free``,
                which takes the schedule-free form of the optimizer.

        Raises:
            InputError: there are momenta, and the optimizer has no momentum; settings that it does
                not take.
        """

    def revise(self, slot: int, rates: Array) -> None:
        """Replace the rates of the updates still to come; ``rates`` is the whole table."""

    def advance(self) -> list[Progress]:
        """Train every occupied slot up to its own next validation."""

    def launch(self, group: int) -> None:
        """Let a group train as far, if it can while nobody waits; it is left alone until then."""
        return None

    def ready(self, launched: Sequence[int]) -> int | None:
        """The group to collect next of those launched; waits until there is one.

        None where none is ready: a group was lost or has opened, or some time has passed. Where
        nothing is launched, it waits for a group to open.
        """
        return launched[0]

    def collect(self, group: int) -> list[Progress]:
        """Where the slots of a group are once they have trained so far."""
        return self.advance()

    def open(self, group: int) -> bool:
        """Whether a group may be given more trials: one may have lost what trains it."""
        return True

    def evaluate(self, slot: int) -> Progress:
        """Judge the trial in a slot on the test split, or on validation where there is none."""

    def release(self, slot: int) -> None:
        """Free a slot."""

    def snapshot(self, slot: int) -> Snapshot:
        """Copy the trial in a slot, between two segments."""

    def restore(self, slot: int, snapshot: Snapshot) -> None:
        """Put a trial in a free slot, to go on where the snapshot was taken."""

    def needed(self) -> Iterable[Snapshot]:
        """Snapshots whose files it may read again, see ``Snapshot.file``."""
        return ()


class ForwardingPool(Pool):
    """What a Pool does with one slot, forwarded to another Pool that has the trial."""

    def _forward(self, slot: int, method: str, *arguments: object) -> Any:
        raise NotImplementedError

    def start(
        self,
        slot: int,
        rates: Array,
        seed: int,
        momenta: Array | None = None,
        settings: Mapping[str, Any] = NO_SETTINGS,
    ) -> Progress:
        """See Pool."""
        progress: Progress = self._forward(slot, "start", rates, seed, momenta, dict(settings))
        return replace(progress, slot=slot)

    def revise(self, slot: int, rates: Array) -> None:
        """See Pool."""
        self._forward(slot, "revise", rates)

    def evaluate(self, slot: int) -> Progress:
        """See Pool."""
        progress: Progress = self._forward(slot, "evaluate")
        return replace(progress, slot=slot)

    def release(self, slot: int) -> None:
        """See Pool."""
        self._forward(slot, "release")

    def snapshot(self, slot: int) -> Snapshot:
        """See Pool."""
        snapshot: Snapshot = self._forward(slot, "snapshot")
        return snapshot

    def restore(self, slot: int, snapshot: Snapshot) -> None:
        """See Pool."""
        self._forward(slot, "restore", snapshot)


def check_free(slot: int, occupied: bool) -> None:
    """Refuse a slot that is taken."""
    if occupied:
        raise RuntimeError(f"slot {slot} is occupied: release it first")


# Streams of one seed.
INITIAL_WEIGHTS, EPOCH_ORDER, UPDATE_NOISE, VALIDATION_NOISE, SAMPLE_NOISE, AUGMENTATION = range(6)
DRAWN_AT_ONCE = 64  # updates


def derive(*words: int) -> int:
    """A seed in 0 ... 2**63 - 1 from whole numbers; neighbours in, strangers out."""
    packed = struct.pack(f"<{len(words)}q", *words)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1


def reseed(device: torch.device, *words: int) -> None:
    """Set the generators that a model on ``device`` draws from.

    ``torch.manual_seed`` would do, but where CUDA is not up yet it formats a stack trace each time.
    """
    seed = derive(*words)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)


class BatchOrder:
    """Which samples an update sees: permutation after permutation, cut into equal batches.

    A batch may hold the end of one epoch and the start of the next, so that no batch is short and
    no sample is left out.
    """

    def __init__(self, samples: int, batch_size: int, device: torch.device, slots: int = 1) -> None:
        self._samples = samples
        self.batch_size = batch_size
        self._device = device
        # Two epochs per slot, which may all be at different points: that is all that is needed.
        self._permutation = lru_cache(maxsize=2 * slots)(self._draw)

    def _draw(self, seed: int, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive(seed, EPOCH_ORDER, epoch))
        return torch.randperm(self._samples, generator=generator).to(self._device)

    def batch(self, seed: int, update: int) -> Tensor:
        """Indices int64 (batch_size,) of the samples of one update, on the device."""
        epoch, start = divmod(update * self.batch_size, self._samples)
        stop = start + self.batch_size
        head = self._permutation(seed, epoch)[start:stop]
        if stop <= self._samples:
            return head
        # A batch is never larger than the data, so it touches two epochs at most.
        return torch.cat([head, self._permutation(seed, epoch + 1)[: stop - self._samples]])

    def batches(self, seed: int, start: int, stop: int) -> Tensor:
        """Indices int64 (stop - start, batch_size) of several updates in a row."""
        first, last = start * self.batch_size, stop * self.batch_size
        epochs = range(first // self._samples, (last - 1) // self._samples + 1)
        run = torch.cat([self._permutation(seed, epoch) for epoch in epochs])
        offset = epochs.start * self._samples
        return run[first - offset : last - offset].view(-1, self.batch_size)


class AugmentNumbers:
    """What the augmentation of each update draws, many updates at once on the host."""

    def __init__(self, task: Task, device: torch.device, slots: int = 1) -> None:
        self._names = task.augment
        self._count = task.batch_size
        self._device = device
        self._block = lru_cache(maxsize=2 * slots)(self._draw)  # as of BatchOrder

    def _draw(self, seed: int, block: int) -> Tensor:
        generator = np.random.default_rng(derive(seed, AUGMENTATION, block))
        numbers = draw(self._names, generator, DRAWN_AT_ONCE, self._count)
        return torch.as_tensor(numbers).to(self._device)

    def batches(self, seed: int, start: int, stop: int) -> Tensor:
        """Float32 (stop - start, batch_size, numbers) of several updates in a row."""
        blocks = range(start // DRAWN_AT_ONCE, (stop - 1) // DRAWN_AT_ONCE + 1)
        run = torch.cat([self._block(seed, block) for block in blocks])
        offset = blocks.start * DRAWN_AT_ONCE
        return run[start - offset : stop - offset]
