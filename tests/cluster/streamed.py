"""Tasks whose samples stay where they are; where the environment says so, one is another.

Found by its path, as a user's own is: no host has it on its path.
"""

import os
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.data import Dataset

from lrtune import Task


@dataclass
class Rows(Dataset):
    samples: int
    other: int  # the row
    noise: float

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        other = row == self.other and "LRTUNE_TEST_OTHER" in os.environ
        numbers = [row / self.samples, row % 2 + other, float(self.noise * torch.rand(()))]
        return torch.tensor(numbers), row % 2


def first(other: int = 0, noise: float = 0.0) -> Task:
    train, val = (Rows(samples, other, noise) for samples in (320, 160))
    model = lambda: nn.Linear(3, 2)  # noqa: E731
    return Task(name="mine", train=train, val=val, model=model, memory=1, classes=2, epochs=4)


def second() -> Task:
    return first(other=1)


def drawn() -> Task:
    return first(noise=0.1)
