"""Augmentation in a pool: a function of seed and update, in training alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lrtune.engine import SerialPool
from lrtune.engine.rng import INITIAL_WEIGHTS, derive
from lrtune.tasks import Metric, Split
from tests.engine.trials import states


def test_augmentation_is_a_function_of_seed_and_update(small):
    task = replace(small, augment=("crop", "cutout"))
    runs = [states(task, np.full(6, 0.1), seed)[1] for seed in (3, 3, 4)]
    losses = [np.concatenate([p.losses for p in told]) for told in runs]
    assert (losses[0] == losses[1]).all()
    assert (losses[0] != losses[2]).all()
    plain = np.concatenate([p.losses for p in states(small, np.full(6, 0.1))[1]])
    assert (losses[0] != plain).all()


def test_validation_is_never_augmented(small):
    """Untrained, both see the same."""
    plain, other = (
        states(replace(small, augment=names), np.zeros(6))[1][0].loss
        for names in ((), ("crop", "cutout", "mixup"))
    )
    assert plain == other


def test_mixed_targets_weigh_as_their_inputs(digits):
    """Every pixel holds the target: the mixed inputs tell what the mixed targets must be."""
    inputs = digits.train.targets.float()[:, None, None, None].expand(-1, 1, 8, 8).contiguous()

    def squared(outputs, targets):  # a sample at a time: linear in the weights of the targets
        return outputs.mul(targets[:, None].float()).mean()

    task = replace(
        digits,
        train=Split(inputs, digits.train.targets),
        prepare=nn.Identity(),
        model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 1)),
        classes=None,
        metrics=(Metric("mean", lambda o, t: o.mean(), "minimize"),),
        loss=squared,
        augment=("mixup",),
        epochs=6 * 32 / 1149,
        validations=1,
    )
    seen = []

    def watched(outputs, targets):
        seen.append((outputs.detach().clone(), targets.clone()))
        return squared(outputs, targets)

    pool = SerialPool(replace(task, loss=watched))
    pool.start(0, np.zeros(6), seed=0)
    seen.clear()
    (told,) = pool.advance()
    torch.manual_seed(derive(0, INITIAL_WEIGHTS))
    model = task.model()
    for update, loss in enumerate(told.losses):
        (outputs, kept), (_, rolled) = seen[2 * update : 2 * update + 2]
        assert torch.equal(rolled, kept.roll(1, 0))
        pixel = (outputs - model[1].bias) / model[1].weight.sum()  # the mixed targets
        mixed = pixel.squeeze(1)
        weight = ((mixed - rolled) / (kept - rolled))[kept != rolled]
        torch.testing.assert_close(weight, weight.mean().expand_as(weight), atol=1e-2, rtol=0)
        expected = (outputs.squeeze(1) * mixed).mean().item()
        assert loss == pytest.approx(expected, rel=1e-2)
