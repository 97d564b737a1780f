"""Task: what is trained, and how it is judged."""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lrtune.errors import InputError, one_line
from lrtune.tasks.augment import check_augment
from lrtune.tasks.memory import LIMIT
from lrtune.tasks.metrics import Metric, OfLoss, are_metrics, metrics_of
from lrtune.tasks.split import (
    Split,
    Stream,
    check_alike,
    check_labels,
    check_split,
    is_split,
)
from lrtune.tasks.stream import hold
from lrtune.tasks.tree import keys, leaves

# Validations of a trial where none are asked for: as many as cost no more than this share of its
# training, a backward pass counted as two forward passes, but within these bounds.
VALIDATION_COST = 0.1
FEWEST_VALIDATIONS, MOST_VALIDATIONS = 5, 30

MOST_UPDATES = 10_000_000  # of one trial: a table of rates must fit in memory many times over


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What is trained: data, model, loss, metrics, optimizer, horizon.

    Attributes:
        name: a short name; run folders and Optuna studies are named after it.
        train: what the updates see: tensors (Split), or any map-style data set of (input, target),
            kept in memory where it fits and streamed where it does not or draws at random.
        val: what the search judges by.
        test: what only a verdict looks at; None where there is none.
        model: makes one fresh model; weights come from torch's global generator.
        loss: ``loss(outputs, targets)`` -> mean over the batch, a scalar tensor.
        metrics: computed on ``val`` at each validation; the first one is the objective. Where none
            are given the objective is the loss, with accuracy beside it where there are classes.
        optimizer: a name of ``lrtune.engine.OPTIMIZERS``.
        settings: the optimizer's settings other than the rate, as torch names them.
        groups: ``groups(model)`` -> parameter groups as torch takes them, with settings of their
            own and ``lr_ratio``, which multiplies the schedule's rate; one group where None.
        batch_size: samples an update; batches run on across epochs, so none is short.
        epochs: passes over ``train``, not necessarily whole.
        validations: how many times a trial is validated, evenly spaced, the last at its end;
            where None, 30, or fewer where they would cost much beside the training.
        prepare: turns a stored batch (uint8 images, say) into the model's input, on the device;
            no parameters; in training mode for updates alone.
        augment: names of AUGMENTATIONS, applied in training after ``prepare``.
        clip_norm: gradients longer than this are shortened to it.
        ema: validate an exponential moving average of the weights, this share of the run long.
        average: without ``ema``, judge such an average beside the weights, for the rules that end
            trials early; None where nothing is averaged.
        precision: float32 or bfloat16 (autocast); where None, bfloat16 on CUDA alone.
        memory: bytes of data kept in memory; half of what is free where None.
        data: where the data came from, for the record.
        notes: what was done to the data, for the record.
        layout: of images and of kernels; torch.channels_last where the model runs in it.
        model_name: for the record.
        classes: number of classes where targets are classes, else None.
    """

    name: str
    train: Any  # a Split or a Stream, once made
    val: Any
    model: Callable[[], nn.Module]
    loss: Callable[[Any, Any], Tensor] = F.cross_entropy
    metrics: tuple[Metric, ...] = OfLoss()
    optimizer: str = "sgd"
    settings: Mapping[str, object] = field(default_factory=dict)
    groups: Callable[[nn.Module], Iterable[dict[str, Any]]] | None = None
    batch_size: int = 64
    epochs: float = 30.0
    validations: int | None = None
    test: Any = None
    prepare: nn.Module = field(default_factory=nn.Identity)
    augment: tuple[str, ...] = ()
    clip_norm: float | None = None
    ema: float | None = None
    average: float | None = 0.05
    precision: str | None = None
    memory: int | None = None
    data: str = ""
    notes: tuple[str, ...] = ()
    layout: torch.memory_format = torch.contiguous_format
    model_name: str = "custom"
    classes: int | None = None

    def __post_init__(self) -> None:
        """Look at everything that a wrong data set or setting would break later."""
        for name, fits, expected in FIELDS:
            if not fits(getattr(self, name)):
                raise InputError(
                    f"task: {name}={one_line(getattr(self, name))}: expected {expected}"
                )
        if isinstance(self.metrics, OfLoss):
            object.__setattr__(self, "metrics", metrics_of(self.loss, self.classes))
        self._hold()
        for name, split in self.splits.items():
            check_split(f"{self.name}: {name}", split)
        check_alike(self.name, self.val, self.test)
        if self.classes is not None:
            check_labels(self.name, self.classes, self.splits)
        check_augment(self.augment, self.sample_shape)
        for name, value in (
            ("batch_size", self.batch_size),
            ("validations", 1 if self.validations is None else self.validations),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name}={value!r}: a whole number of at least 1")
        most = MOST_UPDATES * self.batch_size / self.train.samples
        if isinstance(self.epochs, bool) or not 0 < self.epochs <= most:
            raise InputError(
                f"epochs={self.epochs!r}: a positive number of passes over the data, "
                f"at most {most:g} here ({MOST_UPDATES:,} updates)"
            )
        if self.batch_size > self.train.samples:
            raise InputError(
                f"batch_size={self.batch_size}: {self.name} has only "
                f"{self.train.samples} training samples"
            )

    def _hold(self) -> None:
        """Read the user's own data sets, the small ones first: they are read most often."""
        left = LIMIT.get() if self.memory is None else self.memory
        for name in ("val", "test", "train"):
            dataset = getattr(self, name)
            if dataset is None or is_split(dataset):
                continue
            split, _ = hold(f"{self.name}: {name}", dataset, left)
            object.__setattr__(self, name, split)
            if left is not None and isinstance(split, Split):
                left -= split.samples * split.sample_bytes

    @property
    def splits(self) -> dict[str, Split | Stream]:
        """Those that there are, train first."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {name: split for name, split in parts.items() if split is not None}

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Of one stored input; empty where an input is several tensors."""
        inputs = self.train.first.inputs
        return tuple(inputs.shape[1:]) if isinstance(inputs, Tensor) else ()

    @property
    def objective(self) -> Metric:
        """What the search improves: the first metric."""
        return self.metrics[0]

    @property
    def horizon(self) -> int:
        """Updates of one full trial."""
        return max(1, round(self.epochs * int(self.train.samples) / self.batch_size))

    @property
    def checkpoints(self) -> NDArray[np.int64]:
        """The updates after which a trial is validated, increasing; the last is the horizon."""
        count = self.validations
        if count is None:
            training = 3 * self.horizon * self.batch_size
            affordable = int(VALIDATION_COST * training / self.val.samples)
            count = min(MOST_VALIDATIONS, max(FEWEST_VALIDATIONS, affordable))
        even = np.linspace(0, self.horizon, count + 1)[1:]
        return np.unique(np.maximum(1, np.round(even)).astype(np.int64))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every sample and target of every split: another data set, another hash."""
        digest = hashlib.blake2b(digest_size=8)
        for split in self.splits.values():
            kinds = [(str(leaf.dtype), *leaf.shape[1:]) for leaf in leaves(split.first)]
            digest.update(f"{split.samples} {keys(tuple(split.first))} {kinds}".encode())
            digest.update(split.hashes.tobytes())
        return digest.hexdigest()


def _is_data(value: object) -> bool:
    if isinstance(value, tuple | str | Mapping | Tensor):
        return is_split(value)
    return is_split(value) or (hasattr(value, "__getitem__") and hasattr(value, "__len__"))


def is_name(value: object) -> bool:
    """Whether a run's folder can be called so."""
    fits = isinstance(value, str) and value.isprintable() and 0 < len(value) <= 80
    return fits and not value.startswith(".") and not set(value) & {"/", "\\"}  # type: ignore[attr-defined,call-overload]


