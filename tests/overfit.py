"""A task on which every training overfits: judged at its end it is worse than at its best."""

import torch
from torch import nn

from lrtune import Schedule, Split, Task

SCHEDULES = Schedule("constant", peak_lr=0.05), Schedule("cosine", peak_lr=0.05)


def overfit(validations: int = 6) -> Task:
    """60 updates on few samples, wrong labels among them: first what is so, then all of them."""
    generator = torch.Generator().manual_seed(0)

    def split(samples: int, wrong: float) -> Split:
        inputs = torch.randn(samples, 8, generator=generator)
        flipped = torch.rand(samples, generator=generator) < wrong
        return Split(inputs, ((inputs[:, 0] > 0) ^ flipped).long())

    return Task(
        name="noise",
        train=split(16, wrong=0.3),
        val=split(60, wrong=0.2),
        test=split(60, wrong=0.2),
        model=lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)),
        classes=2,
        batch_size=8,
        epochs=30,
        validations=validations,
        average=None,
    )
