"""METRICS and the loss of classes against scikit-learn's and torch's."""

import math

import numpy as np
import pytest
import sklearn.metrics as reference
import torch
from torch.nn import functional as F

from lrtune import Metric, load_task
from lrtune.tasks import METRICS
from lrtune.tasks.metrics import CrossEntropy
from tests.tasks.conftest import refused

DRAW = np.random.default_rng(0)
SCORES = DRAW.normal(size=(60, 2)).round(1).astype(np.float32)  # with ties
LABELS = DRAW.integers(0, 2, 60)
VALUES, PREDICTED = DRAW.normal(size=(2, 60)).astype(np.float32)
PROBABILITIES = np.exp(SCORES) / np.exp(SCORES).sum(1, keepdims=True)

ENTROPY = reference.log_loss(LABELS, PROBABILITIES)
EXPECTED = {
    "bits_per_character": ENTROPY / math.log(2),
    "cross_entropy": ENTROPY,
    "accuracy": reference.accuracy_score(LABELS, SCORES.argmax(1)),
    "macro_f1": reference.f1_score(LABELS, SCORES.argmax(1), average="macro"),
    "roc_auc": reference.roc_auc_score(LABELS, SCORES[:, 1] - SCORES[:, 0]),
    "mse": reference.mean_squared_error(VALUES, PREDICTED),
    "mae": reference.mean_absolute_error(VALUES, PREDICTED),
    "r2": reference.r2_score(VALUES, PREDICTED),
}


@pytest.mark.parametrize(
    ("kind", "metric"),
    [(kind, metric) for kind, metrics in METRICS.items() for metric in metrics],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_metric_equals_scikit_learns(kind: str, metric: Metric) -> None:
    classes = kind != "regression"
    outputs = torch.from_numpy(SCORES if classes else PREDICTED)
    targets = torch.from_numpy(LABELS if classes else VALUES)
    value = float(metric.function(outputs, targets))
    assert value == pytest.approx(EXPECTED[metric.name], rel=1e-5)
    if classes:  # a model that diverged is no error
        float(metric.function(torch.full_like(outputs, math.nan), targets))
    if kind == "text":  # tokens count alike whatever their shape and type
        tokens = targets.view(12, 5).to(torch.uint8)
        assert float(metric.function(outputs.view(12, 5, 2), tokens)) == pytest.approx(value)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weights", [None, torch.tensor([3.0, 0.5])])
def test_the_loss_of_classes_is_torchs(smoothing: float, weights: torch.Tensor | None) -> None:
    outputs, labels = torch.from_numpy(SCORES), torch.from_numpy(LABELS)
    expected = F.cross_entropy(outputs, labels, weight=weights, label_smoothing=smoothing)
    torch.testing.assert_close(CrossEntropy(smoothing, weights)(outputs, labels), expected)


def test_class_weights_balance_the_classes() -> None:
    """Every class has the same share of a loss that is the same for all samples."""
    task = load_task("breast_cancer", class_weights="balanced", metric="roc_auc")
    counts = task.train.targets.bincount()
    assert (task.loss.weight * counts).tolist() == pytest.approx([task.train.samples / 2] * 2)
    assert repr(task.loss) == "cross_entropy (class weights)"
    # The metric asked for is the objective.
    assert [m.name for m in task.metrics] == ["roc_auc", "cross_entropy", "accuracy"]
    assert task.objective.direction == "maximize"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"direction": "max"}, "metric m: direction='max': minimize or maximize"),
        ({"over": "all"}, "metric m: over='all': split or batch"),
        ({"name": ""}, "name='': expected a name"),
    ],
)
def test_a_metric_is_checked(change: dict[str, str], message: str) -> None:
    with refused(message):
        Metric(**{"name": "m", "function": torch.dist, "direction": "minimize"} | change)