def _is_positive(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value < math.inf  # type: ignore[operator]


A_SPLIT = "a Split of tensors on the CPU, or a map-style data set"

# What each field of a Task must be, beyond what the numbers' own checks say.
FIELDS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("name", is_name, "a short name without / or \\"),
    ("model_name", is_name, "a short name without / or \\"),
    ("train", _is_data, A_SPLIT),
    ("val", _is_data, A_SPLIT),
    ("test", lambda v: v is None or _is_data(v), f"{A_SPLIT}, or None"),
    ("model", lambda v: callable(v) and not isinstance(v, nn.Module), "a function that makes one"),
    ("loss", callable, "a function of (outputs, targets)"),
    ("metrics", are_metrics, "a tuple of at least one Metric, each with a name of its own"),
    ("optimizer", lambda v: isinstance(v, str), "a name"),
    ("settings", lambda v: isinstance(v, Mapping), "a mapping"),
    (
        "prepare",
        lambda v: isinstance(v, nn.Module) and not list(v.parameters()),
        "an nn.Module without parameters",
    ),
    ("data", lambda v: isinstance(v, str), "a string"),
    ("notes", lambda v: isinstance(v, tuple), "a tuple of strings"),
    ("layout", lambda v: isinstance(v, torch.memory_format), "a torch.memory_format"),
    ("groups", lambda v: v is None or callable(v), "a function of the model, or None"),
    ("clip_norm", lambda v: v is None or _is_positive(v), "a positive number, or None"),
    ("ema", lambda v: v is None or (_is_positive(v) and v <= 1), "a share of the run, 0 to 1"),
    ("average", lambda v: v is None or (_is_positive(v) and v <= 1), "a share of the run, 0 to 1"),
    ("precision", lambda v: v in (None, "float32", "bfloat16"), "float32, bfloat16 or None"),
    ("memory", lambda v: v is None or (type(v) is int and v > 0), "a number of bytes, or None"),
    ("augment", lambda v: isinstance(v, tuple), "a tuple of names"),
    ("epochs", lambda v: isinstance(v, int | float), "a number"),
    ("classes", lambda v: v is None or type(v) is int, "a whole number, or None"),
)
