"""OPTIMIZERS: settings, what is refused, and the stacked step that is torch's in every row."""

import inspect
from dataclasses import replace
from functools import wraps
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lrtune.engine import OPTIMIZERS
from lrtune.engine.muon import MuonAdamW, hidden_matrices
from lrtune.engine.optimizers import (
    OURS,
    fast_form,
    make_optimizer,
    packed,
    set_momentum,
    settings_of,
    unpacked,
)
from lrtune.engine.stacked_optimizers import RULES, StackedOptimizer
from lrtune.errors import InputError

ROWS, WIDTH, UPDATES = 3, 7, 12
SETTINGS = {
    "sgd": [{}, {"momentum": 0.0}, {"weight_decay": 0.1}],
    "nesterov": [{}, {"weight_decay": 0.1, "momentum": 0.5}],
    "adam": [
        {},
        {"amsgrad": True, "weight_decay": 0.1},
        {"betas": (0.0, 0.5), "eps": 1e-2},
        {"decoupled_weight_decay": True, "weight_decay": 0.1},
    ],
    "adamw": [{}, {"weight_decay": 0.3, "amsgrad": True}],
    "rmsprop": [
        {},
        {"centered": True},
        {"momentum": 0.9, "weight_decay": 0.1},
        {"momentum": 0.9, "centered": True, "alpha": 0.5, "eps": 1e-2},
    ],
    "adagrad": [
        {},
        {"lr_decay": 0.2, "weight_decay": 0.1},
        {"initial_accumulator_value": 0.5, "eps": 1e-2, "lr_decay": 1e-3},
    ],
    "nadam": [
        {"weight_decay": 0.1},
        {"betas": (0.0, 0.5), "eps": 1e-2, "momentum_decay": 0.5},
        {"decoupled_weight_decay": True, "weight_decay": 0.1},
    ],
    "radam": [
        {"weight_decay": 0.1},
        {"betas": (0.0, 0.5), "eps": 1e-2},
        {"decoupled_weight_decay": True, "weight_decay": 0.1},
    ],
    "adamax": [{"weight_decay": 0.1}, {"betas": (0.0, 0.5), "eps": 1e-2}],
    "adadelta": [{"weight_decay": 0.1}, {"rho": 0.5, "eps": 1e-2}],
}
CASES = [(name, given, False) for name in SETTINGS for given in SETTINGS[name]]
CASES += [(name, given, True) for name, given, _ in CASES if OPTIMIZERS[name].cycled]
F64 = torch.float64


