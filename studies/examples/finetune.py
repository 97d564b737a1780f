"""Fine-tuning: a torchvision model with a frozen backbone and a new head.

    python studies/examples/finetune.py backbone.pt     # once: train a backbone on digits 0 to 4
    lrtune search studies/examples/finetune.py:make --budget 20

The head then learns the digits 5 to 9 from 150 examples. With weights of your own, or
torchvision's, load those instead: everything else stays as it is.
"""

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import shufflenet_v2_x0_5

from lrtune import Split, Task

WEIGHTS = Path("backbone.pt")


class Enlarge(nn.Module):
    """Stored digits, uint8 (n, 8, 8) in 0 ... 16, as the backbone wants them: (n, 3, 32, 32)."""

    def forward(self, images: Tensor) -> Tensor:
        scaled = (images.float() / 8 - 1).unsqueeze(1).expand(-1, 3, -1, -1)
        return F.interpolate(scaled, size=32, mode="bilinear")


class FineTuned(nn.Module):
    """Torchvision's ShuffleNet up to its first stage, frozen; a head, fresh for each trial.

    The later stages know too much of the digits 0 to 4 to be of use for others.
    """

    def __init__(self) -> None:
        super().__init__()
        backbone = shufflenet_v2_x0_5(num_classes=5)
        backbone.load_state_dict(torch.load(WEIGHTS, weights_only=True))
        first = nn.Sequential(backbone.conv1, backbone.maxpool, backbone.stage2)
        self.features = first.requires_grad_(False)
        self.head = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(768), nn.Linear(768, 5))

    def train(self, mode: bool = True) -> "FineTuned":
        super().train(mode)
        self.features.eval()  # a frozen model's dropout and running statistics rest too
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def digits(low: int) -> Split:
    """Five classes from ``low`` on, numbered from 0."""
    raw = load_digits()
    images, labels = torch.from_numpy(raw.images).byte(), torch.from_numpy(raw.target).long()
    chosen = (labels >= low) & (labels < low + 5)
    return Split(images[chosen], labels[chosen] - low)


def make() -> Task:
    if not WEIGHTS.exists():
        raise FileNotFoundError(f"{WEIGHTS}: make it first: python {__file__} {WEIGHTS}")
    new = digits(5)
    return Task(
        name="finetune",
        data="scikit-learn's digits 5 to 9",
        train=new.part(0, 150),
        val=new.part(150, 500),
        test=new.part(500, new.samples),
        prepare=Enlarge(),
        model=FineTuned,
        model_name="shufflenet_v2_x0_5, frozen",
        classes=5,
        optimizer="adamw",
        batch_size=30,
        epochs=20,
    )


def pretrain(epochs: int = 4) -> None:
    """Train the whole backbone on the digits 0 to 4 and save it."""
    torch.manual_seed(0)
    model, old, prepare = shufflenet_v2_x0_5(num_classes=5), digits(0), Enlarge()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, epochs * 18)
    for _ in range(epochs):
        for rows in torch.randperm(old.samples).split(50)[:18]:
            loss = F.cross_entropy(model(prepare(old.inputs[rows])), old.targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"loss {loss.item():.3f}", flush=True)
    torch.save(model.state_dict(), WEIGHTS)


if __name__ == "__main__":
    WEIGHTS = Path(sys.argv[1])
    pretrain()
