"""METRICS: what a validation measures, and which way is better."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from lrtune.errors import InputError

Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure over a whole split; ``function(outputs, targets)`` gives a number or a scalar."""

    name: str
    function: Callable[[Tensor, Tensor], Tensor | float]
    direction: Direction
    unit: str = ""

    def __post_init__(self) -> None:
        """Refuse a direction that is none."""
        if self.direction not in ("minimize", "maximize"):
            raise InputError(
                f"metric {self.name}: direction={self.direction!r}: minimize or maximize"
            )


def _accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(-1) == targets).float().mean()


def _macro_f1(outputs: Tensor, targets: Tensor) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(targets.cpu(), outputs.argmax(-1).cpu(), average="macro"))


def _roc_auc(outputs: Tensor, targets: Tensor) -> float:
    from sklearn.metrics import roc_auc_score

    if outputs.shape[-1] != 2:
        raise InputError(f"metric roc_auc: takes two classes, not {outputs.shape[-1]}")
    scores = outputs[:, 1] - outputs[:, 0]
    if not bool(scores.isfinite().all()):
        return float("nan")  # scikit-learn raises; a diverged model is not an error
    return float(roc_auc_score(targets.cpu(), scores.cpu()))


def _r2(outputs: Tensor, targets: Tensor) -> Tensor:
    return 1 - F.mse_loss(outputs, targets) / targets.var(correction=0)


CROSS_ENTROPY = Metric("cross_entropy", F.cross_entropy, "minimize", "nats")
ACCURACY = Metric("accuracy", _accuracy, "maximize")
MACRO_F1 = Metric("macro_f1", _macro_f1, "maximize")
ROC_AUC = Metric("roc_auc", _roc_auc, "maximize")
MSE = Metric("mse", F.mse_loss, "minimize")
MAE = Metric("mae", F.l1_loss, "minimize")
R2 = Metric("r2", _r2, "maximize")

# What may be asked for, by the kind of task; the first is the objective if nothing is.
METRICS: dict[str, dict[str, Metric]] = {
    kind: {metric.name: metric for metric in metrics}
    for kind, metrics in {
        "classification": (CROSS_ENTROPY, ACCURACY, MACRO_F1, ROC_AUC),
        "regression": (MSE, MAE, R2),
    }.items()
}


def are_metrics(value: object) -> bool:
    """Whether these are the metrics that a task can hold."""
    if not (isinstance(value, tuple) and all(isinstance(m, Metric) for m in value)):
        return False
    return 0 < len(value) == len({m.name for m in value})
