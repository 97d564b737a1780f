"""A peak belongs to its optimizer: what the exported code makes updates weights as torch does."""

import ast
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lrtune.engine.muon import MuonAdamW, hidden_matrices
from lrtune.engine.optimizers import OPTIMIZERS, settings_of
from lrtune.errors import InputError, ScheduleWarning
from lrtune.export import EXPORTERS, FoundOptimizer, export, keras, optax
from lrtune.export.torch import OPTIMIZERS as CLASSES
from lrtune.schedule import Schedule
from lrtune.tasks.load import decay_matrices
from tests.export.frameworks import WARNINGS, run

PEAK, TOTAL = 0.05, 6
# Of one rate: with others Keras' momentum keeps those of earlier updates.
CONSTANT = Schedule("constant", PEAK)
NAMES = [name for name in OPTIMIZERS if name != "muon"]
GIVEN = [
    *((name, {}) for name in NAMES),
    *((name, {"weight_decay": 0.3}) for name in NAMES),
    ("sgd", {"momentum": 0.0}),
    ("adam", {"betas": (0.5, 0.7), "weight_decay": 0.3, "decoupled_weight_decay": True}),
    ("rmsprop", {"alpha": 0.5, "momentum": 0.5, "weight_decay": 0.3}),
    ("rmsprop", {"centered": True}),
    ("adagrad", {"initial_accumulator_value": 0.5}),
]
FOUND = [
    FoundOptimizer(name, settings_of(name, given), groups)
    for name, given in GIVEN
    for groups in (None, "decay_matrices")
]
EPSILON = FoundOptimizer("adamw", settings_of("adamw", {"betas": (0.5, 0.7), "eps": 0.1}))
START = [np.linspace(-1, 1, 6, dtype="float32").reshape(2, 3), np.ones(3, "float32")]
GRADIENTS = [[np.sin(t + start) for start in START] for t in range(TOTAL)]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel, self.bias = (nn.Parameter(torch.tensor(start)) for start in START)


def made(found, target, schedule=CONSTANT):
    return run(schedule, target, TOTAL, found)


def by_torch(model, optimizer):
    for gradients in GRADIENTS:
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = torch.tensor(gradient)
        optimizer.step()
    return [parameter.detach().numpy() for parameter in model.parameters()]


def expected(found):
    model = Model()
    groups = model.parameters() if found.groups is None else decay_matrices(model)
    return by_torch(model, OPTIMIZERS[found.name].make(groups, lr=PEAK, **found.settings))


def by_lightning(found):
    model = Model()
    return by_torch(model, made(found, "lightning").configure_optimizers(model)["optimizer"])


def by_keras(found):
    from keras import Variable, ops

    optimizer = made(found, "keras").optimizer
    weights = [Variable(start) for start in START]
    for gradients in GRADIENTS:
        optimizer.apply([ops.convert_to_tensor(g) for g in gradients], weights)
    return [ops.convert_to_numpy(weight) for weight in weights]


def by_optax(found):
    from optax import apply_updates

    optimizer, weights = made(found, "optax").optimizer, START
    state = optimizer.init(weights)
    for gradients in GRADIENTS:
        updates, state = optimizer.update(gradients, state, weights)
        weights = apply_updates(weights, updates)
    return weights


HAVE = {by_keras: keras.OPTIMIZERS, by_optax: {*optax.OPTIMIZERS, "adamw"}, by_lightning: NAMES}


def name_of(found):
    odd = {k: v for k, v in found.settings.items() if settings_of(found.name, {})[k] != v}
    return f"{found.name}-{odd}-{found.groups}"


