"""Models of images: a ResNet-9, a small ViT and the classifiers of torchvision."""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrtune.errors import InputError

SMALL = 64  # px: up to here a stem made for 224 px would leave next to nothing
MOST_TOKENS = 256


class Residual(nn.Module):
    """``x + body(x)``."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs of any shape that the body keeps -> the same shape."""
        outputs: Tensor = inputs + self.body(inputs)
        return outputs


class Apply(nn.Module):
    """A function of one tensor, as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        """What the function makes of the inputs."""
        return self.function(inputs)


def resnet9(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """The ResNet-9 of fast CIFAR-10 training: 6.6 M parameters, sides from 8 px.

    Source: David Page, "How to train your ResNet" (2018), the fastest of DAWNBench in its day; the
    last max pooling adapts to the size of the images.
    """

    def block(width_in: int, width: int, *pool: nn.Module) -> nn.Sequential:
        convolution = nn.Conv2d(width_in, width, 3, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(), *pool)

    return nn.Sequential(
        block(shape[0], 64),
        block(64, 128, nn.MaxPool2d(2)),
        Residual(block(128, 128), block(128, 128)),
        block(128, 256, nn.MaxPool2d(2)),
        block(256, 512, nn.MaxPool2d(2)),
        Residual(block(512, 512), block(512, 512)),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(512, outputs, bias=False),
        Apply(partial(torch.mul, other=0.125)),  # Page's: soft logits at the rates the rest likes
    )


class Attention(nn.Module):
    """Self-attention of every token to every token."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (n, t, width) -> (n, t, width)."""
        split = self.qkv(tokens).unflatten(2, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (n, heads, t, width / heads)
        mixed = F.scaled_dot_product_attention(query, key, value)
        outputs: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return outputs


class Patches(nn.Module):
    """Images to tokens: a linear map of each patch, plus a learned position."""

    def __init__(self, channels: int, patch: int, tokens: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(tokens, width), std=0.02))

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (n, channels, height, width) -> (n, tokens, width)."""
        tokens: Tensor = self.embed(inputs).flatten(2).transpose(1, 2)
        return tokens + self.positions


def vit_tiny(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A ViT of width 192, 3 heads and depth 9, pre-norm, mean-pooled: 2.7 M parameters.

    The patch is the smallest from 4 px (a quarter of the side where that is less) that divides both
    sides and makes at most 256 tokens. Depth and width: Lee, Lee and Song, "Vision Transformer for
    Small-Size Datasets" (2021).

    Raises:
        InputError: where no patch does.
    """
    channels, *sides = shape
    width, quarter = 192, min(sides) // 4
    fitting = [
        patch
        for patch in range(max(1, min(4, quarter)), quarter + 1)
        if not any(side % patch for side in sides) and prod(sides) <= MOST_TOKENS * patch**2
    ]
    if not fitting:
        raise InputError(f"no patch cuts the sides evenly, into 16 to {MOST_TOKENS}")

    def layer() -> list[nn.Module]:
        mlp = [nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)]
        bodies: list[list[nn.Module]] = [[Attention(width, heads=3)], mlp]
        return [Residual(nn.LayerNorm(width), *body) for body in bodies]

    model = nn.Sequential(
        Patches(channels, fitting[0], prod(sides) // fitting[0] ** 2, width),
        *(part for _ in range(9) for part in layer()),
        nn.LayerNorm(width),
        Apply(partial(torch.mean, dim=1)),
        nn.Linear(width, outputs),
    )
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    return model


def torchvision_names() -> list[str]:
    """The classifiers of ``torchvision.models``."""
    from torchvision import models

    return list(models.list_models(module=models))


def torchvision_model(name: str, shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A classifier of ``torchvision.models``, randomly initialised, for images of this shape.

    What is adapted, and nothing else:

    - Channels other than 3: the first convolution is a fresh one.
    - Sides up to 64 px: the first convolution has stride 1, unless it cuts patches (its stride is
      its kernel: convnext, swin and vit keep theirs). In resnet, resnext, wide_resnet and densenet
      it is a fresh one of 3x3, and the max pooling after it is gone, as He et al. (2015) and Huang
      et al. (2016) have it on CIFAR. All later strides and poolings are as for 224 px.
    - ``vit_*`` is built for the side of the images, which are square.
    - ``googlenet`` and ``inception_v3`` have no auxiliary classifiers.

    A fresh convolution starts as torchvision's own in resnet and densenet; in the others from a
    normal distribution with the spread of the one that it replaces, whose bias it keeps.
    """
    from torchvision import models

    options: dict[str, object] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        options = {"image_size": shape[1]}
    model: nn.Module = models.get_model(name, weights=None, num_classes=outputs, **options)
    _fit_stem(model, shape)
    return model


# Of torchvision.models: the class -> the mode of kaiming_normal_ there, the pooling of the stem.
THREE_BY_THREE: dict[str, tuple[Literal["fan_in", "fan_out"], str]] = {
    "ResNet": ("fan_out", "maxpool"),
    "DenseNet": ("fan_in", "features.pool0"),
}


def _fit_stem(model: nn.Module, shape: tuple[int, ...]) -> None:
    channels, small = shape[0], max(shape[1:]) <= SMALL
    name, first = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    kind = type(model).__name__
    if kind in THREE_BY_THREE and (small or channels != first.in_channels):
        mode, pool = THREE_BY_THREE[kind]
        kernel, stride = (3, 1) if small else (7, 2)
        fresh = nn.Conv2d(channels, first.out_channels, kernel, stride, kernel // 2, bias=False)
        nn.init.kaiming_normal_(fresh.weight, mode=mode, nonlinearity="relu")
        model.set_submodule(name, fresh)
        if small:
            model.set_submodule(pool, nn.Identity())
        return
    if channels != first.in_channels:
        spread = first.weight.detach().std()
        first.in_channels = channels
        fresh_weight = torch.randn(first.out_channels, channels, *first.kernel_size)
        first.weight = nn.Parameter(fresh_weight * spread)
    if small and first.stride != first.kernel_size:
        first.stride = (1, 1)
