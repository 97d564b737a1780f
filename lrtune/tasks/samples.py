"""Data as its owner writes it: DataLoaders, dictionaries and Hugging Face data sets, as splits.

A dictionary has the model's arguments by name: ``model(**batch)``, as Hugging Face's are called.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, default_collate

from lrtune.errors import InputError, described, one_line
from lrtune.tasks.splits import Split, Stream, is_split
from lrtune.tasks.stream import Samples, hold, names_of

SPANS = ("start_positions", "end_positions")  # targets; all others have "label" in their name
SYNONYMS = {"label": "labels", "label_ids": "labels"}  # as transformers' collators rename them
ALIKE = 0.75  # names, of 1: a slip of the finger
PAD = (
    "pad samples to one length, by the tokenizer's padding='max_length', truncation=True or by a "
    "DataLoader's collate_fn"
)
FORMS = "a Split of tensors on the CPU, a dictionary of tensors, a map-style data set or DataLoader"


@dataclass(frozen=True, slots=True)
class Columns:
    """Which names in a sample are arguments of the model, and which are targets."""

    inputs: Mapping[str, str]  # of each argument of the model, its name in a sample
    targets: Mapping[str, str]  # of each target likewise; those that the model takes are inputs too
    unused: tuple[str, ...]  # the names of what neither is

    @property
    def in_model(self) -> bool:
        """Whether the model takes the targets, and so computes the loss."""
        return self.targets.keys() <= self.inputs.keys()

    def split(self, batch: Mapping[str, Any]) -> Split:
        """Inputs, a dictionary, and targets: a tensor, several by name; the inputs if none."""
        inputs = {name: _tensor(own, batch[own]) for name, own in self.inputs.items()}
        targets = {name: _tensor(own, batch[own]) for name, own in self.targets.items()}
        return Split(
            inputs, next(iter(targets.values())) if len(targets) == 1 else targets or inputs
        )


def _tensor(name: str, values: Any) -> Tensor:
    try:
        return torch.as_tensor(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{name}: {described(error)}: expected numbers of one shape: {PAD}"
        ) from error


def columns_of(names: Iterable[str], model: nn.Module) -> Columns:
    """How samples with these names go to a model.

    Raises:
        InputError: a name is nearly one of an argument, an argument is missing, or all are.
    """
    parameters = inspect.signature(model.forward).parameters.values()
    taken = {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    own = {SYNONYMS.get(n, n) if n not in taken else n: n for n in map(str, names)}
    inputs = {name: column for name, column in own.items() if name in taken or not taken}
    targets = {name: column for name, column in own.items() if "label" in name or name in SPANS}
    unused = {name: column for name, column in own.items() if name not in inputs | targets}
    for column in unused.values():
        if close := get_close_matches(column, taken.keys() - inputs.keys(), 1, ALIKE):
            raise InputError(f"{column}: {type(model).__name__} takes {close[0]}: rename it")
    says = (
        f"samples hold {', '.join(own.values())}; {type(model).__name__} takes {', '.join(taken)}"
    )
    if not inputs.keys() - targets.keys():
        raise InputError(f"{says}: tokenise texts, or rename the columns")
    missing = [name for name, p in taken.items() if p.default is p.empty and name not in inputs]
    if missing:
        raise InputError(f"{says}: there is no {missing[0]}")
    return Columns(inputs, targets, tuple(unused.values()))


class Reading(NamedTuple):
    """What a user's data came to."""

    split: Split | Stream
    columns: Columns | None  # None where samples are pairs
    batch_size: int | None  # of a DataLoader
    notes: list[str]  # what of it is not used


def read(where: str, data: Any, model: Callable[[], nn.Module], memory: int | None) -> Reading:
    """Read a user's data: in memory where it fits ``memory`` bytes (None: half of what is free).

    The names in a dictionary are arguments of the model; ``where`` names the split in messages.
    """
    if is_split(data):
        return Reading(data, None, None, [])
    size, notes, collate = None, list[str](), None
    if isinstance(data, DataLoader):
        size, collate = data.batch_size, data.collate_fn
        if size is None or type(data.sampler) not in (RandomSampler, SequentialSampler):
            sampler = type(data.batch_sampler if size is None else data.sampler).__name__
            notes.append(f"the DataLoader's {sampler} is not used: lrtune shuffles itself")
        collate, data = None if collate is default_collate else collate, data.dataset
    _check_form(where, data)
    names = list(data) if isinstance(data, Mapping) else names_of(data, collate)
    columns = None
    if names is not None:
        made = model()
        try:
            columns = columns_of(names, made)
            if isinstance(data, Mapping):
                data = columns.split(data)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        if columns.unused:
            notes.append(f"the model takes no {', '.join(columns.unused)}: left out")
    if is_split(data):
        return Reading(data, columns, size, notes)
    if columns is not None or collate is not None:
        data = Samples(data, partial(_joined, columns, collate), pads=collate is not None)
    return Reading(hold(where, data, memory)[0], columns, size, notes)


def _check_form(where: str, data: Any) -> None:
    kind = type(data).__name__
    if isinstance(data, Mapping) and {"train", "test", "validation"} & data.keys():
        first = next(iter(data))
        raise InputError(f"{where}: {kind} of {', '.join(data)}: give one of them: data[{first!r}]")
    if isinstance(data, tuple | str | Tensor) or not (
        isinstance(data, Mapping) or (hasattr(data, "__getitem__") and hasattr(data, "__len__"))
    ):
        iterable = "; list(...) makes one of what gives its samples in turn"
        way_out = iterable if hasattr(data, "__iter__") and not isinstance(data, str) else ""
        raise InputError(f"{where}={one_line(data)}: expected {FORMS}{way_out}")


def _joined(
    columns: Columns | None, collate: Callable[[list[Any]], Any] | None, samples: list[Any]
) -> Split:
    if collate is not None:
        batch = collate(samples)
        return Split(*batch) if columns is None else columns.split(batch)
    assert columns is not None
    try:
        return Split(*default_collate([tuple(columns.split(sample)) for sample in samples]))
    except RuntimeError as error:
        raise InputError(f"they differ in shape: {PAD}") from error
