"""Task: what is trained, and how it is judged."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lrtune.errors import InputError

Direction = Literal["minimize", "maximize"]

# Validations of a trial where none are asked for: as many as cost no more than this share of its
# training, a backward pass counted as two forward passes, but within these bounds.
VALIDATION_COST = 0.25
FEWEST_VALIDATIONS, MOST_VALIDATIONS = 5, 30


class Split(NamedTuple):
    """Samples and their targets, along the first dimension."""

    inputs: Tensor  # (n, ...), any dtype
    targets: Tensor  # (n, ...)


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure over a whole split: ``function(outputs, targets)`` is a scalar tensor."""

    name: str
    function: Callable[[Tensor, Tensor], Tensor]
    direction: Direction
    unit: str = ""


def _accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(-1) == targets).float().mean()


CROSS_ENTROPY = Metric("cross_entropy", F.cross_entropy, "minimize", "nats")
ACCURACY = Metric("accuracy", _accuracy, "maximize", "fraction")
MSE = Metric("mse", F.mse_loss, "minimize", "squared target units")


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What is trained: data, model, loss, metrics, optimizer, horizon.

    Attributes:
        name: a short name; run folders and Optuna studies are named after it.
        train: what the updates see.
        val: what the search judges by.
        test: what only a verdict looks at; None where there is none.
        model: makes one fresh model; weights come from torch's global generator.
        loss: ``loss(outputs, targets)`` -> mean over the batch, a scalar tensor.
        metrics: computed on ``val`` at each validation; the first one is the objective.
        optimizer: a name of ``lrtune.engine.OPTIMIZERS``.
        settings: the optimizer's settings other than the rate, as torch names them.
        batch_size: samples an update; batches run on across epochs, so none is short.
        epochs: passes over ``train``, not necessarily whole.
        validations: how many times a trial is validated, evenly spaced, the last at its end;
            where None, 30, or fewer where they would cost much beside the training.
        prepare: turns a stored batch (uint8 images, say) into the model's input, on the device;
            no parameters.
        data: where the data came from, for the record.
        model_name: for the record.
        classes: number of classes where targets are classes, else None.
    """

    name: str
    train: Split
    val: Split
    model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    metrics: tuple[Metric, ...] = (CROSS_ENTROPY, ACCURACY)
    optimizer: str = "sgd"
    settings: Mapping[str, object] = field(default_factory=dict)
    batch_size: int = 64
    epochs: float = 30.0
    validations: int | None = None
    test: Split | None = None
    prepare: nn.Module = field(default_factory=nn.Identity)
    data: str = ""
    model_name: str = "custom"
    classes: int | None = None

    def __post_init__(self) -> None:
        """Look at everything that a wrong data set or setting would break later."""
        for name in ("train", "val", "test"):
            split = getattr(self, name)
            if split is not None:
                _check_split(f"{self.name}: {name}", split, self.classes)
        for name, value in (
            ("batch_size", self.batch_size),
            ("validations", 1 if self.validations is None else self.validations),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name}={value!r}: a whole number of at least 1")
        if not (math.isfinite(self.epochs) and self.epochs > 0):
            raise InputError(f"epochs={self.epochs!r}: a positive number of passes over the data")
        if self.batch_size > len(self.train.targets):
            raise InputError(
                f"batch_size={self.batch_size}: {self.name} has only "
                f"{len(self.train.targets)} training samples"
            )
        if not self.metrics:
            raise InputError(f"{self.name}: metrics is empty: give at least one Metric")

    @property
    def objective(self) -> Metric:
        """What the search improves: the first metric."""
        return self.metrics[0]

    @property
    def horizon(self) -> int:
        """Updates of one full trial."""
        return max(1, round(self.epochs * len(self.train.targets) / self.batch_size))

    @property
    def checkpoints(self) -> NDArray[np.int64]:
        """The updates after which a trial is validated, increasing; the last is the horizon."""
        count = self.validations
        if count is None:
            training = 3 * self.horizon * self.batch_size
            affordable = int(VALIDATION_COST * training / len(self.val.targets))
            count = min(MOST_VALIDATIONS, max(FEWEST_VALIDATIONS, affordable))
        even = np.linspace(0, self.horizon, count + 1)[1:]
        return np.unique(np.maximum(1, np.round(even)).astype(np.int64))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every sample and target of every split: another data set, another hash."""
        digest = hashlib.blake2b(digest_size=8)
        for split in (self.train, self.val, self.test):
            for tensor in split or ():
                digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
                digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def check_model(self) -> int:
        """Try the model on a few samples; its number of trainable parameters.

        Raises:
            InputError: if the model fails on the data, or its outputs do not fit the targets.
        """
        inputs, targets = (tensor[: min(2, self.batch_size)] for tensor in self.train)
        with torch.random.fork_rng(devices=[]):
            model = self.model().eval()
        try:
            with torch.no_grad():
                outputs = model(self.prepare(inputs))
                self.loss(outputs, targets)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise InputError(
                f"{self.name}: model {self.model_name} does not fit the data "
                f"(inputs {tuple(inputs.shape)} {inputs.dtype}): {str(error).splitlines()[0]}"
            ) from error
        if self.classes is not None and outputs.shape[-1] < self.classes:
            raise InputError(
                f"{self.name}: model {self.model_name} has {outputs.shape[-1]} outputs "
                f"for {self.classes} classes"
            )
        return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _check_split(name: str, split: Split, classes: int | None) -> None:
    inputs, targets = split
    if len(inputs) != len(targets):
        raise InputError(
            f"{name}: {len(inputs)} inputs for {len(targets)} targets: they go one to one"
        )
    if len(targets) == 0:
        raise InputError(f"{name}: no samples: give it at least one")
    for what, tensor in (("inputs", inputs), ("targets", targets)):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            row = int((~torch.isfinite(tensor)).reshape(len(tensor), -1).any(1).nonzero()[0])
            raise InputError(f"{name}: {what} hold NaN or infinity, first in sample {row}")
    if classes is not None:
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= classes:
            raise InputError(
                f"{name}: labels go from {low} to {high}; {classes} classes are numbered "
                f"0 to {classes - 1}"
            )
        if name.endswith("train") and len(targets.unique()) < 2:
            raise InputError(f"{name}: a single class ({low}): nothing to tell apart")
