"""A task whose model is large and does little, for searches that run out of memory."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from lrtune.tasks import Task, load_task

NUMBERS = 2_000_000  # 8 MB


class Heavy(nn.Module):
    """A linear model with ballast, which gradients pass."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.ballast = nn.Linear(64, 10), nn.Parameter(torch.zeros(NUMBERS))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(inputs.flatten(1).float() / 255) + self.ballast.mean()


def make() -> Task:
    """Digits, with that model."""
    return replace(load_task("digits", batch_size=64, epochs=1.0), model=Heavy)
