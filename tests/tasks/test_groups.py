"""Parameter groups by name, layer decay, and frozen parts."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer, mobilenet_v3_small, resnet18

from lrtune import Task, load_task
from lrtune.engine.optimizers import make_optimizer
from lrtune.tasks import check_model
from lrtune.tasks.groups import fitting, head_of, layer_ratios, ratios_of, rows_of
from lrtune.tasks.models import MODELS
from lrtune.verdict.settings import GroupFacts
from tests.tasks.conftest import refused


class Net(nn.Module):
    """A backbone with batch norm and dropout, a head, and a part that no output depends on."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.unused = nn.Linear(2, 2)
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        return self.fc(self.body(x.flatten(1)))


class Unnumbered(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(64, 8), nn.Linear(8, 10)

    def forward(self, x):
        return self.decoder(self.encoder(x.flatten(1)))


@pytest.fixture(scope="module")
def digits():
    return replace(load_task("digits", batch_size=32, epochs=1.0), model=Net)


def vit():
    return VisionTransformer(16, 8, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=8)


def bert():
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(SMALL(BertConfig))


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=3, n_head=2, vocab_size=9, n_positions=4))


def hf_vit():
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(SMALL(ViTConfig, image_size=16, patch_size=8))


def timm_vit():
    from timm.models import VisionTransformer

    return VisionTransformer(16, 8, embed_dim=8, depth=3, num_heads=2, num_classes=2)


def SMALL(config, **more):
    width = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    return config(num_hidden_layers=3, **width, **more)


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("fc", ["fc.weight", "fc.bias"]),
        ("fc.bias", ["fc.bias"]),
        ("body.1", ["body.1.weight", "body.1.bias"]),
        ("bod", None),
        ("bo*", ["body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias"]),
        ("body.?.bias", ["body.0.bias", "body.1.bias"]),
        ("*.bias", ["body.0.bias", "body.1.bias", "unused.bias", "fc.bias"]),
        ("head", ["fc.weight", "fc.bias"]),  # no part is called so
        ("*", [name for name, _ in Net().named_parameters()]),
    ],
)
def test_a_pattern_fits_whole_parts_of_a_name(pattern, fits):
    if fits is None:
        with refused("groups: 'bod' fits no parameter .* body, unused, fc; did you mean 'body'"):
            fitting("groups", pattern, Net())
    else:
        assert fitting("groups", pattern, Net()) == fits


@pytest.mark.parametrize(
    ("make", "head"),
    [
        (resnet18, "fc"),
        (vit, "heads.head"),
        (timm_vit, "head"),
        (bert, "classifier"),
        (hf_vit, "classifier"),
        (lambda: MODELS["cnn"]((3, 16, 16), 2), "13"),
        (gpt2, None),  # it is the embedding
    ],
)
def test_the_head_and_the_backbone_are_found(make, head):
    model = make()
    assert head_of(model) == (set() if head is None else {f"{head}.weight", f"{head}.bias"})
    if head:
        names = {name for name, _ in model.named_parameters()}
        assert {*fitting("freeze", "backbone", model)} == names - head_of(model)


@pytest.mark.parametrize("form", [str, dict, list])
def test_ratios_times_the_rest_of_the_task(digits, form):
    """The last pattern counts; weight decay stays; what the task itself says is multiplied."""
    given = {"body": 0.5, "*.weight": 0.1, "fc": 10}
    text = ",".join(f"{pattern}={ratio}x" for pattern, ratio in given.items())
    if form is list:
        task = replace(load_task("digits", groups=text.split(",")), model=Net)
    else:
        task = replace(digits, groups=given if form is dict else text)
    model = Net()
    found = {
        name: (group["lr_ratio"], group["weight_decay"])
        for group in make_optimizer(task, model).param_groups
        for name, parameter in model.named_parameters()
        if any(parameter is other for other in group["params"])
    }
    assert found["fc.weight"][0] == found["fc.bias"][0] == 10
    assert found["body.0.weight"][0] == 0.1 and found["body.0.bias"][0] == 0.5
    assert found["unused.bias"][0] == 1

    def own(model):
        return [{"params": model.fc.parameters(), "lr_ratio": 0.5, "weight_decay": 0.3}]

    (group,) = make_optimizer(replace(digits, groups=own), model).param_groups
    again = replace(load_task("digits", groups=["fc=4x"]).groups, base=own)
    (group,) = make_optimizer(replace(digits, groups=again), model).param_groups
    assert (group["lr_ratio"], group["weight_decay"]) == (2.0, 0.3)


def test_norms_and_biases_do_not_decay_whatever_their_rate():
    task = load_task("digits", groups=["head=10x"], optimizer="adamw", layer_decay=0.5)
    groups = make_optimizer(task, task.model()).param_groups
    found = {(group["lr_ratio"], group["weight_decay"]) for group in groups}
    assert found == {(r, decay) for r in (10, 0.5, 0.25) for decay in (0.01, 0.0)}


def named(part, count):
    return [f"{part}.{i}" for i in range(count)]


