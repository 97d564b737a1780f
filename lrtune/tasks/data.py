"""Data: splits of one data set, and what a model must know of it."""

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from lrtune.tasks.split import Split

# Where the data brings no test split, or no validation split: this share, but not more than needed
# to tell two accuracies apart by half a point.
SPLIT_SHARE = 0.2
SPLIT_MOST = 5000


def split_size(samples: int) -> int:
    """How many of so many samples are cut off for a split."""
    return min(math.ceil(SPLIT_SHARE * samples), SPLIT_MOST)


@dataclass(frozen=True, slots=True)
class Data:
    """What a data set brings to a Task.

    Attributes:
        name: of the task.
        source: where it came from, for the record.
        train: what the updates see.
        val: what the search judges by.
        test: what only a verdict looks at.
        classes: their names; None: the target is a number.
        prepare: see Task.
        defaults: Task fields that suit this data, and ``model``: a name of MODELS.
    """

    name: str
    source: str
    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...] | None
    prepare: nn.Module
    defaults: dict[str, Any]
