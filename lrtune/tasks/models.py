"""MODELS: a sound default per kind of data, and a few larger ones; model_maker: from a name."""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrtune.errors import InputError, nearest, package
from lrtune.tasks.huggingface import folder_model, is_folder
from lrtune.tasks.tokens import Tokenizer

SMALL = 64  # px: up to here a stem made for 224 px would leave next to nothing
MOST_TOKENS = 256  # of the ViT
LAYERS, WIDTH, HEADS = 4, 128, 4  # of the transformer
TIMM = "timm:"  # before the name of a model of timm's


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


def _block(width_in: int, width: int, *pool: nn.Module) -> list[nn.Module]:
    convolution = nn.Conv2d(width_in, width, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(width), nn.ReLU(), *pool]


def cnn(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Three blocks of convolution, batch norm and pooling, then global average pooling."""
    channels, height, _ = shape
    # 8x8 digits would be gone after three halvings: the middle one is for larger images.
    middle: nn.Module = nn.MaxPool2d(2) if height >= 16 else nn.Identity()
    return nn.Sequential(
        *_block(channels, 32, nn.MaxPool2d(2)),
        *_block(32, 64, middle),
        *_block(64, 128, nn.AdaptiveAvgPool2d(1)),
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
    """A model of one output, as a number per sample: (n, 1) -> (n,)."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.model = make()

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (n, ...) -> float (n,)."""
        outputs: Tensor = self.model(inputs)
        return outputs.squeeze(-1)


class _Residual(nn.Module):
    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = inputs + self.body(inputs)
        return outputs


class _Apply(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(inputs)


def resnet9(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """The ResNet-9 of fast CIFAR-10 training: 6.6 M parameters, sides from 8 px.

    Source: David Page, "How to train your ResNet" (2018), the fastest of DAWNBench in its day; the
    last max pooling adapts to the size of the images.
    """

    def block(width_in: int, width: int, *pool: nn.Module) -> nn.Sequential:
        return nn.Sequential(*_block(width_in, width, *pool))

    return nn.Sequential(
        block(shape[0], 64),
        block(64, 128, nn.MaxPool2d(2)),
        _Residual(block(128, 128), block(128, 128)),
        block(128, 256, nn.MaxPool2d(2)),
        block(256, 512, nn.MaxPool2d(2)),
        _Residual(block(512, 512), block(512, 512)),
        _Apply(partial(torch.amax, dim=(2, 3))),  # AdaptiveMaxPool2d is not deterministic on CUDA
        nn.Flatten(),
        nn.Linear(512, outputs, bias=False),
        _Apply(partial(torch.mul, other=0.125)),  # Page's: soft logits at the rates the rest likes
    )


class _Attention(nn.Module):
    """Self-attention of every token to every token."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        split = self.qkv(tokens).unflatten(2, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (n, heads, t, width / heads)
        mixed = F.scaled_dot_product_attention(query, key, value)
        outputs: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return outputs


class _Patches(nn.Module):
    """Images to tokens: a linear map of each patch, plus a learned position."""

    def __init__(self, channels: int, patch: int, tokens: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(tokens, width), std=0.02))

    def forward(self, inputs: Tensor) -> Tensor:
        tokens: Tensor = self.embed(inputs).flatten(2).transpose(1, 2)
        return tokens + self.positions


