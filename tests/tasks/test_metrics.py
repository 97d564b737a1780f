import math

import numpy as np
import pytest
import sklearn.metrics as reference
import torch
from torch.nn import functional as F

from lrtune import InputError, Metric, load_task
from lrtune.tasks import METRICS, check_model
from lrtune.tasks.metrics import CrossEntropy, bits_per_character

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
    found = float(metric.function(outputs, targets))
    assert found == pytest.approx(EXPECTED[metric.name], rel=1e-5)


@pytest.mark.parametrize("metric", METRICS["classification"], ids=lambda metric: metric.name)
def test_a_model_that_diverged_is_no_error(metric: Metric) -> None:
    outputs = torch.full((60, 2), float("nan"))
    float(metric.function(outputs, torch.from_numpy(LABELS)))


def test_tokens_count_alike_whatever_their_shape_and_type() -> None:
    outputs, labels = torch.from_numpy(SCORES), torch.from_numpy(LABELS)
    tokens = labels.view(12, 5).to(torch.uint8)
    for metric in METRICS["text"]:
        flat = float(metric.function(outputs, labels))
        assert float(metric.function(outputs.view(12, 5, 2), tokens)) == pytest.approx(flat)


def test_bytes_are_told_as_characters() -> None:
    outputs, labels = torch.from_numpy(SCORES), torch.from_numpy(LABELS)
    metric = bits_per_character(1.5)
    assert float(metric.function(outputs, labels)) == pytest.approx(1.5 * ENTROPY / math.log(2))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weights", [None, torch.tensor([3.0, 0.5])])
def test_the_loss_of_classes_is_torchs(smoothing: float, weights: torch.Tensor | None) -> None:
    outputs, labels = torch.from_numpy(SCORES), torch.from_numpy(LABELS)
    expected = F.cross_entropy(outputs, labels, weight=weights, label_smoothing=smoothing)
    torch.testing.assert_close(CrossEntropy(smoothing, weights)(outputs, labels), expected)


def test_class_weights_balance_the_classes() -> None:
    """Every class has the same share of a loss that is the same for all samples."""
    task = load_task("breast_cancer", class_weights="balanced")
    counts = task.train.targets.bincount()
    assert (task.loss.weight * counts).tolist() == pytest.approx([task.train.samples / 2] * 2)
    assert repr(task.loss) == "cross_entropy (class weights)"


def test_the_metric_asked_for_is_the_objective() -> None:
    task = load_task("breast_cancer", metric="roc_auc")
    assert [m.name for m in task.metrics] == ["roc_auc", "cross_entropy", "accuracy"]
    assert task.objective.direction == "maximize"


def test_roc_auc_of_ten_classes() -> None:
    with pytest.raises(InputError, match="roc_auc: takes two classes, not 10"):
        check_model(load_task("digits", batch_size=32, metric="roc_auc"))


def test_a_direction_that_is_none() -> None:
    with pytest.raises(InputError, match="minimize or maximize"):
        Metric("m", lambda o, t: o.mean(), "max")


def test_a_range_that_is_none() -> None:
    with pytest.raises(InputError, match="metric m: over='all': split or batch"):
        Metric("m", lambda o, t: o.mean(), "maximize", over="all")
