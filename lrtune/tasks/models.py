"""MODELS: a sound default per kind of data, and a few larger ones; model_maker: from a name."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from lrtune.errors import InputError, nearest
from lrtune.tasks.transformer import transformer
from lrtune.tasks.vision import resnet9, torchvision_model, torchvision_names, vit_tiny


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


MODELS: dict[str, Callable[[tuple[int, ...], int], nn.Module]] = {
    "mlp": mlp,
    "cnn": cnn,
    "resnet9": resnet9,
    "vit_tiny": vit_tiny,
    "transformer": transformer,
}


def model_maker(
    name: str, shape: tuple[int, ...], outputs: int, *, kind: str = "classification"
) -> Callable[[], nn.Module]:
    """A picklable function that makes fresh models, never pretrained.

    Args:
        name: a row of MODELS or a classifier of ``torchvision.models``.
        shape: of one sample, without the batch.
        outputs: how many: classes, characters, or 1.
        kind: of the data, as ``Data.kind``: text is for the transformer, and for it alone.

    Raises:
        InputError: for an unknown name, or a model that does not take such samples.
    """
    if name in MODELS:
        make = partial(MODELS[name], shape, outputs)
    else:
        known = torchvision_names()
        if name not in known:
            hint = nearest(name, [*MODELS, *known])
            which = f"one of {', '.join(MODELS)}, or a classifier of torchvision.models"
            raise InputError(f"model {name!r}: {which}{hint}")
        make = partial(torchvision_model, name, shape, outputs)
    if kind == "text":
        if name != "transformer":
            raise InputError(f"model {name!r}: does not read text: give --model transformer")
    elif name == "transformer":
        raise InputError(f"model {name!r}: reads text, not samples of {shape}: give --model mlp")
    elif name != "mlp":
        if len(shape) != 3:
            way_out = "give --model mlp"
            raise InputError(f"model {name!r}: takes images, not samples of {shape}: {way_out}")
        _try_on(name, shape, make)
    return make


def _try_on(name: str, shape: tuple[int, ...], make: Callable[[], nn.Module]) -> None:
    """One forward pass on the meta device, where it costs neither memory nor arithmetic."""
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            try:
                with torch.device("meta"):
                    model = make()
            except NotImplementedError:  # regnet computes its widths with tensors
                model = make().to("meta")
            model.eval()(torch.zeros(2, *shape, device="meta"))
    except Exception as error:
        first = str(error).partition("\n")[0]
        size = "x".join(map(str, shape))
        raise InputError(f"model {name!r}: does not take images of {size}: {first}") from error
