"""Fine-tuning: a model that was trained on other images, its backbone frozen, and a new head.

    python studies/examples/finetune.py   # once: makes new/ and old.pt
    lrtune search new --image-size 32 --model shufflenet_v2_x0_5 --weights old.pt --freeze backbone

The images are scikit-learn's digits: the model was trained on 0 to 5, and the head learns 6 to 9.
The backbone runs over the images once, so a trial costs no more than its head. With torchvision's
own weights, give ``--weights default --download`` in place of the file.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn import functional as F
from torchvision.models import shufflenet_v2_x0_5
from torchvision.transforms.v2.functional import normalize

SIDE = 32  # pixels
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # as of torchvision's own weights


def pretrain(images: torch.Tensor, labels: torch.Tensor, epochs: int = 4) -> None:
    """Train a whole model on uint8 images (n, 3, SIDE, SIDE) of six classes, and save it."""
    torch.manual_seed(0)
    model = shufflenet_v2_x0_5(num_classes=6)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    inputs = normalize(images / 255, MEAN, STD)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(50)[:-1]:
            loss = F.cross_entropy(model(inputs[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"loss {loss.item():.3f}", flush=True)
    torch.save(model.state_dict(), "old.pt")


def main() -> None:
    """Write the digits 6 to 9 as files in a folder per class; train a model on the others."""
    raw = load_digits()
    images = [
        Image.fromarray((15 * image).astype(np.uint8)).resize((SIDE, SIDE)).convert("RGB")
        for image in raw.images
    ]
    for number, (image, label) in enumerate(zip(images, raw.target, strict=True)):
        if label >= 6:
            folder = Path("new", str(label))
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{number}.png")
    others = np.flatnonzero(raw.target < 6)
    stacked = torch.from_numpy(np.stack([images[row] for row in others])).movedim(-1, 1)
    pretrain(stacked, torch.from_numpy(raw.target[others]))


if __name__ == "__main__":
    main()
