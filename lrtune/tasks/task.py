"""Task: what is trained, and how it is judged."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lrtune.errors import InputError
from lrtune.tasks.metrics import ACCURACY, CROSS_ENTROPY, Metric, are_metrics
from lrtune.tasks.split import Split, check_split, is_split

# Validations of a trial where none are asked for: as many as cost no more than this share of its
# training, a backward pass counted as two forward passes, but within these bounds.
VALIDATION_COST = 0.25
FEWEST_VALIDATIONS, MOST_VALIDATIONS = 5, 30

MOST_UPDATES = 10_000_000  # of one trial: a table of rates must fit in memory many times over


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
        for name, fits, expected in FIELDS:
            if not fits(getattr(self, name)):
                raise InputError(f"task: {name}={_short(getattr(self, name))}: expected {expected}")
        for name in ("train", "val", "test"):
            split = getattr(self, name)
            if split is not None:
                check_split(f"{self.name}: {name}", split, self.classes)
        for name, value in (
            ("batch_size", self.batch_size),
            ("validations", 1 if self.validations is None else self.validations),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name}={value!r}: a whole number of at least 1")
        most = MOST_UPDATES * self.batch_size / len(self.train.targets)
        if isinstance(self.epochs, bool) or not 0 < self.epochs <= most:
            raise InputError(
                f"epochs={self.epochs!r}: a positive number of passes over the data, "
                f"at most {most:g} here ({MOST_UPDATES:,} updates)"
            )
        if self.batch_size > len(self.train.targets):
            raise InputError(
                f"batch_size={self.batch_size}: {self.name} has only "
                f"{len(self.train.targets)} training samples"
            )

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
        """Train on a few samples and validate on a few; the number of trainable parameters.

        Raises:
            InputError: model, loss, metrics and data do not fit together.
        """
        with torch.random.fork_rng(devices=[]):
            model = self._checked("model", self.model)
            if not isinstance(model, nn.Module):
                raise InputError(
                    f"{self.name}: model made {type(model).__name__}, not an nn.Module"
                )
            if self._checked("model", self.model) is model:
                raise InputError(f"{self.name}: model gave the same object twice: make a fresh one")
            # Two, because batch norm in training has no variance of one.
            few = min(2, self.batch_size)
            loss = self._checked("training", lambda: self._loss_of(model.train(), self.train, few))
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                raise InputError(f"{self.name}: loss returned {_short(loss)}, not a scalar tensor")
            parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
            if not parameters or not loss.requires_grad:
                raise InputError(f"{self.name}: nothing to train: no parameter reaches the loss")
            with torch.no_grad():
                self._checked("validation", lambda: self._loss_of(model.eval(), self.val, few))
                self._checked("metrics", lambda: self._metrics_of(model, few))
        return parameters

    def _loss_of(self, model: nn.Module, split: Split, samples: int) -> object:
        outputs = model(self.prepare(split.inputs[:samples]))
        if self.classes is not None and outputs.shape[-1] < self.classes:
            raise ValueError(f"{outputs.shape[-1]} outputs for {self.classes} classes")
        return self.loss(outputs, split.targets[:samples])

    def _metrics_of(self, model: nn.Module, samples: int) -> list[float]:
        outputs = model(self.prepare(self.val.inputs[:samples]))
        return [float(m.function(outputs, self.val.targets[:samples])) for m in self.metrics]

    def _checked(self, what: str, call: Callable[[], object]) -> object:
        try:
            return call()
        except Exception as error:  # whatever the user's own code may raise
            said = " ".join(str(error).split())[:300]
            inputs = self.train.inputs
            raise InputError(
                f"{self.name}: {what} fails on the data (model {self.model_name}, inputs "
                f"{tuple(inputs.shape[1:])} {inputs.dtype}): {type(error).__name__}: {said}"
            ) from error


def _short(value: object) -> str:
    """A value for an error message: one line, even of a tensor."""
    return " ".join(repr(value).split())[:200]


# What each field of a Task must be, beyond what the numbers' own checks say.
FIELDS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("name", lambda v: isinstance(v, str) and v.isprintable() and 0 < len(v) <= 80, "a short name"),
    ("train", is_split, "a Split of two tensors on the CPU"),
    ("val", is_split, "a Split of two tensors on the CPU"),
    ("test", lambda v: v is None or is_split(v), "a Split of two tensors on the CPU, or None"),
    ("model", lambda v: callable(v) and not isinstance(v, nn.Module), "a function that makes one"),
    ("loss", callable, "a function of (outputs, targets)"),
    ("metrics", are_metrics, "a tuple of at least one Metric, each with a name of its own"),
    ("optimizer", lambda v: isinstance(v, str), "a name"),
    ("settings", lambda v: isinstance(v, Mapping), "a mapping"),
    ("prepare", lambda v: isinstance(v, nn.Module), "an nn.Module"),
    ("epochs", lambda v: isinstance(v, int | float), "a number"),
    ("classes", lambda v: v is None or type(v) is int, "a whole number, or None"),
)
