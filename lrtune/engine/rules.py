"""torch's update rules on stacked weights, of which each row is a trial with a rate of its own.

All rules of OPTIMIZERS work element by element and move by an amount proportional to the rate. So
one step of all of them at rate 1, scaled row by row, is a step of each row at its own rate; what
torch counts in a scalar (Adam's step, for its bias correction) is a number a row here. The rules
are torch.optim's own functions; ``differentiable`` makes them take tensors for scalars. A momentum
that is a row's own is multiplied into the buffer before, and theirs is 1.
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
Rule = Callable[[Tensor, Tensor, State, Settings, Tensor | None], None]


def step_rows(
    rule: Rule,
    weights: Tensor,
    gradients: Tensor,
    state: State,
    settings: Settings,
    rates: Tensor,
    momenta: Tensor | None = None,
) -> None:
    """One update of every row, in place.

    Args:
        rule: of RULES.
        weights: (K, ...).
        gradients: (K, ...).
        state: of the optimizer, as ``fresh_state`` begins it.
        settings: of the optimizer.
        rates: (K, 1, ...).
        momenta: (K, 1, ...) in place of the settings' own momentum, or beta1.
    """
    before = weights.clone()
    rule(weights, gradients, state, settings, momenta)
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


class _Each:
    """A number a row, where torch does arithmetic with one for all: what its Adam does to beta1."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __rsub__(self, one: float) -> Tensor:
        return one - self.rows

    def __pow__(self, step: Tensor) -> Tensor:
        return torch.pow(self.rows, step)


def _sgd(
    weights: Tensor, gradients: Tensor, state: State, settings: Settings, momenta: Tensor | None
) -> None:
    given = _of(SGD, settings)
    if momenta is None:
        sgd([weights], [gradients], [state.get("momentum_buffer")], **given)
        return
    buffer = state["momentum_buffer"].mul_(momenta)
    sgd([weights], [gradients], [buffer], **given | {"momentum": 1.0})
    if settings["nesterov"]:  # which looks ahead by momentum × buffer, and not by all of it
        weights.add_((1 - momenta) * buffer)


def _adam(
    weights: Tensor, gradients: Tensor, state: State, settings: Settings, momenta: Tensor | None
) -> None:
    beta1, beta2 = settings["betas"]
    beta1 = beta1 if momenta is None else _Each(momenta)
    largest = [state["max_exp_avg_sq"]] if settings["amsgrad"] else []
    averages = [state["exp_avg"]], [state["exp_avg_sq"]], largest
    given = _of(ADAM, settings) | {"beta1": beta1, "beta2": beta2} | _as_columns(weights)
    adam([weights], [gradients], *averages, [state["step"]], **given)


def _rmsprop(
    weights: Tensor, gradients: Tensor, state: State, settings: Settings, momenta: Tensor | None
) -> None:
    given = _of(RMSPROP, settings) | _as_columns(weights)
    if momenta is not None:
        state["momentum_buffer"].mul_(momenta)
        given["momentum"] = 1.0
    means = [state["grad_avg"]] if settings["centered"] else []
    buffers = [state["momentum_buffer"]] if given["momentum"] else []
    averages = [state["square_avg"]], means, buffers
    rmsprop([weights], [gradients], *averages, [state["step"]], **given)


def _adagrad(
    weights: Tensor, gradients: Tensor, state: State, settings: Settings, momenta: Tensor | None
) -> None:
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
