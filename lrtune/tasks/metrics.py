"""Metrics: what a validation measures, and which way is better."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from lrtune.errors import InputError

Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure over a whole split: ``function(outputs, targets)`` is a scalar tensor."""

    name: str
    function: Callable[[Tensor, Tensor], Tensor]
    direction: Direction
    unit: str = ""

    def __post_init__(self) -> None:
        """Refuse a direction that is none."""
        if self.direction not in ("minimize", "maximize"):
            raise InputError(
                f"metric {self.name}: direction={self.direction!r}: minimize or maximize"
            )


def _accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(-1) == targets).float().mean()


CROSS_ENTROPY = Metric("cross_entropy", F.cross_entropy, "minimize", "nats")
ACCURACY = Metric("accuracy", _accuracy, "maximize")
MSE = Metric("mse", F.mse_loss, "minimize", "squared target units")


def are_metrics(value: object) -> bool:
    """Whether these are the metrics that a task can hold."""
    if not (isinstance(value, tuple) and all(isinstance(m, Metric) for m in value)):
        return False
    return 0 < len(value) == len({m.name for m in value})
