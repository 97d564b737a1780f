"""MODELS: a sound default per kind of data."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def mlp(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Two hidden layers of 128: for small flat inputs."""
    features = int(torch.Size(shape).numel())
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(features, 128),
        nn.ReLU(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, classes),
    )


def cnn(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Three blocks of convolution, batch norm and pooling, then global average pooling."""

    def block(width_in: int, width: int, pool: nn.Module) -> list[nn.Module]:
        convolution = nn.Conv2d(width_in, width, 3, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(width), nn.ReLU(), pool]

    channels, height, _ = shape
    # 8x8 digits would be gone after three halvings: the middle one is for larger images.
    middle: nn.Module = nn.MaxPool2d(2) if height >= 16 else nn.Identity()
    return nn.Sequential(
        *block(channels, 32, nn.MaxPool2d(2)),
        *block(32, 64, middle),
        *block(64, 128, nn.AdaptiveAvgPool2d(1)),
        nn.Flatten(),
        nn.Linear(128, classes),
    )


class Normalize(nn.Module):
    """Stored samples to what a model sees: ``(x - mean) / std`` per channel, in float32."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (n, channels, height, width), any dtype -> float32."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return (inputs.to(mean.dtype) - mean) / std


class Scalar(nn.Module):
    """A model of one output, as a number a sample: (n, 1) -> (n,)."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.model = make()

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (n, ...) -> float (n,)."""
        outputs: Tensor = self.model(inputs)
        return outputs.squeeze(-1)


MODELS: dict[str, Callable[[tuple[int, ...], int], nn.Module]] = {"mlp": mlp, "cnn": cnn}
