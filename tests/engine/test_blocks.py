"""Blocks: means on the parts of a split, whatever the batches; the jackknife of what is no mean."""

import itertools

import pytest
import torch

from lrtune.engine.blocks import BLOCKS, LEAST, Blocks
from lrtune.tasks.metrics import ACCURACY, CROSS_ENTROPY, R2


def scored(metric, outputs, targets, batch):
    blocks = Blocks(metric, len(targets))
    for start in range(0, len(targets), batch):
        blocks.add(outputs[start : start + batch], targets[start : start + batch])
    return blocks.scores()


@pytest.fixture
def classes():
    torch.manual_seed(0)
    return torch.randn(403, 5), torch.randint(5, (403,))


@pytest.mark.parametrize("batch", [1, 7, 100, 403])
@pytest.mark.parametrize("metric", [ACCURACY, CROSS_ENTROPY])
def test_means_on_the_parts_whatever_the_batches(classes, metric, batch):
    outputs, targets = classes
    ends = [i * 403 // BLOCKS for i in range(BLOCKS + 1)]
    expected = [
        float(metric.function(outputs[a:b], targets[a:b])) for a, b in itertools.pairwise(ends)
    ]
    assert scored(metric, outputs, targets, batch) == pytest.approx(expected, abs=1e-5)


def test_the_jackknife_of_a_mean_is_that_mean(classes):
    outputs, targets = classes[0][:400], classes[1][:400]
    whole = CROSS_ENTROPY.__class__("same", CROSS_ENTROPY.function, "minimize", over="split")
    means = scored(CROSS_ENTROPY, outputs, targets, 100)
    assert scored(whole, outputs, targets, 100) == pytest.approx(means, abs=1e-4)


def test_the_jackknife_tells_the_error_of_r2():
    """Its standard error is that of R² over many data sets, within a third."""
    torch.manual_seed(0)
    errors, found = [], []
    for _ in range(200):
        targets = torch.randn(200, 1)
        outputs = targets + 0.7 * torch.randn(200, 1)
        scores = torch.tensor(scored(R2, outputs, targets, 64))
        errors.append(float(scores.std() / BLOCKS**0.5))
        found.append(float(R2.function(outputs, targets)))
    assert sum(errors) / 200 == pytest.approx(float(torch.tensor(found).std()), rel=0.33)


def test_too_few_samples_for_two_parts():
    assert (
        scored(ACCURACY, torch.zeros(2 * LEAST - 1, 2), torch.zeros(2 * LEAST - 1).long(), 4) == []
    )
    few = scored(ACCURACY, torch.zeros(2 * LEAST, 2), torch.zeros(2 * LEAST).long(), 4)
    assert few == [1.0, 1.0]