@pytest.fixture(autouse=True)
def _exact():
    """Torch has NAdam's product of momenta in the default type."""
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - {"muon"}))
def test_settings_are_the_rows_and_the_given(name):
    task = SimpleNamespace(optimizer=name, settings={"weight_decay": 0.125}, groups=None)
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    (group,) = make_optimizer(task, model).param_groups
    expected = {**OPTIMIZERS[name].settings, "weight_decay": 0.125}
    full = settings_of(name, {"weight_decay": 0.125})
    assert expected.items() <= full.items()
    assert {setting: group[setting] for setting in full} == full  # torch's defaults too
    assert group["params"] == [model.weight]  # a frozen parameter is not the optimizer's


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("adamm", {}, "optimizer 'adamm': one of sgd, .*; did you mean 'adam"),
        ("sgd", {"lr": 0.1}, "optimizer sgd: lr is the schedule's: see peak_lr"),
        ("sgd", {"momentun": 0.9}, "optimizer sgd has no 'momentun'; did you mean 'momentum'"),
        ("sgd", {"betas": (0.9, 0.99)}, "optimizer sgd has no 'betas'"),
        ("adam", {"fused": False}, "optimizer adam has no 'fused'"),
        ("sgd", {"params": []}, "optimizer sgd has no 'params'"),
        ("sgd", {"momentum": -1}, "optimizer sgd: .*momentum.* -1"),
        ("nesterov", {"momentum": 0}, "optimizer nesterov: Nesterov momentum requires"),
        ("adam", {"betas": (0.9, 2)}, "optimizer adam: .*beta.* 2"),
        ("adam", {"betas": (0.9,)}, r"adam: betas=\(0\.9,\): expected the like of \(0\.9, 0\.999"),
        ("adamw", {"weight_decay": "much"}, "weight_decay='much': expected the like of 0"),
        ("adamw", {"weight_decay_by": "peek"}, "weight_decay_by='peek': one of .* mean 'peak'"),
        ("sgd", {"weight_decay_by": "peak"}, "sgd: .* part of the gradient: take adamw, muon or"),
        ("adam", {"weight_decay_by": "peak"}, "adam: .* or decoupled_weight_decay=true"),
        ("adagrad", {"lr_decay": -1}, "optimizer adagrad: .*lr_decay.* -1"),
        ("sgd", {"nesterov": 1}, "optimizer sgd: nesterov=1: expected the like of False"),
        ("sgd", {"momentum": float("nan")}, "momentum=nan: expected the like of 0"),
        ("lbfgs", {}, "optimizer lbfgs: it evaluates the loss several times per update: take one"),
        ("rprop", {}, "optimizer rprop: it reads the rate at its first update alone"),
        ("muon", {"adjust_lr_fn": "orig"}, "Adjust learning rate function orig is not supported"),
        ("muon", {"adamw_ratio": 0}, "adamw_ratio=0: expected a number above 0"),
        ("adafactor", {"eps": (None, "x")}, "eps=.*: expected the like of"),
    ],
)
def test_refused(name, settings, message):
    with pytest.raises(InputError, match=message):
        settings_of(name, settings)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"lr": 0.1}, "lr is the schedule's: give lr_ratio"),
        ({"lr_ratio": float("nan")}, "lr_ratio=nan: a finite number from 0"),
        ({"lr_ratio": "2"}, "lr_ratio='2': a finite number from 0"),
        ({"params": 3}, "a task: groups: TypeError: "),
        ({"weigth_decay": 0.1}, "has no 'weigth_decay'; did you mean 'weight_decay'"),
    ],
)
def test_groups_that_cannot_be(group, message):
    task = SimpleNamespace(name="a task", optimizer="sgd", settings={})
    task.groups = lambda model: [{"params": model.parameters(), **group}]
    with pytest.raises(InputError, match=message):
        make_optimizer(task, nn.Linear(2, 2))


class OneWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(WIDTH, dtype=F64))


def stacked(name, given):
    """An optimizer of one stacked parameter, and its state as it begins."""
    task = SimpleNamespace(optimizer=name, settings=given, groups=None, clip_norm=None)
    optimizer = StackedOptimizer(task, OneWeight(), {"w"})
    state = {
        key: torch.full((ROWS, 1 if key == "step" else WIDTH), value, dtype=F64)
        for key, value in optimizer.groups[0].initial.items()
    }
    return optimizer, state


def step(optimizer, weights, gradients, state, rates, momenta):
    columns = optimizer.columns([state], rates, momenta, rates)
    optimizer.step(optimizer.groups, [weights], [gradients], [state], columns)


@pytest.mark.parametrize("scale", [1e-3, 30.0])
@pytest.mark.parametrize(("name", "given", "cycled"), CASES, ids=str)
def test_a_step_is_torch_s_in_every_row(name, given, cycled, scale):
    """Row i is begun anew after 3 i updates, as a slot is that is filled again."""
    like = {"dtype": F64, "generator": torch.Generator().manual_seed(0)}
    wide = torch.randn(ROWS, WIDTH + 4, **like)
    weights = wide[:, 2:-2]  # as one group among others: not contiguous
    rates = scale * torch.rand(UPDATES, ROWS, **like)
    gradients = torch.randn(UPDATES, ROWS, WIDTH, **like)
    momenta = torch.full((UPDATES, ROWS), torch.nan, dtype=F64)
    if cycled:
        momenta = 0.5 + 0.5 * torch.rand(UPDATES, ROWS, **like)
    before, kept = wide.clone(), gradients.clone()
    optimizer, state = stacked(name, given)
    if cycled:
        optimizer.add_momentum([weights], [state])

    def fresh(row):
        spec = OPTIMIZERS[name]
        return spec.make([row], lr=1.0, foreach=False, **{**spec.settings, **given})

    apart = [nn.Parameter(row.clone()) for row in weights]
    optimizers = [fresh(row) for row in apart]
    for update in range(UPDATES):
        for row, alone in enumerate(apart):
            if update == 3 * row:
                optimizers[row] = fresh(alone)
                for key, value in optimizer.groups[0].initial.items():
                    state[key][row] = value
            alone.grad = gradients[update, row].clone()
            optimizers[row].param_groups[0]["lr"] = rates[update, row].item()
            if cycled:
                set_momentum(optimizers[row].param_groups[0], momenta[update, row].item())
            optimizers[row].step()
        step(optimizer, weights, gradients[update], state, rates[update], momenta[update])
    torch.testing.assert_close(weights, torch.stack(apart).detach(), rtol=1e-12, atol=1e-12)
    assert torch.equal(gradients, kept)
    assert torch.equal(wide[:, [0, 1, -2, -1]], before[:, [0, 1, -2, -1]])


