"""A task whose training batches are counted in a file; a machine is slow where it is told to be.

Found by its path, as a user's own is: no host has it on its path.
"""

import os
import time
from dataclasses import replace

import torch
from torch import nn

from lrtune import Task, load_task


class Counted(nn.Module):
    def __init__(self, count: str) -> None:
        super().__init__()
        self.count = count
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            with open(self.count, "ab", buffering=0) as count:
                count.write(b".")
            time.sleep(float(os.environ.get("LRTUNE_TEST_SLOW", 0)))
        return self.layers(x)


def make() -> Task:
    count = os.environ["LRTUNE_TEST_COUNT"]
    return replace(load_task("digits", batch_size=64, epochs=2), model=lambda: Counted(count))
