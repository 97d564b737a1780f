"""The Pool: K slots that train K trials of one Task, a segment at a time."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lrtune.tasks import Task


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a slot stands at a validation.

    Attributes:
        slot: which slot, 0 ... K-1.
        update: updates done so far.
        loss: the task's loss on the validation split; may be non-finite.
        metrics: the task's metrics on the validation split, by name; may be non-finite.
        losses: float64 (updates since the last validation,): training loss of each.
        seconds: what this took, this slot's share alone.
        error: why the trial cannot go on (the user's model raised, say), else None.
        traceback: of that error.
    """

    slot: int
    update: int
    loss: float
    metrics: dict[str, float]
    losses: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    seconds: float = 0.0
    error: str | None = None
    traceback: str = ""


class Pool(Protocol):
    """Trains trials side by side; knows rates and seeds, nothing of schedules or searches.

    A trial's result depends on its rates and its seed alone: not on the slot, on K, or on when it
    was admitted.
    """

    @property
    def task(self) -> Task:
        """What is trained."""

    @property
    def slots(self) -> int:
        """K."""

    def admit(self, slot: int, rates: NDArray[np.float64], seed: int) -> Progress:
        """Put a fresh trial in a free slot and validate it untrained.

        Args:
            slot: 0 ... K-1.
            rates: (horizon,) learning rate of each update.
            seed: of everything random that the trial meets.
        """

    def revise(self, slot: int, rates: NDArray[np.float64]) -> None:
        """Replace the rates of the updates still to come; ``rates`` is the whole table."""

    def advance(self) -> list[Progress]:
        """Train every occupied slot up to its own next validation."""

    def release(self, slot: int) -> None:
        """Free a slot."""
