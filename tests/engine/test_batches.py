"""Batches of several trials, stacked."""

import torch

from lrtune.engine.device_task import stack_batches


def test_weights_are_a_column():
    inputs, targets = torch.rand(4, 3), torch.arange(4)
    kept = torch.tensor(0.7)
    bare, mixed = [(1.0, targets)], [(kept, targets), (1 - kept, targets.roll(1))]
    (stacked, [(ones, _)]), (_, parts) = (
        stack_batches([(inputs, own)] * 2) for own in (bare, mixed)
    )
    assert stacked.shape == (2, 4, 3)
    assert ones.dtype == torch.float32 and ones.tolist() == [1.0, 1.0]
    assert [weights.tolist() for weights, _ in parts] == [[kept] * 2, [1 - kept] * 2]
    assert torch.equal(parts[1][1], targets.roll(1).expand(2, -1))
