"""The exponential moving average of a model's weights."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def newest_shares(
    length: float, checkpoints: NDArray[np.int64], stride: int
) -> NDArray[np.float64]:
    """What the weights after each update count in an average over about ``length`` updates.

    After the n-th look (1 - d) / (1 - d**n) with d = (1 - 1 / length)**stride: without bias towards
    the initial weights, as in Adam (Kingma & Ba 2015, section 3). Looks are counted from each
    validation on, so that trials that are trained together are looked at together.

    Args:
        length: in updates.
        checkpoints: (validations,) increasing, the last is the horizon.
        stride: every which update is looked at; at least one before each validation is.

    Returns:
        (horizon,), 0 where the weights are not looked at.
    """
    lengths = np.diff(checkpoints, prepend=0)
    starts = np.repeat(checkpoints - lengths, lengths)
    place = np.arange(1, checkpoints[-1] + 1) - starts  # in the segment, from 1
    looked = place % min(stride, lengths.min()) == 0
    decay = (1 - 1 / max(1.0, length)) ** min(stride, lengths.min())
    shares = (1 - decay) / (1 - decay ** np.maximum(1, looked.cumsum()))
    return np.where(looked, shares, 0.0)


class Average:
    """Weights and floating-point buffers, averaged over the last updates."""

    def __init__(self, model: nn.Module, shares: NDArray[np.float64]) -> None:
        """Begin with the model as it is.

        Args:
            model: whose weights are averaged.
            shares: (horizon,), see ``newest_shares``.
        """
        self._shares = shares
        self._updates = 0
        self._averaged = AveragedModel(model, multi_avg_fn=self._mix, use_buffers=True)

    @property
    def model(self) -> nn.Module:
        """The model with averaged weights."""
        averaged: nn.Module = self._averaged.module
        return averaged

    @property
    def updates(self) -> int:
        """How many there have been."""
        return self._updates

    @updates.setter
    def updates(self, count: int) -> None:
        self._updates = count
        self._averaged.n_averaged.fill_(count)

    def update(self, model: nn.Module) -> None:
        """Take in the weights after an update, if this one is looked at."""
        self._updates += 1
        if self._shares[self._updates - 1]:
            self._averaged.update_parameters(model)

    def _mix(self, averaged: Any, current: Any, _: object) -> None:
        if not averaged[0].is_floating_point():  # an index or a count has no mean
            for ours, theirs in zip(averaged, current, strict=True):
                ours.copy_(theirs)
            return
        share = float(self._shares[self._updates - 1])
        mix: Callable[..., None] = get_ema_multi_avg_fn(1 - share)
        mix(averaged, current, self._updates)
