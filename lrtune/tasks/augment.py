"""Augmentation of a batch on its device: AUGMENTATIONS, and mixup, which needs the targets too.

All randomness is from torch's default generator of the batch's device; nothing waits for it.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Beta

from lrtune.errors import InputError, nearest


def flip(inputs: Tensor) -> Tensor:
    """Each image mirrored left to right with probability 1/2."""
    mirrored = torch.rand(len(inputs), 1, 1, 1, device=inputs.device) < 0.5
    return torch.where(mirrored, inputs.flip(-1), inputs)


def crop(inputs: Tensor) -> Tensor:
    """A random window of each image padded by reflection, an eighth of the side on each side."""
    height, width = inputs.shape[2:]
    rows, columns = _window(inputs, height), _window(inputs, width)
    pixels = rows[:, :, None] * width + columns[:, None, :]  # (n, height, width)
    index = pixels.flatten(1)[:, None].expand(-1, inputs.shape[1], -1)
    return inputs.flatten(2).gather(2, index).view(inputs.shape)


def cutout(inputs: Tensor) -> Tensor:
    """A square of a quarter of the shorter side, wholly inside each image, set to 0: the mean."""
    height, width = inputs.shape[2:]
    side = max(1, min(height, width) // 4)
    hit = _span(inputs, height, side)[:, :, None] & _span(inputs, width, side)[:, None, :]
    return inputs.masked_fill(hit[:, None], 0)


AUGMENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "flip": flip,
    "crop": crop,
    "cutout": cutout,
}
MIXUP_ALPHA = 0.2  # Zhang et al., "mixup: Beyond Empirical Risk Minimization" (2017), on ImageNet
NAMES = (*AUGMENTATIONS, "mixup")


def augment(
    names: tuple[str, ...], inputs: Tensor, targets: Tensor
) -> tuple[Tensor, list[tuple[Tensor | float, Tensor]]]:
    """Augment a batch in the order given, never in place.

    ``mixup`` mixes each sample with its neighbour in the (shuffled) batch, in one proportion a
    batch from Beta(0.2, 0.2).

    Args:
        names: of NAMES, as ``check_augment`` passes them.
        inputs: float (n, channels, height, width), normalised: 0 is the mean.
        targets: (n, ...).

    Returns:
        The inputs, of the same shape, dtype and device, and pairs (weight, targets): the loss of
        the batch is the sum of the losses against each, so weighted. The weights sum to 1.
    """
    weighted: list[tuple[Tensor | float, Tensor]] = [(1.0, targets)]
    for name in names:
        if name == "mixup":
            kept = _proportion(inputs.device)
            inputs = inputs.roll(1, 0).lerp(inputs, kept.to(inputs.dtype))
            weighted = [(kept, targets), (1 - kept, targets.roll(1, 0))]
        else:
            inputs = AUGMENTATIONS[name](inputs)
    return inputs, weighted


def check_augment(names: tuple[str, ...], shape: tuple[int, ...]) -> None:
    """Refuse names that ``augment`` cannot apply to samples of this shape.

    Raises:
        InputError: for an unknown name, a name given twice, or samples that are not images.
    """
    for name in names:
        if name not in NAMES:
            hint = nearest(name, NAMES)
            raise InputError(f"augment {name!r}: one of {', '.join(NAMES)}{hint}")
        if names.count(name) > 1:
            raise InputError(f"augment {name!r}: given {names.count(name)} times")
        if len(shape) != 3:
            raise InputError(f"augment {name!r}: takes images, not samples of {shape}")


def _proportion(device: torch.device) -> Tensor:
    alpha = torch.full((), MIXUP_ALPHA, device=device)
    # validate_args=True would read the device and wait for it.
    drawn: Tensor = Beta(alpha, alpha, validate_args=False).sample()
    return drawn


def _start(inputs: Tensor, choices: int) -> Tensor:
    """One of 0 .. choices - 1 a sample: (n, 1)."""
    return torch.randint(choices, (len(inputs), 1), device=inputs.device)


def _window(inputs: Tensor, side: int) -> Tensor:
    """Which of the pixels 0 .. side - 1 each pixel of a shifted window shows: (n, side)."""
    pad = side // 8
    shown = torch.arange(side, device=inputs.device) + _start(inputs, 2 * pad + 1) - pad
    last = side - 1
    return last - (last - shown.abs()).abs()


def _span(inputs: Tensor, side: int, length: int) -> Tensor:
    """A random stretch of the pixels 0 .. side - 1: bool (n, side)."""
    start = _start(inputs, side - length + 1)
    pixels = torch.arange(side, device=inputs.device)
    return (pixels >= start) & (pixels < start + length)