@pytest.mark.parametrize(
    ("make", "layers"),
    [
        (resnet18, ["conv1 bn1", "layer1", "layer2", "layer3", "layer4", "fc"]),
        (
            vit,
            [
                "class_token conv_proj encoder.pos_embedding",
                "encoder.layers.encoder_layer_0",
                "encoder.layers.encoder_layer_1",
                "encoder.layers.encoder_layer_2 encoder.ln",
                "heads",
            ],
        ),
        (mobilenet_v3_small, [*named("features", 13), "classifier.0", "classifier.3"]),
        (bert, ["bert.embeddings", *named("bert.encoder.layer", 3), "bert.pooler classifier"]),
        (
            gpt2,
            [
                "transformer.wte transformer.wpe",
                *named("transformer.h", 2),
                "transformer.h.2 transformer.ln_f",
            ],
        ),
        (
            hf_vit,
            ["vit.embeddings", *named("vit.layers", 2), "vit.layers.2 vit.layernorm", "classifier"],
        ),
        (lambda: MODELS["mlp"]((64,), 10), ["1", "3", "5"]),
        (lambda: MODELS["vit_tiny"]((3, 16, 16), 10), [*map(str, range(9)), "9 10", "12"]),
        (
            lambda: MODELS["transformer"]((8,), 10),
            ["embed", *named("blocks", 3), "blocks.3 norm", "head"],
        ),
        (  # a container's own number is no layer
            lambda: nn.Sequential(MODELS["mlp"]((64,), 10), nn.Linear(10, 2)),
            ["0.1", "0.3", "0.5", "1"],
        ),
    ],
)
def test_rates_fall_from_layer_to_layer(make, layers):
    model = make()
    ratios = layer_ratios(model, 0.5)
    assert ratios.keys() == dict(model.named_parameters()).keys()
    for back, layer in enumerate(reversed(layers)):
        for part in layer.split():
            own = [r for name, r in ratios.items() if f"{name}.".startswith(f"{part}.")]
            assert own and set(own) == {0.5**back}, part


def test_layers_are_timms_where_the_model_is():
    from timm.optim import param_groups_layer_decay

    model = timm_vit()
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    theirs = {names[p]: group["lr_scale"] for group in groups for p in group["params"]}
    assert layer_ratios(model, 0.5) == theirs
    model.group_matcher = None  # and as any other model's
    assert layer_ratios(model, 0.5) == theirs


def test_frozen_parts_do_not_train_and_run_as_in_evaluation(digits):
    task = replace(digits, freeze=("backbone",))
    assert check_model(task) == 8 * 10 + 10
    assert check_model(replace(task, freeze=("fc",))) == 64 * 8 + 8 + 2 * 8 + 2 * 2 + 2
    assert replace(task, freeze=()).model is Net
    model = task.model().train()
    x = torch.randn(5, 64)
    assert torch.equal(model(x), model(x))  # no dropout
    assert torch.equal(model.body[1].running_mean, torch.zeros(8))
    assert {name for name, p in model.named_parameters() if p.requires_grad} == head_of(model)
    partly = replace(digits, freeze=("body.1.bias",)).model().train()
    partly(x)
    assert not torch.equal(partly.body[1].running_mean, torch.zeros(8))
    with torch.no_grad():
        model.eval()
    assert not model.training


def test_what_each_group_got_is_told(digits):
    task = replace(digits, groups="head=10x,body.0=0.1x", freeze=("unused",), layer_decay=None)
    rows = rows_of(task.groups, task.freeze, task.model())
    assert [(row["pattern"], row["ratio"], row["parameters"], row["names"]) for row in rows] == [
        ("body.0", 0.1, 520, ["body.0"]),
        ("unused", 0.0, 6, ["unused"]),
        ("head", 10.0, 90, ["fc"]),
    ]
    assert rows_of(None, (), Net()) == []
    assert rows[0].keys() == GroupFacts.model_fields.keys()  # a search that goes on compares all


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": "head"}, "groups: 'head': expected pattern=ratio, the ratio above 0: head=10x"),
        ({"groups": "fc=fast"}, "groups: 'fc=fast': expected pattern=ratio"),
        ({"groups": "fc=-1"}, "groups: 'fc=-1': expected pattern=ratio"),
        ({"groups": {"fc": 0}}, r"groups: fc=0: would not train: give freeze instead \(fc\)"),
        ({"groups": "fc=2,fc=3"}, "groups: fc=3: fc twice"),
        ({"groups": ""}, "groups: '': expected pattern=ratio"),
        ({"groups": "fcc=2"}, "'fcc' fits no parameter of the model, whose parts are body, unused"),
        ({"groups": "fc=2", "freeze": ("fc",)}, "groups: fc: its rate has no effect: .* frozen"),
        ({"groups": "fc=2,*=3"}, "groups: fc: its rate has no effect: .* of a later pattern"),
        ({"groups": "unused=2"}, "groups: unused: its rate has no effect: the loss does not"),
        ({"layer_decay": 1.0}, "layer_decay=1.0: expected between 0 and 1"),
        ({"freeze": "fc"}, "freeze='fc': expected a tuple of patterns"),
        ({"freeze": ("fcc",)}, "freeze: 'fcc' fits no parameter of the model"),
        ({"freeze": ("*",)}, r"freeze: \*: nothing is left to train"),
        ({"layer_decay": 0.5, "model": Unnumbered}, "0.5: Unnumbered has no numbered layers"),
    ],
)
def test_a_rate_without_effect_is_an_error(digits, change, message):
    with refused(message):
        task = replace(digits, **change)
        check_model(task)
        make_optimizer(task, task.model())


def test_the_same_text_is_read_everywhere():
    assert ratios_of("a=2x, *.b=0.5") == ratios_of({"a": 2, "*.b": "0.5x"}) == {"a": 2, "*.b": 0.5}
    assert isinstance(load_task("digits", freeze=["1, 3"]), Task)
    assert load_task("digits", freeze=["1, 3"]).freeze == ("1", "3")
