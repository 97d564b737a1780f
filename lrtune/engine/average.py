"""The exponential moving average of a model's weights."""

from collections.abc import Callable, Iterator
from copy import deepcopy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


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
    """Weights and floating-point buffers, averaged over the last updates.

    Torch's AveragedModel copies its count to the device at each look, and with a rule of ours would
    be part of a cycle, so that the memory of a trial that is over would wait for the collector.

    Attributes:
        model: with averaged weights.
        updates: how many there have been.
    """

    def __init__(self, model: nn.Module, shares: NDArray[np.float64]) -> None:
        """Begin with the model as it is.

        Args:
            model: whose weights are averaged.
            shares: (horizon,), see ``newest_shares``.
        """
        self.model = deepcopy(model)
        self.updates = 0
        self._shares = shares

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after an update, if this one is looked at."""
        share = float(self._shares[self.updates])
        self.updates += 1
        if not share:
            return
        means, newest = [], []
        for mean, new in zip(_tensors(self.model), _tensors(model), strict=True):
            if mean.is_floating_point():
                means.append(mean)
                newest.append(new)
            else:  # an index or a count has no mean
                mean.copy_(new)
        mix: Callable[..., None] = get_ema_multi_avg_fn(1 - share)
        mix(means, newest, self.updates)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()
