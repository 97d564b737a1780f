"""A regression with its own loss, metric and parameter groups.

    lrtune search studies/examples/regression.py:make --budget 20

How far will diabetes have gone in a year (scikit-learn's data, 442 patients)? Huber's loss, judged
by the error in points of the disease's own scale; weight decay on matrices alone; and a last layer
that learns at a fifth of the schedule's rate.
"""

from typing import Any

import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn

from lrtune import Metric, Split, Task


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 32), nn.LayerNorm(32), nn.GELU())
        self.head = nn.Linear(32, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.body(inputs)).squeeze(-1)


def groups(model: Net) -> list[dict[str, Any]]:
    body = list(model.body.parameters())
    return [
        {"params": [p for p in body if p.dim() > 1]},
        {"params": [p for p in body if p.dim() == 1], "weight_decay": 0.0},
        {"params": model.head.parameters(), "lr_ratio": 0.2},
    ]


def make() -> Task:
    raw = load_diabetes()
    order = torch.randperm(442, generator=torch.Generator().manual_seed(0))
    inputs, points = torch.tensor(raw.data)[order].float(), torch.tensor(raw.target)[order].float()
    mean, std = points[:282].mean(), points[:282].std()  # of the training rows alone

    def error(outputs: Tensor, targets: Tensor) -> Tensor:
        return std * (outputs - targets).abs().mean()

    def part(start: int, stop: int) -> Split:
        # scikit-learn scales the columns to unit norm: back to unit variance.
        return Split(inputs[start:stop] * 442**0.5, (points[start:stop] - mean) / std)

    return Task(
        name="progression",
        data="scikit-learn load_diabetes",
        train=part(0, 282),
        val=part(282, 362),
        test=part(362, 442),
        model=Net,
        model_name="one hidden layer",
        loss=nn.HuberLoss(),
        metrics=(Metric("error", error, "minimize", "points", over="batch"),),
        optimizer="adamw",
        settings={"weight_decay": 0.1},
        groups=groups,
        batch_size=32,
        epochs=30,
    )
