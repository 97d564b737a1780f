"""Rules: a step of a matrix is a step of torch's optimizer in each row, at the row's own rate."""

import inspect

import numpy as np
import pytest
import torch

from lrtune.engine.optimizers import OPTIMIZERS, set_momentum
from lrtune.engine.rules import RULES, fresh_state, step_rows

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
}
CASES = [(name, given) for name in OPTIMIZERS for given in SETTINGS[name]]


def made(name, given, weights):
    rule = OPTIMIZERS[name]
    return rule.make(weights, lr=1.0, foreach=False, **{**rule.settings, **given})


def rows_of(name, given):
    """Weights, and the optimizer's state as it begins, of all rows."""
    group = made(name, given, [torch.nn.Parameter(torch.zeros(1))]).param_groups[0]
    begins = fresh_state(group, OPTIMIZERS[name].make)
    state = {
        key: torch.full((ROWS, 1 if key == "step" else WIDTH), value, dtype=torch.float64)
        for key, value in begins.items()
    }
    return group, begins, state


CYCLED = [(name, given) for name, given in CASES if OPTIMIZERS[name].cycled]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize(
    ("name", "given", "cycled"),
    [(*case, False) for case in CASES] + [(*case, True) for case in CYCLED],
    ids=str,
)
def test_a_step_is_torch_s_in_every_row(name, given, cycled, scale):
    """Row i is begun anew after 3 i updates, as a slot is that is filled again."""
    noise = torch.Generator().manual_seed(0)
    like = {"dtype": torch.float64, "generator": noise}
    wide = torch.randn(ROWS, WIDTH + 4, **like)
    weights = wide[:, 2:-2]  # as one group among others: not contiguous
    rates = scale * torch.rand(UPDATES, ROWS, 1, **like)
    gradients = torch.randn(UPDATES, ROWS, WIDTH, **like)
    momenta = 0.5 + 0.5 * torch.rand(UPDATES, ROWS, 1, **like) if cycled else [None] * UPDATES
    before, kept = wide.clone(), gradients.clone()
    group, begins, state = rows_of(name, given)
    if cycled and "momentum" in group and "momentum_buffer" not in state:  # see add_momentum
        begins["momentum_buffer"] = 0.0
        state["momentum_buffer"] = torch.zeros(ROWS, WIDTH, dtype=torch.float64)
    apart = [torch.nn.Parameter(row.clone()) for row in weights]
    optimizers = [made(name, given, [row]) for row in apart]
    for update in range(UPDATES):
        for row, alone in enumerate(apart):
            if update == 3 * row:
                optimizers[row] = made(name, given, [alone])
                for key, value in begins.items():
                    state[key][row] = value
            alone.grad = gradients[update, row].clone()
            optimizers[row].param_groups[0]["lr"] = rates[update, row].item()
            if cycled:
                set_momentum(optimizers[row].param_groups[0], momenta[update, row].item())
            optimizers[row].step()
        rule = RULES[OPTIMIZERS[name].make]
        step_rows(rule, weights, gradients[update], state, group, rates[update], momenta[update])
    torch.testing.assert_close(weights, torch.stack(apart).detach(), rtol=1e-12, atol=1e-12)
    assert torch.equal(gradients, kept)
    assert torch.equal(wide[:, [0, 1, -2, -1]], before[:, [0, 1, -2, -1]])


def test_fresh_state_holds_what_torch_begins_with():
    _, begins, _ = rows_of("adagrad", {"initial_accumulator_value": 0.5})
    assert begins == {"step": 0.0, "sum": 0.5}
    assert rows_of("sgd", {"momentum": 0.0})[1] == {}
    assert rows_of("adam", {"amsgrad": True})[1].keys() == {
        "step",
        "exp_avg",
        "exp_avg_sq",
        "max_exp_avg_sq",
    }


@pytest.mark.parametrize("make", RULES)
def test_torch_has_no_setting_that_the_rules_leave_out(make):
    """One that a new version of torch adds is to be looked at here first."""
    ours = {"params", "lr", "maximize", "foreach", "fused", "capturable", "differentiable"}
    known = {
        "momentum", "dampening", "weight_decay", "nesterov", "betas", "eps", "amsgrad",
        "decoupled_weight_decay", "alpha", "centered", "lr_decay", "initial_accumulator_value",
    }  # fmt: skip
    assert set(inspect.signature(make).parameters) - ours <= known


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_row_without_numbers_keeps_them_to_itself(name):
    group, _, state = rows_of(name, {})
    weights = torch.ones(ROWS, WIDTH, dtype=torch.float64)
    rates = torch.tensor([[0.1], [np.inf], [np.nan]], dtype=torch.float64)
    gradients = torch.ones(ROWS, WIDTH, dtype=torch.float64)
    gradients[1] = np.nan
    for _ in range(3):
        step_rows(RULES[OPTIMIZERS[name].make], weights, gradients, state, group, rates)
    assert weights[0].isfinite().all() and not weights[1:].isfinite().any()
