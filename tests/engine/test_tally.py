import math
from dataclasses import dataclass

import pytest
import torch
from torch._C._functorch import is_batchedtensor

from lrtune import InputError
from lrtune.engine.evaluate import MetricAccumulator, _result
from lrtune.tasks.metrics import ACCURACY, CROSS_ENTROPY, MACRO_F1, R2, Metric

OUTPUTS = torch.randn(4, 30, 5, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(5, (30,), generator=torch.Generator().manual_seed(1))


def rows(metric: Metric, vmaps: dict[int, bool] | None = None) -> list[float]:
    sums = MetricAccumulator([metric], {} if vmaps is None else vmaps)
    sums.add(OUTPUTS, TARGETS)
    return [values[0] for values in sums.values()]


def alone(metric: Metric) -> list[float]:
    return [float(metric.function(outputs, TARGETS)) for outputs in OUTPUTS]


def with_item(outputs, targets):
    return (outputs.argmax(-1) == targets).double().mean().item()


def deceived(outputs, targets):
    """Another figure where many are given at once."""
    return outputs.mean() + float(is_batchedtensor(outputs))


@pytest.mark.parametrize(
    "metric",
    [
        CROSS_ENTROPY,
        ACCURACY,
        MACRO_F1,
        Metric("item", with_item, "maximize"),
        Metric("deceived", deceived, "minimize"),
    ],
    ids=lambda metric: metric.name,
)
def test_rows_are_as_each_alone(metric: Metric) -> None:
    scorer = {}
    for _ in range(3):  # the first time both ways are tried
        assert rows(metric, scorer) == pytest.approx(alone(metric))


def test_a_function_that_cannot_be_hashed() -> None:
    @dataclass
    class Scaled:
        factor: float

        def __call__(self, outputs, targets):
            return self.factor * outputs.mean()

    metric = Metric("scaled", Scaled(2.0), "minimize")
    assert rows(metric) == pytest.approx(alone(metric))


def test_what_can_be_is_computed_in_one_go() -> None:
    calls = []

    def counted(outputs, targets):
        calls.append(outputs)
        return outputs.mean()

    metric, scorer = Metric("counted", counted, "minimize"), {}
    rows(metric, scorer)
    calls.clear()
    rows(metric, scorer)
    assert len(calls) == 1


def test_an_error_is_that_of_its_trial() -> None:
    def picky(outputs, targets):
        if float(outputs.sum()) < 0:
            raise ValueError("negative")
        return outputs.mean()

    negative = [row for row in range(4) if OUTPUTS[row].sum() < 0]
    assert 0 < len(negative) < 4
    tally = MetricAccumulator([ACCURACY, Metric("picky", picky, "minimize")], {})
    tally.add(OUTPUTS, TARGETS)
    for row, figures in enumerate(tally.values()):
        assert isinstance(figures, ValueError) == (row in negative)


def test_the_data_being_wrong_is_nobodys_trial() -> None:
    def refuses(outputs, targets):
        raise InputError("two classes")

    with pytest.raises(InputError, match="two classes"):
        MetricAccumulator([Metric("refuses", refuses, "minimize", over="batch")], {}).add(
            OUTPUTS, TARGETS
        )


def test_batches_add_up_to_the_split() -> None:
    """Means are weighted by samples; a figure of the whole split sees it all at once."""
    targets = OUTPUTS[0, :, 0] * 2
    metrics = [R2, Metric("mean", lambda o, t: (o - t).mean(), "minimize", over="batch")]
    whole, parts = MetricAccumulator(metrics, {}), MetricAccumulator(metrics, {})
    whole.add(OUTPUTS[:, :, 0], targets)
    for start, stop in (0, 7), (7, 8), (8, 30):
        parts.add(OUTPUTS[:, start:stop, 0], targets[start:stop])
    for one, other in zip(parts.values(), whole.values(), strict=True):
        assert one == pytest.approx(other, rel=1e-5)


class Measured:
    metrics = (ACCURACY,)


@pytest.mark.parametrize(("averaged", "expected"), [([0.7], 0.7), (None, math.nan)])
def test_figures(averaged: object, expected: float) -> None:
    found = _result(Measured, [1.5, 0.5], averaged)
    assert found.loss == 1.5 and found.metrics == {"accuracy": 0.5}
    assert found.averaged == pytest.approx(expected, nan_ok=True)


def test_an_error_comes_before_figures() -> None:
    error = ValueError("no")
    assert _result(Measured, error, [0.7]) is error
    assert _result(Measured, [1.5, 0.5], error) is error  # not NaN, in silence
    assert "averaged weights" in error.__notes__[0]
