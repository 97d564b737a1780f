"""Tables: what each update of each row of a program is told, beside its batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(slots=True)
class Trial:
    """What occupies a slot of a StackedPool, beside its row."""

    slot: int
    rates: NDArray[np.float64]
    seed: int
    update: int = 0
    momenta: NDArray[np.float64] | None = None  # see Pool.admit


class Told(NamedTuple):
    """Of one update."""

    rates: Tensor  # (rows,)
    momenta: Tensor | None  # (rows,), NaN where it is the optimizer's own; None: it is in all rows
    newest: Tensor  # (rows,): what it counts in the average
    looks: bool  # whether it counts in any


def tables(
    trials: Sequence[Trial],
    stops: Sequence[int],
    rows: int,
    newest: NDArray[np.float64] | None,
    like: dict[str, Any],
) -> Iterator[Told]:
    """What is told, update after update, as many as the longest way to a stop has.

    Args:
        trials: of the first rows; the others are idle.
        stops: one past the last update of each.
        rows: how many the program has.
        newest: (horizon,) what each update counts in the average; None where there is none.
        like: dtype and device of the tensors.
    """
    longest = max(stop - trial.update for trial, stop in zip(trials, stops, strict=True))
    rates, shares = np.zeros((2, longest, rows))
    momenta = np.full((longest, rows), np.nan)
    for row, (trial, stop) in enumerate(zip(trials, stops, strict=True)):
        span = slice(trial.update, stop)
        rates[: stop - trial.update, row] = trial.rates[span]
        if trial.momenta is not None:
            momenta[: stop - trial.update, row] = trial.momenta[span]
        if newest is not None:
            own = newest[span]  # fewer, where updates are only tried
            shares[: len(own), row] = own
    cycled = any(trial.momenta is not None for trial in trials)
    told, moved, mixed = (torch.as_tensor(table, **like) for table in (rates, momenta, shares))
    counted = [row.any() for row in shares]
    for update in range(longest):
        momentum = moved[update] if cycled else None
        yield Told(told[update], momentum, mixed[update], bool(counted[update]))
