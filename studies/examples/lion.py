"""An optimizer of one's own: Lion (Chen 2023, arXiv 2302.06675), biases at half the rate.

lrtune search digits --optimizer studies/examples/lion.py:lion
"""

import torch
from torch import nn


class Lion(torch.optim.Optimizer):
    """Moves every weight by the rate, in the direction of a mean gradient's sign."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            first, second = group["betas"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(mean.lerp(weight.grad, 1 - first).sign_(), alpha=group["lr"])
                mean.lerp_(weight.grad, 1 - second)


def lion(model: nn.Module) -> torch.optim.Optimizer:
    """The schedule's rate for matrices, half of it for norms and biases, which do not decay."""
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1]},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "lr": 5e-5, "weight_decay": 0},
    ]
    return Lion(groups, lr=1e-4, weight_decay=0.1)