@pytest.mark.parametrize(
    ("found", "by"),
    [(found, by) for found in FOUND for by in HAVE if found.name in HAVE[by]]
    + [(EPSILON, by) for by in (by_lightning, by_optax)],
    ids=lambda part: name_of(part) if isinstance(part, FoundOptimizer) else part.__name__,
)
@pytest.mark.filterwarnings(*[mark.args[0] for mark in WARNINGS])
def test_weights_are_updated_as_by_the_one_found(found, by):
    for weight, wanted in zip(by(found), expected(found), strict=True):
        np.testing.assert_allclose(weight, wanted, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("by", ["peak", "schedule"])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_weights_decay_by_the_peak_or_the_schedule(name, by):
    given, shares = {"weight_decay": 0.3, "weight_decay_by": by}, np.linspace(1, 0, TOTAL + 1)
    found = FoundOptimizer(name, settings_of(name, given), "decay_matrices")
    code, model, still = made(found, "torch", Schedule("linear", PEAK)), Model(), Model()
    for part in model, still:
        part.head = nn.Linear(3, 3, bias=False)  # Muon has not the last
    still.load_state_dict(model.state_dict())
    optimizer = code.make_optimizer(model)
    scheduler = code.make_scheduler(optimizer)
    ratio = 0.015 if name == "muon" else 1.0
    for share in shares[:-1]:
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        scheduler.step()
        shrunk = 0.3 * ratio * (PEAK if by == "peak" else share)
        still.kernel.data *= 1 - shrunk
        still.head.weight.data *= 1 - shrunk
    for parameter, wanted in zip(model.parameters(), still.parameters(), strict=True):
        torch.testing.assert_close(parameter, wanted)


def test_every_optimizer_of_a_search_can_be_written():
    assert {name: rule.make.__name__ for name, rule in OPTIMIZERS.items()} == CLASSES
    assert OPTIMIZERS.keys() >= keras.OPTIMIZERS.keys() | optax.OPTIMIZERS.keys()


@pytest.mark.parametrize(
    ("target", "name", "given"),
    [
        ("keras", "sgd", {"dampening": 0.5}),
        ("keras", "adagrad", {"lr_decay": 0.1}),
        ("optax", "sgd", {"dampening": 0.5}),
        ("optax", "adam", {"amsgrad": True}),
        ("optax", "radam", {"decoupled_weight_decay": True}),
        ("optax", "nadam", {}),
        ("keras", "muon", {}),
        ("keras", "adamw", {"weight_decay_by": "peak"}),
        ("optax", "adamw", {"weight_decay_by": "peak"}),
    ],
)
def test_what_a_framework_lacks_is_said_and_not_left_out(target, name, given):
    found = FoundOptimizer(name, settings_of(name, given))
    source = export(CONSTANT, to=target, total=TOTAL, optimizer=found)
    lacking = "".join(f", {setting}={value}" for setting, value in given.items())
    said = " ".join(ast.get_docstring(ast.parse(source)).split())
    assert f"found with {name}{lacking}, which" in said
    assert "make the optimizer yourself" in said
    assert not hasattr(made(found, target), "optimizer")


@pytest.mark.parametrize("target", ["lightning", "keras", "optax"])
def test_what_the_user_makes_is_named(target):
    """Groups of their own; and of a framework without rates by name, these."""
    found = FoundOptimizer("adamw", settings_of("adamw", {}), "by_depth\nimport os")
    source = export(CONSTANT, to=target, total=TOTAL, optimizer=found)
    assert "# found with the parameter groups of by_depth import os: make them here too" in source
    if target != "lightning":
        source = export(CONSTANT, to=target, total=TOTAL, optimizer=NAMED)
        assert (
            "# found with rates of their own, as ratios of the schedule's: {'kernel': 10." in source
        )


def test_a_file_puts_no_code_into_what_is_written():
    settings = settings_of("adamw", {})
    for odd in ({"eps": "print(1)"}, {"x: 1 or (y": 1.0}, {"class": "A)\n"}):
        with pytest.raises(InputError, match="expected a number"):
            FoundOptimizer("adamw", settings | odd)
    with pytest.raises(InputError, match="expected a name and a number"):
        FoundOptimizer("adamw", settings, None, {"eps": 1.0, '"': 1.0})
    with pytest.raises(InputError, match="expected a number"):
        FoundOptimizer("adamw()", settings)


SCHEDULES = [
    Schedule("cosine", PEAK, 0.3, knobs={"eta_min": 0.1}),
    Schedule("one_cycle", PEAK),
    Schedule("plateau", PEAK, knobs={"min_lr": 0.1}),
    Schedule("plateau", PEAK, 0.3),
    Schedule("greedy", PEAK, 0.3),
]


@pytest.mark.parametrize("target", ["torch", "lightning", "huggingface"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_muon_and_the_ratio_of_its_rates(target, schedule):
    """What is written stands alone, and trains as the search did."""
    found = FoundOptimizer("muon", settings_of("muon", {"weight_decay": 0.3}), "decay_matrices")
    code = made(found, target, schedule)
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    theirs = deepcopy(ours)
    groups = decay_matrices(ours)
    mine = MuonAdamW(groups, hidden_matrices(ours), **found.settings)
    optimizer = code.make_optimizer(theirs)
    scheduler = code.make_scheduler(optimizer)
    controller = schedule.controller(TOTAL) if schedule.closed_loop else None
    rates = schedule.rates(TOTAL) if controller is None else controller.rates
    for update in range(TOTAL):
        for group in mine.param_groups:
            group["lr"] = rates[update] * group["lr_ratio"]
        for each, model in ((mine, ours), (optimizer, theirs)):
            model(torch.ones(5, 3)).square().sum().backward()
            each.step()
            each.zero_grad()
        if schedule.family != "plateau" or schedule.warmup:
            scheduler.step()
    for weight, wanted in zip(theirs.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(weight, wanted)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_what_is_schedule_free_is_written_for_torch_alone(name):
    found = FoundOptimizer(name, settings_of(name, {"weight_decay": 0.3}), "decay_matrices")
    schedule = Schedule("schedule_free", PEAK, 0.5)
    optimizer = made(found, "torch", schedule).make_optimizer(nn.Linear(2, 2))
    assert type(optimizer).__name__ == {"sgd": "SGD", "adamw": "AdamW"}[name] + "ScheduleFree"
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert [group["lr"] for group in optimizer.param_groups] == [PEAK, PEAK]
    assert optimizer.defaults["warmup_steps"] == TOTAL // 2
    for target in EXPORTERS.keys() - {"torch"}:
        with pytest.raises(InputError, match=f"{target} cannot hold schedule_free: .*to torch"):
            export(schedule, to=target, total=TOTAL, optimizer=found)


def test_an_optimizer_of_the_users_own_is_imported():
    found = FoundOptimizer("lion", {"class": "Lion", "betas": [0.9, 0.99]})
    source = export(CONSTANT, to="torch", total=TOTAL, optimizer=found)
    assert "return lion(model)  # your function" in source
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))], "lr": 0.5}], lr=0.25)
    made(found, "torch").make_scheduler(optimizer)
    assert optimizer.param_groups[0]["lr"] == 2 * PEAK
    said = export(CONSTANT, to="keras", total=TOTAL, optimizer=found)
    assert "found with lion (Lion), which Keras does not have" in said


