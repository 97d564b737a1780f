"""MODELS, model_maker and Normalize: what each model takes and gives, and that it learns."""

import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lrtune.tasks import MODELS
from lrtune.tasks.models import model_maker, transformer
from lrtune.tasks.tokens import characters
from tests.tasks.conftest import refused

TOKENIZER = characters("abcdefg", "")
IMAGE_MODELS = [name for name in MODELS if name != "transformer"]
TORCHVISION = """resnet18 shufflenet_v2_x0_5 mobilenet_v3_small squeezenet1_0 googlenet
inception_v3 densenet121 vit_b_16""".split()  # noqa: SIM905


def batch(name: str) -> tuple[tuple[int, ...], torch.Tensor, torch.Tensor]:
    """Shape of a sample, inputs and targets (of seven classes)."""
    generator = torch.Generator().manual_seed(0)
    if name == "transformer":
        tokens = torch.randint(7, (4, 13), generator=generator, dtype=torch.uint8)
        return (12,), tokens[:, :-1], tokens[:, 1:].long()
    return (3, 16, 16), torch.randn(6, 3, 16, 16, generator=generator), torch.arange(6)


def maker(name: str, shape: tuple[int, ...]) -> Callable[[], nn.Module]:
    if name != "transformer":
        return model_maker(name, shape, 7)
    return model_maker(name, shape, 7, kind="text", tokenizer=TOKENIZER)


def loss_of(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())


def seeded(make) -> nn.Module:
    torch.manual_seed(0)
    return make()


def first_convolution(model: nn.Module) -> nn.Conv2d:
    return next(m for m in model.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("name", IMAGE_MODELS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 24), (1, 28, 28), (3, 32, 32)])
def test_one_output_a_class(name, shape):
    model = MODELS[name](shape, 7)
    outputs = model(torch.rand(5, *shape))
    assert outputs.shape == (5, 7)
    F.cross_entropy(outputs, torch.arange(5)).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_every_model_learns_a_batch_by_heart(name):
    shape, inputs, targets = batch(name)
    model = seeded(maker(name, shape))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    before = loss_of(model, inputs, targets).item()
    for _ in range(15):
        optimizer.zero_grad()
        loss_of(model, inputs, targets).backward()
        optimizer.step()
    assert loss_of(model, inputs, targets).item() < 0.6 * before


@pytest.mark.parametrize("name", [*MODELS, "mobilenet_v3_small", "regnet_y_400mf"])
def test_a_maker_survives_pickle_follows_the_seed_and_draws_nothing_itself(name):
    shape, _, _ = batch(name)
    state = torch.get_rng_state()
    make = maker(name, shape)
    assert torch.equal(torch.get_rng_state(), state)
    models = [seeded(make), seeded(pickle.loads(pickle.dumps(make))), make()]
    weights = [nn.utils.parameters_to_vector(model.parameters()) for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_sizes_are_as_documented_and_the_vits_tokens_at_most_256():
    with torch.device("meta"):
        for name, millions in {"resnet9": 6.57, "vit_tiny": 2.69, "transformer": 0.80}.items():
            model = MODELS[name]((128,) if name == "transformer" else (3, 32, 32), 10)
            parameters = sum(p.numel() for p in model.parameters())
            assert parameters / 1e6 == pytest.approx(millions, abs=0.02)
        for side in (8, 28, 32, 64, 96, 224):
            model = MODELS["vit_tiny"]((3, side, side), 10)
            (positions,) = [p for name, p in model.named_parameters() if "pos" in name]
            assert 16 <= len(positions) <= 256


@pytest.fixture
def reader() -> nn.Module:
    """A transformer with attention that prefers some tokens, as no fresh one's does."""
    model = seeded(lambda: transformer((16,), 11)).eval()
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            weight.data *= 20 if "qkv" in name else 4
    return model


def test_the_transformer_sees_no_later_token_of_any_integer_type(reader):
    tokens = torch.arange(10).repeat(2, 1)
    for dtype in (torch.uint8, torch.int16, torch.int32):
        assert torch.equal(reader(tokens.to(dtype)), reader(tokens))
    tokens[1, 6:] = 10
    first, second = reader(tokens)
    assert first.shape == (10, 11)
    torch.testing.assert_close(first[:6], second[:6], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(first[6:], second[6:])
    with pytest.raises(ValueError, match="17 tokens: the context is 16"):
        reader(torch.zeros(1, 17, dtype=torch.long))


def test_the_label_of_a_text_knows_nothing_of_its_padding():
    """But of every token: the mean of what they see."""
    model = seeded(model_maker("transformer", (12,), 3, tokenizer=TOKENIZER))
    texts = torch.full((2, 12), TOKENIZER.padding)
    texts[:, :5] = torch.arange(5)
    texts[1, 0] = 6
    outputs = model(texts)
    assert outputs.shape == (2, 3)
    torch.testing.assert_close(model(texts[:, :5]), outputs)
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-3)


def test_distances_count_and_nothing_else_of_positions(reader):
    """Rotary: the same tokens give the same logits wherever they stand, but not reversed."""
    tokens = torch.arange(11)[None]
    expected = reader(tokens)
    tables = {name: reader.get_buffer(name).clone() for name in ("cos", "sin")}
    for name, table in tables.items():
        reader.get_buffer(name)[:11] = table[5:]
    torch.testing.assert_close(reader(tokens), expected, atol=1e-4, rtol=1e-4)
    for name, table in tables.items():
        reader.get_buffer(name)[:11] = table[:11].flip(0)
    assert (reader(tokens) - expected).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("name", "channels"), [("resnet18", 3), ("vit_b_16", 3), *((name, 1) for name in TORCHVISION)]
)
def test_torchvisions_models_take_small_images(name, channels):
    shape = (channels, 64, 64)
    make = model_maker(name, shape, 7)
    with torch.device("meta"):  # some are large
        model = make()
        assert model(torch.zeros(2, *shape)).shape == (2, 7)  # in training, and no tuple
    assert first_convolution(model).stride == ((16, 16) if name == "vit_b_16" else (1, 1))


