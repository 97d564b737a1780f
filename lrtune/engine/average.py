"""The exponential moving average of a model's weights."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def newest_share(length: float, updates: Any) -> Any:
    """What the weights after update t count in an average over about ``length`` updates.

    (1 - d) / (1 - d**t) with d = 1 - 1 / length: without bias towards the initial weights, as in
    Adam (Kingma & Ba 2015, section 3).

    Args:
        length: in updates.
        updates: t from 1, a number or an array of them.
    """
    decay = 1 - 1 / max(1.0, length)
    return (1 - decay) / (1 - decay**updates)


class Average:
    """Weights and floating-point buffers, averaged over about the last ``length`` updates."""

    def __init__(self, model: nn.Module, length: float) -> None:
        self._length = length
        self._updates = 0
        self._averaged = AveragedModel(model, multi_avg_fn=self._mix, use_buffers=True)

    @property
    def model(self) -> nn.Module:
        """The model with averaged weights."""
        averaged: nn.Module = self._averaged.module
        return averaged

    @property
    def updates(self) -> int:
        """How many have been taken in."""
        return self._updates

    @updates.setter
    def updates(self, count: int) -> None:
        self._updates = count
        self._averaged.n_averaged.fill_(count)

    def update(self, model: nn.Module) -> None:
        """Take in the weights after an update."""
        self._updates += 1
        self._averaged.update_parameters(model)

    def _mix(self, averaged: Any, current: Any, _: object) -> None:
        if not averaged[0].is_floating_point():  # an index or a count has no mean
            for ours, theirs in zip(averaged, current, strict=True):
                ours.copy_(theirs)
            return
        mix: Callable[..., None] = get_ema_multi_avg_fn(
            1 - newest_share(self._length, self._updates)
        )
        mix(averaged, current, self._updates)
