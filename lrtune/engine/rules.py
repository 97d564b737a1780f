"""torch's update rules on stacked weights, of which each row is a trial with a rate of its own.

All rules of OPTIMIZERS work element by element and move by an amount proportional to the rate. So
one step of all of them at rate 1, scaled row by row, is a step of each row at its own rate; what
torch counts in a scalar (Adam's step, for its bias correction) is a number a row here. The rules
are torch.optim's own functions; ``differentiable`` makes them take tensors for scalars.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.adagrad import adagrad
from torch.optim.adam import adam
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

State = dict[str, Tensor]  # by torch's names: (K, ...), and step (K, 1, ...)
Settings = Mapping[str, Any]  # a parameter group of torch's
Rule = Callable[[Tensor, Tensor, State, Settings], None]


def step_rows(
    rule: Rule,
    weights: Tensor,
    gradients: Tensor,
    state: State,
    settings: Settings,
    rates: Tensor,
) -> None:
    """One update of every row, in place.

    Args:
        rule: of RULES.
        weights: (K, ...).
        gradients: (K, ...).
        state: of the optimizer, as ``fresh_state`` begins it.
        settings: of the optimizer.
        rates: (K, 1, ...).
    """
    before = weights.clone()
    rule(weights, gradients, state, settings)
    weights.copy_(torch.lerp(before, weights, rates))


def fresh_state(group: Settings, make: Callable[..., torch.optim.Optimizer]) -> dict[str, float]:
    """What each tensor of the optimizer's state holds before the first update."""
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    settings = {name: value for name, value in group.items() if name in _names(make) - OURS}
    optimizer = make([weight], lr=1.0, **settings)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()  # with no gradient and no weight to decay, it leaves what it began with
    found = {name: v for name, v in optimizer.state[weight].items() if isinstance(v, Tensor)}
    return {name: 0.0 if name == "step" else float(value) for name, value in found.items()}


def _names(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters)


SGD, ADAM, RMSPROP, ADAGRAD = (_names(rule) for rule in (sgd, adam, rmsprop, adagrad))
OURS = {"params", "lr", "foreach", "fused", "maximize", "differentiable", "capturable"}


def _of(names: set[str], settings: Settings) -> dict[str, Any]:
    own = {name: value for name, value in settings.items() if name in names - OURS}
    return {**own, "foreach": False, "maximize": False, "lr": 1.0}


def _sgd(weights: Tensor, gradients: Tensor, state: State, settings: Settings) -> None:
    sgd([weights], [gradients], [state.get("momentum_buffer")], **_of(SGD, settings))


def _adam(weights: Tensor, gradients: Tensor, state: State, settings: Settings) -> None:
    beta1, beta2 = settings["betas"]
    largest = [state["max_exp_avg_sq"]] if settings["amsgrad"] else []
    averages = [state["exp_avg"]], [state["exp_avg_sq"]], largest
    given = _of(ADAM, settings) | {"beta1": beta1, "beta2": beta2} | _as_columns(weights)
    adam([weights], [gradients], *averages, [state["step"]], **given)


def _rmsprop(weights: Tensor, gradients: Tensor, state: State, settings: Settings) -> None:
    means = [state["grad_avg"]] if settings["centered"] else []
    buffers = [state["momentum_buffer"]] if settings["momentum"] else []
    averages = [state["square_avg"]], means, buffers
    given = _of(RMSPROP, settings) | _as_columns(weights)
    rmsprop([weights], [gradients], *averages, [state["step"]], **given)


def _adagrad(weights: Tensor, gradients: Tensor, state: State, settings: Settings) -> None:
    before = weights.clone()
    uncounted = torch.zeros(())  # without lr_decay, the number of steps has no say
    given = _of(ADAGRAD, settings) | {"lr_decay": 0.0}
    adagrad([weights], [gradients], [state["sum"]], [uncounted], **given)
    weights.copy_(torch.lerp(before, weights, 1 / (1 + state["step"] * settings["lr_decay"])))
    state["step"] += 1


def _as_columns(weights: Tensor) -> dict[str, bool]:
    return {"differentiable": True, "capturable": weights.is_cuda}


RULES: dict[Any, Rule] = {
    torch.optim.SGD: _sgd,
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adam,
    torch.optim.RMSprop: _rmsprop,
    torch.optim.Adagrad: _adagrad,
}