def test_the_state_begins_as_torch_begins():
    (group,) = stacked("adagrad", {"initial_accumulator_value": 0.5})[0].groups
    assert group.initial == {"step": 0.0, "sum": 0.5}
    assert stacked("sgd", {"momentum": 0.0})[1] == {}
    amsgrad = {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}
    assert stacked("adam", {"amsgrad": True})[1].keys() == amsgrad


@pytest.mark.parametrize("make", RULES)
def test_torch_has_no_setting_that_the_rules_leave_out(make):
    """One that a new version of torch adds is to be looked at here first."""
    known = {
        "momentum", "dampening", "weight_decay", "nesterov", "betas", "eps", "amsgrad",
        "decoupled_weight_decay", "alpha", "centered", "lr_decay", "initial_accumulator_value",
        "momentum_decay", "rho", "ns_coefficients", "ns_steps", "adjust_lr_fn",
    }  # fmt: skip
    assert set(inspect.signature(make).parameters) - OURS <= known


@pytest.mark.parametrize("name", SETTINGS)
def test_a_row_without_numbers_keeps_them_to_itself(name):
    optimizer, state = stacked(name, {})
    weights = torch.ones(ROWS, WIDTH, dtype=F64)
    rates = torch.tensor([0.1, np.inf, np.nan], dtype=F64)
    gradients = torch.ones(ROWS, WIDTH, dtype=F64)
    gradients[1] = np.nan
    own = torch.full((ROWS,), torch.nan, dtype=F64)
    for _ in range(3):
        step(optimizer, weights, gradients, state, rates, own)
    assert weights[0].isfinite().all() and not weights[1:].isfinite().any()


class Early(torch.optim.Adagrad):
    """Refuses the fused form as torch 2.11 does on CUDA."""

    @wraps(torch.optim.Adagrad.__init__)
    def __init__(self, params, **settings):
        if settings.get("fused"):
            raise RuntimeError("`fused=True` requires supported devices")
        super().__init__(params, **settings)


class Late(torch.optim.Adagrad):
    """Refuses it at the first update."""

    def step(self, closure=None):
        if self.defaults["fused"]:
            raise RuntimeError("`fused=True` requires supported devices")
        return super().step(closure)


@pytest.mark.parametrize("refusing", [Early, Late])
def test_the_fast_form_is_one_that_torch_has(refusing, monkeypatch):
    cpu = torch.device("cpu")
    assert fast_form(torch.optim.Adagrad, cpu) == {"fused": True}
    assert fast_form(torch.optim.RMSprop, cpu) == fast_form(refusing, cpu) == {"foreach": True}
    row = replace(OPTIMIZERS["adagrad"], make=refusing)
    monkeypatch.setitem(OPTIMIZERS, "adagrad", row)
    model = nn.Linear(2, 2)
    optimizer = make_optimizer(
        SimpleNamespace(optimizer="adagrad", settings={}, groups=None), model
    )
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert optimizer.param_groups[0]["foreach"]


def positions():
    """An embedding, two hidden matrices of a shape and one of another, and a head."""
    model = nn.Sequential(
        nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 6),
        nn.Linear(6, 3),
    )  # fmt: skip
    model.positions = nn.Parameter(torch.zeros(2, 4))
    model.kernel = nn.Conv1d(1, 1, 3)
    return model


