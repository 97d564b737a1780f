"""Losses, and METRICS: what a validation measures, and which way is better."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from lrtune.errors import InputError

Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure over a split.

    Attributes:
        name: as reports show it.
        function: ``function(outputs, targets)`` -> a number or a scalar tensor.
        direction: which way is better.
        unit: of the figure.
        over: ``split``: the function sees the outputs for all samples at once; ``batch``: it is a
            mean over samples, so that batches are enough, and the outputs need not be kept.
    """

    name: str
    function: Callable[[Any, Any], Tensor | float]
    direction: Direction
    unit: str = ""
    over: Literal["split", "batch"] = "split"

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name.isprintable() and self.name):
            raise InputError(f"metric: name={self.name!r}: expected a name")
        for name, words in (("over", ("split", "batch")), ("direction", get_args(Direction))):
            if (value := getattr(self, name)) not in words:
                raise InputError(f"metric {self.name}: {name}={value!r}: {' or '.join(words)}")


class CrossEntropy(nn.Module):
    """The loss of class targets, in nats: labels (n,) or tokens (n, t) of any integer type."""

    weight: Tensor | None

    def __init__(self, label_smoothing: float = 0.0, weight: Tensor | None = None) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.register_buffer("weight", weight)

    def forward(
        self, outputs: Tensor, targets: Tensor, label_smoothing: float | None = None
    ) -> Tensor:
        """Outputs (n, classes) or (n, t, classes) -> the mean; by its own smoothing where None."""
        return F.cross_entropy(
            outputs.flatten(0, -2),
            targets.flatten().long(),
            weight=self.weight,
            label_smoothing=self.label_smoothing if label_smoothing is None else label_smoothing,
        )

    def __repr__(self) -> str:
        parts = [f"label_smoothing={self.label_smoothing:g}"] if self.label_smoothing else []
        parts += ["class weights"] if self.weight is not None else []
        return "cross_entropy" + (f" ({', '.join(parts)})" if parts else "")


def smoothing_of(loss: Any) -> float | None:
    """The label smoothing of a loss that takes another one; None of any other loss."""
    if isinstance(loss, CrossEntropy):
        return loss.label_smoothing
    return 0.0 if loss is F.cross_entropy else None


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over samples and tokens, nats; no smoothing, no weights."""
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten().long())


def bits_per_character(tokens_per_character: float = 1.0) -> Metric:
    """Cross-entropy of a text in bits per character, whatever the tokens are."""

    def bits(outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets) * (tokens_per_character / math.log(2))

    return Metric("bits_per_character", bits, "minimize", "bits", "batch")


def model_loss(outputs: Any, targets: Any) -> Tensor:
    """The loss that the model itself computes: ``outputs.loss``, as Hugging Face's models do."""
    loss: Tensor | None = outputs.get("loss") if isinstance(outputs, Mapping) else None
    if loss is None:
        raise ValueError(
            "the model gives no loss: transformers' models with a head do where samples hold labels"
            " (a language model's are its input_ids); or give the task loss="
        )
    return loss


def logits_of(outputs: Any) -> Tensor:
    """Scores of classes: the outputs themselves, or those that are called so."""
    logits: Tensor = outputs["logits"] if isinstance(outputs, Mapping) else outputs
    return logits


def _accuracy(outputs: Any, targets: Tensor) -> Tensor:
    return (logits_of(outputs).argmax(-1) == targets).double().mean()


def _macro_f1(outputs: Tensor, targets: Tensor) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(targets.cpu(), outputs.argmax(-1).cpu(), average="macro"))


def _roc_auc(outputs: Tensor, targets: Tensor) -> float:
    from sklearn.metrics import roc_auc_score

    if outputs.shape[-1] != 2:
        raise InputError(f"metric roc_auc: takes two classes, not {outputs.shape[-1]}")
    scores = outputs[:, 1] - outputs[:, 0]
    if not bool(scores.isfinite().all()) or bool((targets == targets[0]).all()):
        return float("nan")  # scikit-learn raises or warns; a diverged model is not an error
    return float(roc_auc_score(targets.cpu(), scores.cpu()))


def _r2(outputs: Tensor, targets: Tensor) -> Tensor:
    return 1 - F.mse_loss(outputs, targets) / targets.var(correction=0)


CROSS_ENTROPY = Metric("cross_entropy", cross_entropy, "minimize", "nats", "batch")
ACCURACY = Metric("accuracy", _accuracy, "maximize", over="batch")
MACRO_F1 = Metric("macro_f1", _macro_f1, "maximize")
ROC_AUC = Metric("roc_auc", _roc_auc, "maximize")
MSE = Metric("mse", F.mse_loss, "minimize", over="batch")
MAE = Metric("mae", F.l1_loss, "minimize", over="batch")
R2 = Metric("r2", _r2, "maximize")

# What may be asked for, by the kind of task; the first is the objective if nothing is.
METRICS: dict[str, tuple[Metric, ...]] = {
    "classification": (CROSS_ENTROPY, ACCURACY, MACRO_F1, ROC_AUC),
    "regression": (MSE, R2, MAE),
    "text": (CROSS_ENTROPY, bits_per_character(), ACCURACY),
}


class OfLoss(tuple[Metric, ...]):
    """Metrics that nobody chose: they follow the loss of a task, another one's too."""


def metrics_of(loss: Callable[[Any, Any], Tensor], classes: int | None) -> OfLoss:
    """What a task is judged by that names no metric: its own loss, and accuracy of classes."""
    if loss is F.cross_entropy:
        return OfLoss((CROSS_ENTROPY, ACCURACY))
    own = Metric("loss", loss, "minimize", over="batch")
    return OfLoss((own,) if classes is None else (own, ACCURACY))


def are_metrics(value: object) -> bool:
    """Whether these are the metrics that a task can hold, those that follow its loss too."""
    if isinstance(value, OfLoss):
        return True
    if not (isinstance(value, tuple) and all(isinstance(m, Metric) for m in value)):
        return False
    return 0 < len(value) == len({m.name for m in value})