RATIOS = {"kernel": 10.0, "body.0": 0.5, "body.1": 0.0}
NAMED = FoundOptimizer("adamw", settings_of("adamw", {}), "decay_matrices", RATIOS)


class Named(Model):
    """With the parts that ratios are of."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))


def both(names, model):
    """The optimizer and the scheduler of what was written."""
    if hasattr(names, "configure_optimizers"):
        configured = names.configure_optimizers(model)
        return configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    optimizer = names.make_optimizer(model)
    return optimizer, names.make_scheduler(optimizer)


@pytest.mark.parametrize("target", ["torch", "lightning", "huggingface", "timm"])
@pytest.mark.parametrize(
    "schedule",
    [
        Schedule("cosine", PEAK, knobs={"eta_min": 0.1}),
        Schedule("linear", PEAK, 0.3),
        Schedule("one_cycle", PEAK, knobs={"base_momentum": 0.8, "max_momentum": 0.9}),
        Schedule("cyclic", PEAK),
        Schedule("spline", PEAK, knobs={"ordinates": [0.3, 1.0, 0.1]}),
        Schedule("plateau", PEAK, knobs={"patience": 0, "min_lr": 0.05}),
        Schedule("plateau", PEAK, 0.3),
        Schedule("greedy", PEAK),
    ],
    ids=lambda schedule: f"{schedule.family}-{schedule.warmup}",
)
def test_rates_by_name_follow_the_schedule(target, schedule):
    names, model = made(NAMED, target, schedule), Named()
    optimizer, scheduler = both(names, model)
    found = {
        name: (group["lr_ratio"], group["weight_decay"])
        for name, parameter in model.named_parameters()
        for group in optimizer.param_groups
        if any(parameter is other for other in group["params"])
    }
    assert found == {
        **{"kernel": (10.0, 0.01), "bias": (1.0, 0.0)},
        **{"body.0.weight": (0.5, 0.01), "body.0.bias": (0.5, 0.0)},
    }
    assert not model.body[1].weight.requires_grad
    controller = schedule.controller(TOTAL) if schedule.closed_loop else None
    for update in range(TOTAL):
        rates = schedule.rates(TOTAL) if controller is None else controller.rates
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(rates[update] * group["lr_ratio"], rel=1e-12)
        optimizer.step()
        if target == "timm":
            scheduler.step_update(update + 1)
        elif schedule.family != "plateau" or schedule.warmup:
            scheduler.step()
        if controller is not None and update % 2:
            controller.observe(update + 1, 1.0 + update)
            step = (update, 1.0 + update) if target == "timm" else (1.0 + update,)
            scheduler.step(*step)
    with pytest.raises(ValueError, match="no parameter's name begins with"):
        names.make_optimizer(Model())


@pytest.mark.parametrize("target", ["torch", "lightning", "huggingface", "timm"])
def test_a_group_cools_down_by_itself(target):
    schedule, model = Schedule("cosine", PEAK, knobs={"eta_min": 0.1}), Named()
    found = replace(NAMED, cooldowns={"kernel": 0.5})
    names = made(found, target, schedule)
    optimizer, scheduler = both(names, model)
    ours = names.make_optimizer(model)
    follow = replace(schedule, settings={"kernel.cooldown": 0.5}).torch(ours, total=TOTAL)
    for update, rate in enumerate(schedule.rates(TOTAL)):
        cooled = rate * min(1, (1 - update / TOTAL) / 0.5)
        expected = [(cooled if g["cooldown"] else rate) * g["lr_ratio"] for g in ours.param_groups]
        for each in (optimizer, ours):
            rates = [group["lr"] for group in each.param_groups]
            np.testing.assert_allclose(rates, expected, rtol=1e-12)
            each.step()
        scheduler.step_update(update + 1) if target == "timm" else scheduler.step()
        follow.step()
    with pytest.warns(ScheduleWarning, match="no parameter group has a cooldown"):
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        replace(schedule, settings={"kernel.cooldown": 0.5}).torch(optimizer, total=TOTAL)


@pytest.mark.parametrize("family", ["plateau", "greedy"])
def test_a_closed_loop_of_keras_begins_at_the_peak(family):
    found = FoundOptimizer("nesterov", settings_of("nesterov", {"weight_decay": 0.1}))
    optimizer = made(found, "keras", Schedule(family, PEAK)).optimizer
    assert float(optimizer.learning_rate) == pytest.approx(PEAK)
    assert (optimizer.momentum, optimizer.nesterov) == (0.9, True)


def test_keras_saves_and_loads_the_weight_decay():
    import keras as framework

    settings = settings_of("adamw", {"betas": (0.5, 0.7)})
    optimizer = made(FoundOptimizer("adamw", settings, "decay_matrices"), "keras").optimizer
    saved = framework.saving.serialize_keras_object(optimizer)
    read = framework.saving.deserialize_keras_object(saved)
    assert type(read) is type(optimizer) is not framework.optimizers.AdamW
    assert (read.beta_1, read.beta_2) == (0.5, 0.7)


def test_the_trainer_of_transformers_makes_the_one_found(tmp_path):
    import transformers

    settings = settings_of("adamw", {"betas": (0.8, 0.9), "eps": 1e-6})
    found = FoundOptimizer("adamw", settings, "decay_matrices")
    arguments = transformers.TrainingArguments(
        str(tmp_path), use_cpu=True, report_to=[], **made(found, "huggingface").ARGUMENTS
    )
    model = nn.Sequential(nn.Linear(2, 2))
    optimizer = transformers.Trainer(model, arguments).create_optimizer()
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decays == {id(model[0].weight): 0.01, id(model[0].bias): 0.0}
    assert type(optimizer) is torch.optim.AdamW
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (PEAK, (0.8, 0.9), 1e-6)


@pytest.mark.parametrize(
    ("name", "given", "groups"),
    [
        ("sgd", {}, "decay_matrices"),
        ("adamw", {"amsgrad": True}, "decay_matrices"),
        ("adamw", {}, None),  # biases decay too
    ],
)
def test_another_optimizer_is_given_to_the_trainer(name, given, groups):
    found = FoundOptimizer(name, settings_of(name, given), groups)
    assert hasattr(made(found, "huggingface"), "make_scheduler")