def test_hidden_matrices():
    model = positions()
    names = {id(p): name for name, p in model.named_parameters()}
    assert [names[id(p)] for p in hidden_matrices(model)] == ["1.weight", "3.weight", "4.weight"]
    tied = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5))
    tied[2].weight = tied[0].weight
    assert hidden_matrices(tied) == [tied[1].weight]
    task = SimpleNamespace(name="a task", optimizer="muon", settings={}, groups=None)
    with pytest.raises(InputError, match="optimizer muon: the model has no hidden matrix"):
        make_optimizer(task, nn.Sequential(nn.Conv2d(1, 8, 3), nn.Linear(8, 2)))


@pytest.mark.parametrize("given", [{}, {"nesterov": False, "adjust_lr_fn": "match_rms_adamw"}])
def test_muon_in_every_row(given):
    """Matrices agree as far as bfloat16 goes, in which torch makes them orthogonal."""
    given = {"adamw_ratio": 0.5, "weight_decay": 0.1, **given}
    models = [positions() for _ in range(ROWS)]
    task = SimpleNamespace(optimizer="muon", settings=given, groups=None, clip_norm=None)
    names = [name for name, _ in models[0].named_parameters()]
    stacked = StackedOptimizer(task, models[0], set(names))
    groups = stacked.groups
    rows = {n: torch.stack([m.get_parameter(n).detach() for m in models]) for n in names}
    weights = [group.matrix(rows).clone() for group in groups]
    states = [
        {kind: torch.full((ROWS, g.width(kind)), v) for kind, v in g.initial.items()}
        for g in groups
    ]
    apart = [MuonAdamW(model.parameters(), hidden_matrices(model), **given) for model in models]
    rates = torch.rand(UPDATES, ROWS)
    for update in range(UPDATES):
        gradients = {n: torch.randn_like(rows[n]) for n in names}
        for row, (model, optimizer) in enumerate(zip(models, apart, strict=True)):
            for group in optimizer.param_groups:
                group["lr"] = rates[update, row].item() * group["lr_ratio"]
            for name in names:
                model.get_parameter(name).grad = gradients[name][row].clone()
            optimizer.step()
        slopes = [group.matrix(gradients) for group in groups]
        momenta = torch.full((ROWS,), torch.nan)
        columns = stacked.columns(states, rates[update], momenta, rates[update])
        stacked.step(groups, weights, slopes, states, columns)
    for group, matrix in zip(groups, weights, strict=True):
        close = 0.02 if group.rule.by_shape else 1e-12
        for name, mine in group.views(matrix).items():
            theirs = torch.stack([m.get_parameter(name).detach() for m in models])
            torch.testing.assert_close(mine, theirs, rtol=close, atol=close)


def test_any_state_is_packed():
    content = {
        "state": {0: {"z": torch.ones(2), "k": (1, None, True)}},
        "all": [{"a": "word"}, 0.5],
    }
    tensors = {"weights/w": torch.ones(1)}
    again = unpacked(packed(content, tensors), tensors)
    assert repr(again) == repr(content)
    assert list(tensors) == ["weights/w", "optimizer/1"]
    with pytest.raises(InputError, match="state holds set: a checkpoint has room for"):
        packed({"state": {1, 2}}, {})


def users(make):
    return SimpleNamespace(name="a task", optimizer=make, optimizer_name="mine")


def fails(model):
    raise KeyError("layer")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (fails, "a task: optimizer mine: KeyError: 'layer'"),
        (lambda model: None, "returned NoneType: expected a torch.optim.Optimizer"),
        (lambda model: torch.optim.LBFGS(model.parameters()), "LBFGS needs a closure"),
        (lambda model: torch.optim.SGD(nn.Linear(2, 3).parameters()), r"holds a tensor \(3, 2\) "),
        (lambda model: torch.optim.SGD(model.parameters(), lr=0.0), "lr=0.0: expected a number"),
    ],
)
def test_a_function_that_makes_no_optimizer_of_the_model(make, message):
    with pytest.raises(InputError, match=message):
        make_optimizer(users(make), nn.Linear(2, 2))


def test_the_rates_of_a_users_groups_are_ratios():
    def make(model):
        groups = [{"params": [model.weight]}, {"params": [model.bias], "lr": 0.02}]
        return torch.optim.Adam(groups, lr=0.1)

    optimizer = make_optimizer(users(make), nn.Linear(2, 2))
    assert [group["lr_ratio"] for group in optimizer.param_groups] == [1.0, pytest.approx(0.2)]
