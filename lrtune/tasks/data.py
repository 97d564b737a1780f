"""Data: splits of one data set, and what a model must know of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lrtune.errors import InputError
from lrtune.tasks.metrics import Metric
from lrtune.tasks.split import Rows, Split, Stream

Kind = Literal["classification", "regression", "text"]

# Where the data brings no test split, or no validation split: this share, but not more than needed
# to tell two accuracies apart by half a point.
SPLIT_SHARE = 0.2
SPLIT_MOST = 5000


def split_size(samples: int) -> int:
    """How many of so many samples are cut off for a split."""
    return min(math.ceil(SPLIT_SHARE * samples), SPLIT_MOST)


def cut(
    source: str, rows: Rows, labels: NDArray[np.int64] | None, seed: int, names: Sequence[str] = ()
) -> tuple[Rows, Rows]:
    """Cut a split off some rows, every class in proportion.

    Args:
        source: what to name in an error.
        rows: int64 (n,), of the whole data.
        labels: int64, of the whole data; None: the target is a number.
        seed: of the cut.
        names: of the classes.

    Returns:
        The rows that stay, and those cut off.

    Raises:
        InputError: too few samples, of all or of a class.
    """
    from sklearn.model_selection import train_test_split

    strata = None if labels is None else labels[rows]
    if strata is not None:
        present, counts = np.unique(strata, return_counts=True)
        if counts.min() < 2:
            label = present[counts.argmin()]
            raise InputError(
                f"{source}: class {names[label] if names else label!r} has 1 sample left: too few "
                "to split: add more, or bring val and test splits yourself"
            )
    try:
        keep, off = train_test_split(
            rows, test_size=split_size(len(rows)), random_state=seed, stratify=strata
        )
    except ValueError as error:
        raise InputError(
            f"{source}: too few samples to split: {error}: add more, or bring val and test splits "
            "yourself"
        ) from error
    return keep, off


@dataclass(frozen=True, slots=True)
class Data:
    """What a data set brings to a Task.

    Attributes:
        name: of the task.
        source: where it came from, for the record.
        kind: classification, regression or text.
        metrics: what a validation can measure; the first is the objective unless told otherwise.
        train: what the updates see.
        val: what the search judges by.
        test: what only a verdict looks at.
        outputs: of a model: classes, 1 for a number, or distinct tokens.
        prepare: see Task.
        defaults: Task fields that suit this data, and ``model``: a name of MODELS.
        notes: what was done to the data, a line each: samples left out, say.
    """

    name: str
    source: str
    kind: Kind
    metrics: tuple[Metric, ...]
    train: Split | Stream
    val: Split | Stream
    test: Split | Stream
    outputs: int
    prepare: nn.Module = field(default_factory=nn.Identity)
    defaults: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
