"""MetricAccumulator: each trial's own metrics. Blocks: a metric on the parts of a split."""

import re
from dataclasses import dataclass, replace

import pytest
import torch
from torch._C._functorch import is_batchedtensor
from torch.nn import functional as F

from lrtune import InputError
from lrtune.engine import FusedPool, SerialPool
from lrtune.engine.evaluate import BLOCKS, LEAST, Blocks, MetricAccumulator
from lrtune.tasks.metrics import ACCURACY, CROSS_ENTROPY, MACRO_F1, R2, Metric
from tests.engine.trials import falling

OUTPUTS = torch.randn(4, 30, 5, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(5, (30,), generator=torch.Generator().manual_seed(1))


def scores(metric, vmaps):
    sums = MetricAccumulator([metric], vmaps)
    sums.add(OUTPUTS, TARGETS)
    return [values[0] for values in sums.values()]


def with_item(outputs, targets):
    return (outputs.argmax(-1) == targets).double().mean().item()


def deceived(outputs, targets):
    """Another figure where many are given at once."""
    return outputs.mean() + float(is_batchedtensor(outputs))


@dataclass
class Scaled:
    """Cannot be hashed."""

    factor: float

    def __call__(self, outputs, targets):
        return self.factor * outputs.mean()


@pytest.mark.parametrize(
    "metric",
    [
        CROSS_ENTROPY,
        ACCURACY,
        MACRO_F1,
        Metric("item", with_item, "maximize"),
        Metric("deceived", deceived, "minimize"),
        Metric("scaled", Scaled(2.0), "minimize"),
    ],
    ids=lambda metric: metric.name,
)
def test_scores_are_as_each_alone(metric):
    vmaps = {}
    alone = [float(metric.function(outputs, TARGETS)) for outputs in OUTPUTS]
    for _ in range(3):  # the first time both ways are tried
        assert scores(metric, vmaps) == pytest.approx(alone)


def test_what_can_be_is_computed_in_one_go():
    calls = []

    def counted(outputs, targets):
        calls.append(outputs)
        return outputs.mean()

    metric, vmaps = Metric("counted", counted, "minimize"), {}
    scores(metric, vmaps)
    calls.clear()
    scores(metric, vmaps)
    assert len(calls) == 1


def test_an_error_is_that_of_its_trial():
    def picky(outputs, targets):
        if float(outputs.sum()) < 0:
            raise ValueError("negative")
        return outputs.mean()

    negative = [row for row in range(4) if OUTPUTS[row].sum() < 0]
    assert 0 < len(negative) < 4
    sums = MetricAccumulator([ACCURACY, Metric("picky", picky, "minimize")], {})
    sums.add(OUTPUTS, TARGETS)
    for row, values in enumerate(sums.values()):
        assert isinstance(values, ValueError) == (row in negative)


def test_the_data_being_wrong_is_nobodys_trial():
    def refuses(outputs, targets):
        raise InputError("two classes")

    with pytest.raises(InputError, match="two classes"):
        scores(Metric("refuses", refuses, "minimize", over="batch"), {})


def test_batches_add_up_to_the_split():
    """Means are weighted by samples; a figure of the whole split sees it all at once."""
    targets = OUTPUTS[0, :, 0] * 2
    metrics = [R2, Metric("mean", lambda o, t: (o - t).mean(), "minimize", over="batch")]
    whole, parts = MetricAccumulator(metrics, {}), MetricAccumulator(metrics, {})
    whole.add(OUTPUTS[:, :, 0], targets)
    for start, stop in (0, 7), (7, 8), (8, 30):
        parts.add(OUTPUTS[:, start:stop, 0], targets[start:stop])
    for one, other in zip(parts.values(), whole.values(), strict=True):
        assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize("make", [SerialPool, FusedPool])
def test_an_error_on_the_averaged_weights_is_the_trials_error(make, fifty):
    """And no NaN in silence."""
    calls = []

    def second_raises(outputs, targets):
        calls.append(outputs)
        if len(calls) > 1:  # the current weights come first
            raise ArithmeticError("no number")
        return outputs.mean()

    task = replace(fifty, metrics=(Metric("picky", second_raises, "minimize"),), average=0.5)
    pool = make(task, 2)
    progress = pool.start(0, falling(task), 0)
    assert progress.update == 0
    assert re.match(
        r"ArithmeticError: no number \(line \d+ of test_evaluate.py: raise Ar.*\), on the averaged "
        r"weights \(average=None in Task",
        progress.error,
    )
    again = pool.start(1, falling(task), 0).error
    assert again is not None and again.startswith("ArithmeticError: no number (")  # not forgotten


def of_blocks(metric, outputs, targets, batch):
    blocks = Blocks(metric, len(targets))
    for start in range(0, len(targets), batch):
        blocks.add(outputs[start : start + batch], targets[start : start + batch], None)
    return blocks.scores()


@pytest.mark.parametrize("metric", [ACCURACY, CROSS_ENTROPY, replace(ACCURACY, over="split")])
def test_the_same_whatever_the_batches_and_the_whole_is_their_mean(metric):
    torch.manual_seed(0)
    outputs, targets = torch.randn(403, 5), torch.randint(5, (403,))
    whole = of_blocks(metric, outputs, targets, 403)
    assert len(whole) == BLOCKS and len(set(whole)) > 5
    assert sum(whole) / BLOCKS == pytest.approx(float(metric.function(outputs, targets)), abs=0.01)
    for batch in (1, 100):
        assert of_blocks(metric, outputs, targets, batch) == pytest.approx(whole, abs=1e-5)
    means, jackknife = (
        of_blocks(replace(metric, over=over), outputs[:400], targets[:400], 100)
        for over in ("batch", "split")
    )
    assert jackknife == pytest.approx(means, abs=1e-4)  # of a mean, both are the same


def test_files_that_come_class_by_class_make_no_difference():
    """The spread of the parts is that of drawn samples, though each class scores otherwise."""
    targets = torch.arange(10).repeat_interleave(100)
    right = torch.rand(1000, generator=torch.Generator().manual_seed(0)) < targets / 10
    outputs = F.one_hot(torch.where(right, targets, (targets + 1) % 10), 10).float()
    parts = torch.tensor(of_blocks(ACCURACY, outputs, targets, 128))
    rate = float(parts.mean())
    expected = (rate * (1 - rate) / 1000) ** 0.5
    assert float(parts.std()) / BLOCKS**0.5 == pytest.approx(expected, rel=0.35)


def test_parts_of_a_text_are_neighbours():
    metric = Metric("level", lambda outputs, targets: outputs.mean(), "minimize", over="batch")
    levels = torch.arange(400.0)[:, None].expand(-1, 8)
    ends = of_blocks(metric, levels, torch.zeros(400, 8).long(), 64)
    assert ends == pytest.approx([9.5 + 20 * part for part in range(BLOCKS)])


def test_the_jackknife_tells_the_error_of_r2():
    """Its standard error is that of R² over many data sets, within a third."""
    torch.manual_seed(0)
    errors, values = [], []
    for _ in range(200):
        targets = torch.randn(200, 1)
        outputs = targets + 0.7 * torch.randn(200, 1)
        parts = torch.tensor(of_blocks(R2, outputs, targets, 64))
        errors.append(float(parts.std() / BLOCKS**0.5))
        values.append(float(R2.function(outputs, targets)))
    assert sum(errors) / 200 == pytest.approx(float(torch.tensor(values).std()), rel=0.33)


@pytest.mark.parametrize("over", ["batch", "split"])
def test_a_metric_that_cannot_be_of_a_part_loses_the_parts_alone(over):
    def whole_alone(outputs, targets):
        if len(targets) < 300:
            raise ValueError("only one class present")
        return outputs.mean()

    metric = Metric("picky", whole_alone, "minimize", over=over)
    assert of_blocks(metric, torch.rand(310, 2), torch.zeros(310), 310) == []


@pytest.mark.parametrize(("samples", "parts"), [(3, 0), (2 * LEAST - 1, 0), (2 * LEAST, 2)])
def test_too_few_samples_for_two_parts(samples, parts):
    targets = torch.zeros(samples).long()
    assert of_blocks(ACCURACY, torch.zeros(samples, 2), targets, 4) == [1.0] * parts
