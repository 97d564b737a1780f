"""Several outputs and several targets: where is the digit, and what is its box?

    lrtune search studies/examples/segmentation.py:make --budget 20

scikit-learn's digits, each at a random place of a noisy 24x24 scene. The model gives a mask and a
box; the loss adds theirs up; the search improves the masks' intersection over union.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, Subset

from lrtune import Metric, Task

SIDE = 24


class Scenes(Dataset):
    """Map-style: row -> (image, {"mask", "box"}), a function of the row alone."""

    def __init__(self) -> None:
        self._digits = load_digits().images.astype(np.float32) / 16

    def __len__(self) -> int:
        return len(self._digits)

    def __getitem__(self, row: int) -> tuple[Tensor, dict[str, Tensor]]:
        generator = np.random.default_rng(row)
        top, left = generator.integers(0, SIDE - 8, size=2)
        clean = np.zeros((SIDE, SIDE), np.float32)
        clean[top : top + 8, left : left + 8] = self._digits[row]
        noisy = clean + generator.normal(0, 0.2, clean.shape).astype(np.float32)
        mask = torch.from_numpy(clean > 0.25)
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        corners = torch.cat([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        return torch.from_numpy(noisy)[None], {"mask": mask, "box": corners.float() / SIDE}


class Net(nn.Module):
    """Images (n, 1, 24, 24) -> {"mask": logits (n, 24, 24), "box": (n, 4) in 0 ... 1}."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 5, padding=2, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
        )
        self.mask = nn.Conv2d(16, 1, 1)
        self.box = nn.Sequential(nn.MaxPool2d(4), nn.Flatten(), nn.Linear(16 * 36, 4))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.body(images)
        return {"mask": self.mask(features).squeeze(1), "box": self.box(features).sigmoid()}


def loss(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    masks = F.binary_cross_entropy_with_logits(outputs["mask"], targets["mask"].float())
    return masks + 5 * F.smooth_l1_loss(outputs["box"], targets["box"])


def iou(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    found, true = outputs["mask"] > 0, targets["mask"]
    return (found & true).sum() / (found | true).sum().clamp_min(1)


def box_error(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    return SIDE * (outputs["box"] - targets["box"]).abs().mean()


def make() -> Task:
    scenes = Scenes()
    return Task(
        name="scenes",
        data="scikit-learn's digits in noisy scenes",
        train=Subset(scenes, range(1200)),
        val=Subset(scenes, range(1200, 1500)),
        test=Subset(scenes, range(1500, 1797)),
        model=Net,
        model_name="two-headed CNN",
        loss=loss,
        metrics=(
            Metric("iou", iou, "maximize"),
            Metric("box_error", box_error, "minimize", "pixels", over="batch"),
        ),
        optimizer="adamw",
        batch_size=32,
        epochs=8,
    )
