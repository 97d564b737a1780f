"""Split: samples and targets, and what is looked at before any training."""

from typing import NamedTuple

import torch
from torch import Tensor

from lrtune.errors import InputError


class Split(NamedTuple):
    """Samples and their targets, along the first dimension."""

    inputs: Tensor  # (n, ...), any dtype
    targets: Tensor  # (n, ...)


def is_split(value: object) -> bool:
    """Whether this is a Split that a task can hold."""
    return (
        isinstance(value, Split)
        and all(isinstance(t, Tensor) and t.dim() and t.layout == torch.strided for t in value)
        and all(t.device.type == "cpu" for t in value)
    )


def check_split(name: str, split: Split, classes: int | None) -> None:
    """Refuse samples that do not go with their targets, NaN, and labels that lie."""
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