@pytest.mark.parametrize(("name", "pool"), [("resnet18", "maxpool"), ("densenet121", "pool0")])
def test_the_stem_of_cifar(name, pool):
    with torch.device("meta"):
        small, large = (model_maker(name, (3, side, side), 10)() for side in (64, 96))
        patches = model_maker("convnext_tiny", (3, 32, 32), 10)()
    kernels = [first_convolution(model).kernel_size for model in (small, large)]
    assert kernels == [(3, 3), (7, 7)]
    pools = [dict(getattr(m, "features", m).named_children())[pool] for m in (small, large)]
    assert [type(each) for each in pools] == [nn.Identity, nn.MaxPool2d]
    assert first_convolution(patches).stride == (4, 4)  # stay


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v3_small"])
def test_a_fresh_convolution_starts_as_torchvisions_own(name):
    own = first_convolution(seeded(model_maker(name, (3, 96, 96), 10))).weight
    fresh = first_convolution(seeded(model_maker(name, (6, 96, 96), 10))).weight
    fan_in = 0.5**0.5 if name.startswith("densenet") else 1.0  # twice the channels
    assert fresh.std().item() == pytest.approx(fan_in * own.std().item(), rel=0.05)
    assert fresh.shape[1] == 6
    assert fresh.requires_grad


IMAGE = (3, 32, 32)


@pytest.mark.parametrize(
    ("name", "shape", "match"),
    [
        ("resnet81", IMAGE, r"one of mlp, .*; did you mean 'resnet18'"),
        ("cnn", (64,), r"takes images, not \(64,\): give --model mlp$"),
        ("resnet18", (64,), r"'resnet18': takes images, not \(64,\)"),
        ("transformer", (8,), r"reads text, not samples of \(8,\): give --model"),
        ("resnet9", (3, 4, 4), "'resnet9': does not take images of 3x4x4: "),
        ("vit_tiny", (3, 31, 31), "3x31x31: no patch cuts the sides evenly, int"),
        ("vit_b_16", (3, 40, 40), "3x40x40: Input shape indivisible by patch si"),
        ("inception_v3", IMAGE, "does not take images of 3x32x32: "),
        ("maxvit_t", IMAGE, "'maxvit_t': does not take images of 3x32x32: "),
        ("mlp", "text", "^model 'mlp': does not read text: give --model transformer or a"),
        ("resnet18", "text", "^model 'resnet18': does not read text: give --model transf"),
    ],
)
def test_refusals_are_one_line(name, shape, match):
    shape, tokenizer = ((128,), TOKENIZER) if shape == "text" else (shape, None)
    with refused(match):
        model_maker(name, shape, 10, tokenizer=tokenizer)