def vit_tiny(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A ViT of width 192, 3 heads and depth 9, pre-norm, mean-pooled: 2.7 M parameters.

    The patch is the smallest from 4 px (a quarter of the side where that is less) that divides both
    sides and makes at most 256 tokens. Depth and width: Lee, Lee and Song, "Vision Transformer for
    Small-Size Datasets" (2021).
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

    def layer() -> nn.Module:
        mlp = [nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)]
        bodies: list[list[nn.Module]] = [[_Attention(width, heads=3)], mlp]
        return nn.Sequential(*(_Residual(nn.LayerNorm(width), *body) for body in bodies))

    model = nn.Sequential(
        _Patches(channels, fitting[0], prod(sides) // fitting[0] ** 2, width),
        *(layer() for _ in range(9)),
        nn.LayerNorm(width),
        _Apply(partial(torch.mean, dim=1)),
        nn.Linear(width, outputs),
    )
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    return model


def timm_preset(name: str) -> Any:
    """What timm knows of a model of its, ``timm:NAME``: size and normalisation of its images.

    None where it has no weights of it.
    """
    timm = package("timm", install="'lrtune[timm]'")
    own = name.removeprefix(TIMM)
    if not timm.is_model(own):
        hint = nearest(own, timm.list_models())
        raise InputError(f"model {name!r}: timm has no such model{hint}")
    try:
        return timm.get_pretrained_cfg(own)
    except RuntimeError as error:  # NAME.TAG
        raise InputError(f"model {name!r}: {error}") from error


def _timm_model(name: str, shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A classifier of timm, randomly initialised."""
    preset = timm_preset(name)
    import timm

    fixed = preset is not None and preset.fixed_input_size
    size: dict[str, Any] = {"img_size": shape[1:]} if fixed else {}
    model: nn.Module = timm.create_model(
        name.removeprefix(TIMM), num_classes=outputs, in_chans=shape[0], **size
    )
    return model


def _torchvision_model(
    name: str, shape: tuple[int, ...], outputs: int, pretrained: bool
) -> nn.Module:
    """A classifier of ``torchvision.models``, randomly initialised, for images of this shape.

    One that is to be ``pretrained`` stays as torchvision has it. In others, for images of up to
    64 px, the first convolution has stride 1, unless it cuts patches (its
    stride is its kernel). In resnet, resnext, wide_resnet and densenet it is a fresh one of 3x3,
    and the max pooling after it is gone, as He et al. (2015) and Huang et al. (2016) have it on
    CIFAR. For channels other than 3 it is a fresh one, too: as torchvision's own in resnet and
    densenet, in the others normal with the spread of the one that it replaces.
    """
    from torchvision import models

    options: dict[str, object] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": True, "transform_input": pretrained}
    elif name.startswith("vit_"):
        options = {"image_size": shape[1]}
    model: nn.Module = models.get_model(name, weights=None, num_classes=outputs, **options)
    if not pretrained:
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


def transformer(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A decoder-only transformer of 4 layers, width 128 and 4 heads: 0.8 M parameters.

    Takes integer tokens (n, t) of any dtype, t up to the context, which is the shape; gives
    logits (n, t, outputs).
    """
    return _Transformer(shape[0], outputs, outputs)


class _Transformer(nn.Module):
    """Pre-norm blocks of causal attention and GELU MLP, no bias anywhere.

    Sources: rotary positions, Su et al. (2021); RMSNorm, Zhang and Sennrich (2019); residual
    outputs initialised smaller with depth, Radford et al. (2019).

    Where ``padding`` is a token, the mean over a sample's other tokens goes to the head: logits
    (n, outputs). As it comes after them and attention is causal, they see nothing of it.
    """

    def __init__(
        self, context: int, vocabulary: int, outputs: int, padding: int | None = None
    ) -> None:
        super().__init__()
        self.padding = padding
        self.embed = nn.Embedding(vocabulary, WIDTH)
        self.blocks = nn.ModuleList(_Block() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(WIDTH)
        self.head = nn.Linear(WIDTH, outputs, bias=False)
        half = WIDTH // HEADS // 2
        angles = torch.outer(torch.arange(context), 10_000.0 ** (-torch.arange(half) / half))
        # Not persistent: they follow from the context, and a checkpoint holds what was learned.
        self.register_buffer("cos", angles.cos().repeat(1, 2), persistent=False)
        signed = torch.cat([-angles.sin(), angles.sin()], 1)
        self.register_buffer("sin", signed, persistent=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                is_residual = name.endswith("out.weight")
                nn.init.normal_(weight, std=0.02 / (2 * LAYERS) ** 0.5 if is_residual else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        cos, sin = self.get_buffer("cos"), self.get_buffer("sin")
        length = tokens.shape[-1]
        if length > len(cos):
            raise ValueError(f"{length} tokens: the context is {len(cos)}")
        hidden: Tensor = self.embed(tokens.long())
        for block in self.blocks:
            hidden = block(hidden, cos[:length], sin[:length])
        hidden = self.norm(hidden)
        if self.padding is not None:
            there = (tokens != self.padding).unsqueeze(-1).to(hidden.dtype)
            hidden = (hidden * there).sum(1) / there.sum(1).clamp_min(1)
        logits: Tensor = self.head(hidden)
        return logits


class _Block(nn.Module):
    """Attention to the past, then an MLP of four times the width."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.attention_out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.mlp_norm = nn.RMSNorm(WIDTH)
        self.mlp_in = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.mlp_out = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        split = self.qkv(self.attention_norm(hidden)).unflatten(-1, (3, HEADS, -1))
        parts = split.permute(2, 0, 3, 1, 4)  # (3, n, heads, t, width / heads)
        # The sine is signed, so that swapping the halves of each head is all there is to rotating.
        swapped = parts[:2].roll(cos.shape[1] // 2, -1)
        # In float32 where autocast has the parts in bfloat16, and then in one type with the value.
        query, key = torch.addcmul(parts[:2] * cos, swapped, sin).to(parts.dtype)
        mixed = F.scaled_dot_product_attention(query, key, parts[2], is_causal=True)
        hidden = hidden + self.attention_out(mixed.transpose(1, 2).flatten(2))
        inner = F.gelu(self.mlp_in(self.mlp_norm(hidden)))
        outputs: Tensor = hidden + self.mlp_out(inner)
        return outputs


MODELS: dict[str, Callable[[tuple[int, ...], int], nn.Module]] = {
    "mlp": mlp,
    "cnn": cnn,
    "resnet9": resnet9,
    "vit_tiny": vit_tiny,
    "transformer": transformer,
}


def model_maker(
    name: str,
    shape: tuple[int, ...],  # of one sample, without the batch
    outputs: int,  # classes, characters, or 1
    *,
    kind: str = "classification",  # of the data
    tokenizer: Tokenizer | None = None,  # of texts, for the transformer and models of folders alone
    pretrained: bool = False,  # weights are to be loaded: no layer is changed for small images
) -> Callable[[], nn.Module]:
    """A picklable function that makes fresh models, with random weights.

    The name is a row of MODELS, a classifier of ``torchvision.models``, ``timm:`` and one of timm,
    or a folder of a transformers model.
    """
    if name in MODELS:
        make: Callable[[], nn.Module] = partial(MODELS[name], shape, outputs)
    elif is_folder(name):
        if tokenizer is None:
            raise InputError(
                f"model {name}: a folder's model reads texts: give one of {', '.join(MODELS)}"
            )
        padding = None if kind == "text" else tokenizer.padding
        vocabulary = tokenizer.size if padding is None else tokenizer.vocabulary
        return folder_model(name, shape[0], outputs, vocabulary, padding)
    elif name.startswith(TIMM):
        timm_preset(name)
        make = partial(_timm_model, name, shape, outputs)
    else:
        from torchvision import models

        known = list(models.list_models(module=models))
        if name not in known:
            which = f"one of {', '.join(MODELS)}, of torchvision.models, timm:NAME or a folder"
            raise InputError(f"model {name!r}: {which}{nearest(name, [*MODELS, *known])}")
        make = partial(_torchvision_model, name, shape, outputs, pretrained)
    if kind == "text" or tokenizer is not None:
        if name != "transformer":
            raise InputError(
                f"model {name!r}: does not read text: give --model transformer or a folder"
            )
        if kind != "text" and tokenizer is not None:  # but a label of it
            sizes = tokenizer.vocabulary, outputs, tokenizer.padding
            make = partial(_Transformer, shape[0], *sizes)
    elif name == "transformer":
        raise InputError(f"model {name!r}: reads text, not samples of {shape}: give --model mlp")
    elif name != "mlp":
        if len(shape) != 3:
            raise InputError(f"model {name!r}: takes images, not {shape}: give --model mlp")
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
