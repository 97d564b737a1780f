import numpy as np
import pytest
import sklearn.metrics as reference
import torch

from lrtune import InputError, Metric, load_task
from lrtune.tasks import METRICS

DRAW = np.random.default_rng(0)
SCORES = DRAW.normal(size=(60, 2)).round(1).astype(np.float32)  # with ties
LABELS = DRAW.integers(0, 2, 60)
VALUES, PREDICTED = DRAW.normal(size=(2, 60)).astype(np.float32)
PROBABILITIES = np.exp(SCORES) / np.exp(SCORES).sum(1, keepdims=True)

EXPECTED = {
    "cross_entropy": reference.log_loss(LABELS, PROBABILITIES),
    "accuracy": reference.accuracy_score(LABELS, SCORES.argmax(1)),
    "macro_f1": reference.f1_score(LABELS, SCORES.argmax(1), average="macro"),
    "roc_auc": reference.roc_auc_score(LABELS, SCORES[:, 1] - SCORES[:, 0]),
    "mse": reference.mean_squared_error(VALUES, PREDICTED),
    "mae": reference.mean_absolute_error(VALUES, PREDICTED),
    "r2": reference.r2_score(VALUES, PREDICTED),
}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, metrics in METRICS.items() for name in metrics]
)
def test_every_metric_equals_scikit_learns(kind: str, name: str) -> None:
    classes = kind == "classification"
    outputs = torch.from_numpy(SCORES if classes else PREDICTED)
    targets = torch.from_numpy(LABELS if classes else VALUES)
    found = float(METRICS[kind][name].function(outputs, targets))
    assert found == pytest.approx(EXPECTED[name], rel=1e-5)


@pytest.mark.parametrize("name", METRICS["classification"])
def test_a_model_that_diverged_is_no_error(name: str) -> None:
    outputs = torch.full((60, 2), float("nan"))
    float(METRICS["classification"][name].function(outputs, torch.from_numpy(LABELS)))


def test_the_metric_asked_for_is_the_objective() -> None:
    task = load_task("breast_cancer", metric="roc_auc")
    assert [m.name for m in task.metrics] == ["roc_auc", "cross_entropy", "accuracy"]
    assert task.objective.direction == "maximize"


def test_roc_auc_of_ten_classes() -> None:
    with pytest.raises(InputError, match="roc_auc: takes two classes, not 10"):
        load_task("digits", metric="roc_auc").check_model()


def test_a_direction_that_is_none() -> None:
    with pytest.raises(InputError, match="minimize or maximize"):
        Metric("m", lambda o, t: o.mean(), "max")
