"""Task: what is trained, and how it is judged."""

import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lrtune.errors import InputError, described, one_line
from lrtune.tasks.groups import frozen, grouped
from lrtune.tasks.images import check_augment
from lrtune.tasks.metrics import Metric, OfLoss, are_metrics, metrics_of, model_loss
from lrtune.tasks.samples import Columns, read
from lrtune.tasks.splits import (
    Split,
    Stream,
    Tree,
    check_labels,
    check_split,
    keys,
    leaves,
    named_like,
    sample_types,
)
from lrtune.tasks.stream import LIMIT

# Validations of a trial where none are asked for: as many as cost no more than this share of its
# training, a backward pass counted as two forward passes, but within these bounds.
VALIDATION_COST = 0.1
FEWEST_VALIDATIONS, MOST_VALIDATIONS = 5, 30

BATCH_SIZE = 64  # where nothing says another
MOST_UPDATES = 10_000_000  # of one trial: a table of rates must fit in memory many times over


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What is trained: data, model, loss, metrics, optimizer, horizon.

    Attributes:
        name: a short name; run folders and Optuna studies are named after it.
        train: what the updates see: tensors (Split), or a map-style data set of pairs (input,
            target) or of dictionaries (Hugging Face's data sets), or a DataLoader, whose data set,
            batch_size and collate_fn are taken; its sampler is not, lrtune shuffles itself. Kept
            in memory where it fits and streamed where it does not or draws at random. Samples
            that are dictionaries, or one dictionary of tensors (n, ...), name the model's
            arguments and labels.
        val: what the search judges by.
        test: what only a verdict looks at; None where there is none.
        model: makes one fresh model; weights come from torch's global generator.
        loss: ``loss(outputs, targets)`` -> mean over the batch, a scalar tensor. Cross-entropy by
            default, or where samples are dictionaries whose labels the model takes,
            ``outputs.loss``.
        metrics: computed on ``val`` at each validation; the first one is the objective. Where none
            are given the objective is the loss, with accuracy beside it where there are classes.
        optimizer: a name of ``lrtune.engine.OPTIMIZERS``; or ``optimizer(model)`` -> a
            torch.optim.Optimizer, whose rates are taken as ratios of its default lr.
        settings: the optimizer's settings other than the rate, as torch names them.
        groups: ``groups(model)`` -> parameter groups as torch takes them, with settings of their
            own and ``lr_ratio``, which multiplies the schedule's rate; one group where None. Or
            the ratios by name, ``"head=10x,backbone=0.1x"`` or a mapping: see
            ``lrtune.tasks.groups`` for what a pattern fits.
        layer_decay: the rate of each layer is this share of the next one's, the head has the
            whole: 0 to 1, without both.
        freeze: patterns of parameters that do not train; see ``lrtune.tasks.groups.Frozen``.
        batch_size: samples per update; batches run on across epochs, so none is short. Where it
            is None, that of the DataLoader, or 64 where there are as many.
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
        tuned: names of settings, and ``label_smoothing``, that each training may have for itself.
        precision: float32 or bfloat16 (autocast); where None, bfloat16 on CUDA alone.
        memory: bytes of data kept in memory; half of what is free where None.
        data: where the data came from, for the record.
        notes: what was done to the data, for the record.
        layout: of images and of kernels; torch.channels_last where the model runs in it.
        model_name: for the record.
        classes: number of classes where targets are classes, else None.
        keywords: whether inputs are a dictionary of the model's arguments, ``model(**inputs)``; so
            they are where samples are dictionaries.
    """

    name: str
    train: Any  # a Split or a Stream, once made
    val: Any
    model: Callable[[], nn.Module]
    loss: Callable[[Any, Any], Tensor] = F.cross_entropy
    metrics: tuple[Metric, ...] = OfLoss()
    optimizer: str | Callable[[nn.Module], torch.optim.Optimizer] = "sgd"
    settings: Mapping[str, object] = field(default_factory=dict)
    groups: Any = None  # a function of the model or None, once made
    layer_decay: float | None = None
    freeze: tuple[str, ...] = ()
    batch_size: int = None  # type: ignore[assignment]  # a number once made
    epochs: float = 30.0
    validations: int | None = None
    test: Any = None
    prepare: nn.Module = field(default_factory=nn.Identity)
    augment: tuple[str, ...] = ()
    clip_norm: float | None = None
    ema: float | None = None
    average: float | None = 0.05
    tuned: tuple[str, ...] = ()
    precision: str | None = None
    memory: int | None = None
    data: str = ""
    notes: tuple[str, ...] = ()
    layout: torch.memory_format = torch.contiguous_format
    model_name: str = "custom"
    classes: int | None = None
    keywords: bool = False

    def __post_init__(self) -> None:
        """Look at everything that a wrong data set or setting would break later."""
        for name, fits, expected in FIELDS:
            if not fits(getattr(self, name)):
                raise InputError(
                    f"task: {name}={one_line(getattr(self, name))}: expected {expected}"
                )
        self._set(groups=grouped(self.groups, self.layer_decay))
        self._set(model=frozen(self.model, self.freeze))
        if callable(self.optimizer) and (self.settings or self.groups is not None):
            raise InputError(
                f"{self.name}: settings and groups belong to an optimizer that is named: "
                f"{self.optimizer_name} makes its own"
            )
        self._hold()
        if isinstance(self.metrics, OfLoss):
            self._set(metrics=metrics_of(self.loss, self.classes))
        for name, split in self.splits.items():
            check_split(f"{self.name}: {name}", split)
        if self.test is not None:  # nobody tries it before the end
            val, test = sample_types(self.val.first), sample_types(self.test.first)
            padded = self.keywords and [(kind, len(shape)) for kind, shape in val] == [
                (kind, len(shape)) for kind, shape in test
            ]
            if val != test and not padded:  # each to its longest
                raise InputError(
                    f"{self.name}: a sample of val is {val}, one of test {test}: make them alike"
                )
        if self.classes is not None:
            check_labels(self.name, self.classes, self.splits)
        check_augment(self.augment, self.sample_shape)
        most = MOST_UPDATES * self.batch_size / self.train.samples
        if not 0 < self.epochs <= most:
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
        model = cache(self.fresh_model)
        for name in ("val", "test", "train"):
            if name == "test" and self.test is None:
                continue
            where = f"{self.name}: {name}"
            split, columns, batch_size, notes = read(where, getattr(self, name), model, left)
            self._set(**{name: split, "notes": tuple(dict.fromkeys((*self.notes, *notes)))})
            if left is not None and isinstance(split, Split):
                left -= split.samples * split.sample_bytes
            if columns is not None:
                self._take_names(where, split, columns, model())
        few = min(BATCH_SIZE, self.train.samples)
        self._set(batch_size=self.batch_size or batch_size or few)

    def fresh_model(self) -> nn.Module:
        """A model to look at."""
        try:
            with torch.random.fork_rng(devices=[]):
                model = self.model()
        except InputError:
            raise
        except Exception as error:  # whatever the user's own code may raise
            raise InputError(f"{self.name}: model fails: {described(error)}") from error
        if not isinstance(model, nn.Module):
            raise InputError(f"{self.name}: model made {type(model).__name__}, not an nn.Module")
        return model

    def _take_names(
        self, where: str, split: Split | Stream, columns: Columns, model: nn.Module
    ) -> None:
        """What samples that are dictionaries mean for call, loss and classes."""
        self._set(keywords=True)
        if self.loss is F.cross_entropy and columns.in_model:
            self._set(loss=model_loss)
        outputs = getattr(getattr(model, "config", None), "num_labels", None)
        if self.loss is not model_loss or split.labels is None or split.labels.dim() != 1:
            return
        highest = int(split.labels.max())
        if outputs == 1:  # a regression, whole numbers though they are
            return
        if outputs and highest >= outputs:
            raise InputError(
                f"{where}: labels go up to {highest}, the model is made for {outputs}: give its "
                f"configuration num_labels={highest + 1}"
            )
        self._set(classes=self.classes or outputs)

    def _set(self, **fields: Any) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def outputs(self, model: Callable[..., Any], inputs: Tree) -> Tree:
        """What a model, or something called like one, gives: of named outputs those of tensors."""
        outputs = model(**inputs) if self.keywords else model(inputs)
        if not isinstance(outputs, Mapping):
            return outputs
        odd = [n for n, v in outputs.items() if not all(isinstance(t, Tensor) for t in leaves(v))]
        if not odd:  # a cache of keys and values, say
            return outputs
        named = {name: value for name, value in outputs.items() if name not in odd}
        return named_like(outputs, named)

    @cached_property
    def output_bytes(self) -> int:
        """Of what the model gives for one sample."""
        if not self.keywords:
            targets = sum(leaf.numel() for leaf in leaves(self.train.first.targets))
            return 4 * targets * (self.classes or 1)  # float32
        with torch.no_grad():
            outputs = self.outputs(self.fresh_model().eval(), self.prepare(self.train.first.inputs))
        return sum(leaf.nbytes for leaf in leaves(outputs))

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
    def optimizer_name(self) -> str:
        """Of a user's own, that of the function, where it has one."""
        if isinstance(self.optimizer, str):
            return self.optimizer
        name = str(getattr(self.optimizer, "__name__", ""))
        return name if name.isidentifier() else "optimizer"

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


def is_name(value: object) -> bool:
    """Whether a run's folder can be called so."""
    fits = isinstance(value, str) and value.isprintable() and 0 < len(value) <= 80
    return fits and not value.startswith(".") and not set(value) & {"/", "\\"}  # type: ignore[attr-defined,call-overload]


def _is_positive(value: Any, most: float = sys.float_info.max) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value <= most


AT_LEAST_ONE = "a whole number of at least 1"

# What each field of a Task must be, beyond what the numbers' own checks say.
FIELDS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("name", is_name, "a short name without / or \\"),
    ("model_name", is_name, "a short name without / or \\"),
    (
        "model",
        lambda v: callable(v) and not isinstance(v, nn.Module),
        "a function that makes one, as lambda: Net()",
    ),
    ("loss", callable, "a function of (outputs, targets)"),
    ("metrics", are_metrics, "a tuple of at least one Metric, each with a name of its own"),
    (
        "optimizer",
        lambda v: isinstance(v, str) or callable(v),
        "a name, or a function of the model",
    ),
    ("settings", lambda v: isinstance(v, Mapping), "a mapping"),
    (
        "prepare",
        lambda v: isinstance(v, nn.Module) and not list(v.parameters()),
        "an nn.Module without parameters",
    ),
    ("data", lambda v: isinstance(v, str), "a string"),
    ("notes", lambda v: isinstance(v, tuple), "a tuple of strings"),
    ("layout", lambda v: isinstance(v, torch.memory_format), "a torch.memory_format"),
    (
        "groups",
        lambda v: v is None or callable(v) or isinstance(v, str | Mapping),
        "a function of the model, ratios by name such as 'head=10x', or None",
    ),
    ("layer_decay", lambda v: v is None or (_is_positive(v) and v < 1), "between 0 and 1, or None"),
    ("freeze", lambda v: isinstance(v, tuple), "a tuple of patterns"),
    ("clip_norm", lambda v: v is None or _is_positive(v), "a positive number, or None"),
    ("ema", lambda v: v is None or _is_positive(v, 1), "a share of the run, 0 to 1"),
    ("average", lambda v: v is None or _is_positive(v, 1), "a share of the run, 0 to 1"),
    ("precision", lambda v: v in (None, "float32", "bfloat16"), "float32, bfloat16 or None"),
    ("memory", lambda v: v is None or (type(v) is int and v > 0), "a number of bytes, or None"),
    ("augment", lambda v: isinstance(v, tuple), "a tuple of names"),
    ("epochs", lambda v: isinstance(v, int | float) and not isinstance(v, bool), "a number"),
    ("batch_size", lambda v: v is None or (type(v) is int and v > 0), AT_LEAST_ONE),
    ("keywords", lambda v: isinstance(v, bool), "True or False"),
    ("validations", lambda v: v is None or (type(v) is int and v > 0), AT_LEAST_ONE),
    ("classes", lambda v: v is None or type(v) is int, "a whole number, or None"),
)
