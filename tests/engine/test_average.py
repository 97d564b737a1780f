"""Averaged weights: by hand, and what they leave alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lrtune.engine.device_task import ema_shares
from lrtune.engine.serial import Average
from tests.engine.trials import net, states


def test_validation_is_of_the_averaged_weights(small):
    """By hand: the mean of the weights after each update, weighted d**age, bias divided out."""
    task = replace(small, validations=6, ema=0.5)
    weights, told = states(task, np.full(6, 0.3))
    decay = 1 - 1 / (0.5 * 6)
    for count in range(1, 7):
        ages = torch.tensor([decay ** (count - 1 - i) for i in range(count)])
        model = net()
        mean = {
            name: sum(a * w[name] for a, w in zip(ages / ages.sum(), weights, strict=False))
            for name, tensor in weights[0].items()
            if tensor.is_floating_point()
        }
        model.load_state_dict(mean, strict=False)
        inputs, targets = task.val
        expected = F.cross_entropy(model.eval()(task.prepare(inputs)), targets)
        assert told[count].loss == pytest.approx(expected.item(), rel=1e-4)


class Indexed(nn.Module):
    """With an index as a buffer: its mean would be another index."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.register_buffer("index", torch.arange(64).flip(0))

    def forward(self, inputs):
        return self.layer(inputs.flatten(1)[:, self.index])


def test_whole_numbers_are_not_averaged():
    model = Indexed()
    average = Average(model, ema_shares(7, np.array([60]), 1))
    for _ in range(60):
        average.update(model)
    assert torch.equal(average.model.index, model.index)


def test_averaging_leaves_the_training_as_it_is(small):
    plain, told = states(small, np.full(6, 0.1))
    averaged, others = states(replace(small, ema=0.5), np.full(6, 0.1))
    for name, tensor in plain[-1].items():
        assert torch.equal(averaged[-1][name], tensor)
    assert told[-1].loss != others[-1].loss


def test_weights_are_looked_at_from_each_validation_on():
    shares = ema_shares(40, np.array([10, 21, 30]), 5)
    assert (np.flatnonzero(shares) + 1).tolist() == [5, 10, 15, 20, 26]
    decay = (1 - 1 / 40) ** 5
    looks = np.arange(1, 6)
    np.testing.assert_allclose(shares[shares > 0], (1 - decay) / (1 - decay**looks))


def test_each_segment_is_looked_at_however_short():
    shares = ema_shares(400, np.array([3, 6, 9]), 50)
    assert (np.flatnonzero(shares) + 1).tolist() == [3, 6, 9]


def test_the_average_is_judged_beside_the_weights(small):
    """With ema its value is the objective; without, it is told beside, and changes nothing."""
    bare, told = states(replace(small, validations=6, average=None), np.full(6, 0.3))
    beside, others = states(replace(small, validations=6, average=0.5), np.full(6, 0.3))
    for name, tensor in bare[-1].items():
        assert torch.equal(beside[-1][name], tensor)
    assert [one.loss for one in told] == [one.loss for one in others]
    assert all(np.isnan(one.averaged) for one in told)
    _, by_ema = states(replace(small, validations=6, ema=0.5), np.full(6, 0.3))
    assert [one.averaged for one in others[1:]] == pytest.approx(
        [one.metrics[small.objective.name] for one in by_ema[1:]]
    )
