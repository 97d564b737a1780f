"""Small models that several tests train."""

import torch
from torch import nn


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.layer(x.flatten(1))


class Counts(Plain):
    """A count that is assigned anew."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.count = self.count + 1
        return super().forward(x)


class TwoHeads(nn.Module):
    """Trees in, trees out."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 11)

    def forward(self, inputs):
        outputs = self.layer(inputs["pixels"].flatten(1))
        return {"digit": outputs[:, :10], "ink": (outputs[:, 10],)}
