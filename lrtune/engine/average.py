"""The exponential moving average of a model's weights."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Average:
    """Weights and floating-point buffers, averaged over about the last ``length`` updates.

    Free of the bias towards the initial weights: after t updates the newest weights count
    (1 - d) / (1 - d**t) with d = 1 - 1 / length, as in Adam (Kingma & Ba 2015, section 3).

    Attributes:
        updates: t, how many have been taken in.
    """

    def __init__(self, model: nn.Module, length: float) -> None:
        self._decay = 1 - 1 / max(1.0, length)
        self.updates = 0
        self._averaged = AveragedModel(model, multi_avg_fn=self._mix, use_buffers=True)

    @property
    def model(self) -> nn.Module:
        """The model with averaged weights."""
        averaged: nn.Module = self._averaged.module
        return averaged

    def update(self, model: nn.Module) -> None:
        """Take in the weights after an update."""
        self.updates += 1
        self._averaged.update_parameters(model)

    def _mix(self, averaged: Any, current: Any, _: object) -> None:
        if not averaged[0].is_floating_point():  # an index or a count has no mean
            for ours, theirs in zip(averaged, current, strict=True):
                ours.copy_(theirs)
            return
        newest = (1 - self._decay) / (1 - self._decay**self.updates)
        mix: Callable[..., None] = get_ema_multi_avg_fn(1 - newest)
        mix(averaged, current, self.updates)
