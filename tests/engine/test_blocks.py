"""Blocks: means on the parts of a split, whatever the batches; the jackknife of what is no mean."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from lrtune.engine.evaluate import BLOCKS, LEAST, Blocks
from lrtune.tasks.metrics import ACCURACY, CROSS_ENTROPY, R2, Metric


def scored(metric, outputs, targets, batch):
    blocks = Blocks(metric, len(targets))
    for start in range(0, len(targets), batch):
        blocks.add(outputs[start : start + batch], targets[start : start + batch])
    return blocks.scores()


@pytest.fixture
def classes():
    torch.manual_seed(0)
    return torch.randn(403, 5), torch.randint(5, (403,))


@pytest.mark.parametrize("metric", [ACCURACY, CROSS_ENTROPY, replace(ACCURACY, over="split")])
def test_the_same_whatever_the_batches_and_the_whole_is_their_mean(classes, metric):
    outputs, targets = classes
    whole = scored(metric, outputs, targets, 403)
    assert len(whole) == BLOCKS and len(set(whole)) > 5
    assert sum(whole) / BLOCKS == pytest.approx(float(metric.function(outputs, targets)), abs=0.01)
    for batch in (1, 7, 100):
        assert scored(metric, outputs, targets, batch) == pytest.approx(whole, abs=1e-5)


def test_the_jackknife_of_a_mean_is_that_mean(classes):
    outputs, targets = classes[0][:400], classes[1][:400]
    means = scored(CROSS_ENTROPY, outputs, targets, 100)
    jackknife = scored(replace(CROSS_ENTROPY, over="split"), outputs, targets, 100)
    assert jackknife == pytest.approx(means, abs=1e-4)


def test_files_that_come_class_by_class_make_no_difference():
    """The spread of the parts is that of drawn samples, though each class scores otherwise."""
    targets = torch.arange(10).repeat_interleave(100)
    right = torch.rand(1000, generator=torch.Generator().manual_seed(0)) < targets / 10
    outputs = F.one_hot(torch.where(right, targets, (targets + 1) % 10), 10).float()
    scores = torch.tensor(scored(ACCURACY, outputs, targets, 128))
    rate = float(scores.mean())
    expected = (rate * (1 - rate) / 1000) ** 0.5
    assert float(scores.std()) / BLOCKS**0.5 == pytest.approx(expected, rel=0.35)


def test_parts_of_a_text_are_neighbours():
    metric = Metric("level", lambda outputs, targets: outputs.mean(), "minimize", over="batch")
    levels = torch.arange(400.0)[:, None].expand(-1, 8)
    ends = scored(metric, levels, torch.zeros(400, 8).long(), 64)
    assert ends == pytest.approx([9.5 + 20 * part for part in range(BLOCKS)])


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


def test_a_metric_that_cannot_be_of_a_part_loses_the_parts_alone():
    def whole_alone(outputs, targets):
        if len(targets) < 300:
            raise ValueError("only one class present")
        return outputs.mean()

    for over in ("batch", "split"):
        metric = Metric("picky", whole_alone, "minimize", over=over)
        assert scored(metric, torch.rand(310, 2), torch.zeros(310), 310) == []
    assert scored(ACCURACY, torch.zeros(3, 2), torch.zeros(3).long(), 3) == []


def test_too_few_samples_for_two_parts():
    none = 2 * LEAST - 1
    assert scored(ACCURACY, torch.zeros(none, 2), torch.zeros(none).long(), 4) == []
    few = 2 * LEAST
    assert scored(ACCURACY, torch.zeros(few, 2), torch.zeros(few).long(), 4) == [1.0, 1.0]
