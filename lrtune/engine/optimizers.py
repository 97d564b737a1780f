"""Torch's optimizers by name, and the same update rules on the stacked weights of many trials."""

import inspect
import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adagrad import adagrad
from torch.optim.adam import adam
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

from lrtune.errors import InputError, nearest
from lrtune.tasks import Task

# What the schedule, the task and the engine decide.
OURS = {"params", "lr", "maximize", "foreach", "fused", "capturable", "differentiable"}

Tensors = dict[str, Tensor]
Settings = Mapping[str, Any]  # a parameter group of torch's


class Unfit(Exception):
    """Why a task is not for the fused pool."""


@dataclass(frozen=True, slots=True)
class OptimizerSpec:
    """One row: torch's class, what it is given unless told otherwise, and its fast form.

    ``cycled`` is the setting that a momentum cycle moves, None where there is none; ``captured``
    what a CUDA graph of it needs on CUDA, None where there can be none.
    """

    make: Callable[..., torch.optim.Optimizer]
    settings: Mapping[str, object] = field(default_factory=dict)
    fast: Mapping[str, bool] = field(default_factory=lambda: {"fused": True})
    cycled: str | None = "momentum"
    captured: Mapping[str, bool] | None = field(default_factory=lambda: {"capturable": True})


# The learning rate is the schedule's and never set here.
OPTIMIZERS: dict[str, OptimizerSpec] = {
    "sgd": OptimizerSpec(torch.optim.SGD, {"momentum": 0.9}, captured={}),
    "nesterov": OptimizerSpec(torch.optim.SGD, {"momentum": 0.9, "nesterov": True}, captured={}),
    "adam": OptimizerSpec(torch.optim.Adam, cycled="betas"),
    "adamw": OptimizerSpec(torch.optim.AdamW, cycled="betas"),
    "rmsprop": OptimizerSpec(torch.optim.RMSprop, fast={"foreach": True}),  # has no fused form
    "adagrad": OptimizerSpec(torch.optim.Adagrad, cycled=None, captured=None),
}


def settings_of(name: str, given: Mapping[str, object]) -> dict[str, Any]:
    """Every setting, torch's own defaults too, for torch's constructor and for the record.

    Raises:
        InputError: unknown optimizer or setting, or a value that torch refuses.
    """
    if name not in OPTIMIZERS:
        raise InputError(
            f"optimizer {name!r}: one of {', '.join(OPTIMIZERS)}{nearest(name, OPTIMIZERS)}"
        )
    spec = OPTIMIZERS[name]
    if "lr" in given:
        raise InputError(f"optimizer {name}: lr is the schedule's: see peak_lr")
    known = {
        setting: parameter.default
        for setting, parameter in inspect.signature(spec.make).parameters.items()
        if setting not in OURS
    }
    for setting, value in given.items():
        if setting not in known:
            raise InputError(f"optimizer {name} has no {setting!r}{nearest(str(setting), known)}")
        if not _is_like(value, known[setting]):
            raise InputError(
                f"optimizer {name}: {setting}={value!r}: expected the like of {known[setting]!r}"
            )
    settings = {**known, **spec.settings, **given}
    try:
        spec.make([nn.Parameter(torch.zeros(1))], lr=0.1, **settings, **spec.fast)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"optimizer {name}: {error}") from error
    return settings


def _is_like(value: object, default: object) -> bool:
    """Whether a setting has the type and the length of torch's own default, and is finite."""
    if isinstance(default, tuple):
        if not isinstance(value, tuple) or len(value) != len(default):
            return False
        return all(_is_like(v, d) for v, d in zip(value, default, strict=True))
    if isinstance(default, bool) or isinstance(value, bool):
        return type(value) is type(default)
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) < 1e6


def check_momentum(name: str) -> None:
    """Refuse an optimizer that has no momentum to cycle."""
    if OPTIMIZERS[name].cycled is None:
        others = ", ".join(other for other, spec in OPTIMIZERS.items() if spec.cycled)
        raise InputError(
            f"optimizer {name} has no momentum to cycle: take one of {others}, or do without "
            "cycle_momentum (of a schedule: without base_momentum and max_momentum)"
        )


def momentum_of(settings: Settings) -> float:
    """What a momentum cycle would move in a group that has it: momentum, or Adam's beta1."""
    return float(settings["betas"][0] if "betas" in settings else settings["momentum"])


def set_momentum(group: dict[str, Any], value: float) -> None:
    """As torch's OneCycleLR and CyclicLR set it."""
    if "betas" in group:
        group["betas"] = (value, *group["betas"][1:])
    else:
        group["momentum"] = value


def capture_settings(task: Task, device: torch.device) -> dict[str, Any] | None:
    """What an optimizer is made with to be captured in a CUDA graph, and zeroed as a fresh one.

    None where it cannot be: SGD with dampening makes its first update by another rule.
    """
    captured = OPTIMIZERS[task.optimizer].captured
    if captured is None or task.settings.get("dampening"):
        return None
    kind = torch.float64 if device.type == "cpu" else torch.float32  # all that CUDA's kernels read
    rate = {"lr": torch.zeros((), dtype=kind, device=device)}
    return rate | (dict(captured) if device.type == "cuda" else {})


def make_optimizer(
    task: Task, model: nn.Module, captured: Mapping[str, Any] | None = None
) -> torch.optim.Optimizer:
    """The optimizer of one model, the rate of each group to be set before each update.

    Every group has its ``lr_ratio``: what the schedule's rate is multiplied by there.

    Args:
        task: with the optimizer and its groups.
        model: one of the task's.
        captured: see ``capture_settings``; the rate of each group is then a tensor of its own.

    Raises:
        InputError: the task's groups are none.
    """
    spec = OPTIMIZERS[task.optimizer]
    settings = settings_of(task.optimizer, task.settings)
    try:
        given = {"lr": 0.0, **settings, **spec.fast, **(captured or {})}
        optimizer = spec.make(_groups(task, model), **given)
        for group in optimizer.param_groups:
            group["lr"] = deepcopy(group["lr"])
        return optimizer
    except InputError:
        raise
    except Exception as error:  # whatever the user's function may raise, or torch of its groups
        reason = " ".join(str(error).split())
        raise InputError(f"{task.name}: groups: {type(error).__name__}: {reason}") from error


def _groups(task: Task, model: nn.Module) -> list[dict[str, Any]]:
    if task.groups is None:
        free = [p for p in model.parameters() if p.requires_grad]
        return [{"params": free, "lr_ratio": 1.0}]
    groups = [{"lr_ratio": 1.0, **group} for group in task.groups(model)]
    for group in groups:
        if "lr" in group:
            raise InputError(f"{task.name}: groups: lr is the schedule's: give lr_ratio")
        ratio = group["lr_ratio"]
        if not isinstance(ratio, int | float) or not 0 <= ratio < math.inf:
            raise InputError(f"{task.name}: groups: lr_ratio={ratio!r}: a finite number from 0")
        settings = {name: v for name, v in group.items() if name not in ("params", "lr_ratio")}
        settings_of(task.optimizer, settings)
    return groups


class StackedOptimizer:
    """One of OPTIMIZERS on stacked weights, in which each row is a trial with its own rate.

    All rules work element by element and move by an amount proportional to the rate. So one step
    of all rows at rate 1, scaled row by row, is a step of each row at its own rate; what torch
    counts in a scalar (Adam's step, for its bias correction) is a number per row. The rules are
    the functions of ``torch.optim``; ``differentiable`` makes them take tensors for scalars.

    Attributes:
        settings: of each parameter that is trained, by name: those of its group.
        initial: what each tensor of a parameter's state begins with, by torch's names.
        dtype: of all that is trained.
    """

    def __init__(self, task: Task, model: nn.Module, reached: set[str]) -> None:
        """Look at the parameters of a model.

        Args:
            task: with the optimizer and its groups.
            model: one of the task's.
            reached: names of the parameters that the loss depends on; the others stay as they are,
                as torch's optimizers leave what has no gradient.

        Raises:
            Unfit: the model or the optimizer is not for many trials at once.
        """
        make = OPTIMIZERS[task.optimizer].make
        self._rule = RULES[make]
        self.settings: dict[str, Settings] = {}
        self.initial: dict[str, dict[str, float]] = {}
        names = {parameter: name for name, parameter in model.named_parameters()}
        for number, group in enumerate(make_optimizer(task, model).param_groups):
            settings = {name: value for name, value in group.items() if name != "params"}
            if settings.get("dampening"):
                raise Unfit("with dampening, SGD's first update is of another kind than the rest")
            initial = _initial_state(make, settings)
            for parameter in group["params"]:
                if parameter not in names:
                    raise Unfit(f"group {number} of groups holds what is no parameter of the model")
                if names[parameter] in reached:
                    self.settings[names[parameter]] = settings
                    self.initial[names[parameter]] = initial
        others = sorted(reached - self.settings.keys())
        if others and task.clip_norm is not None:
            raise Unfit(
                f"the clipped norm is of all gradients, but {others[0]} is in none of the groups"
            )
        kinds = {p.dtype for p, name in names.items() if name in self.settings}
        types = sorted(str(kind).removeprefix("torch.") for kind in kinds)
        if len(types) != 1:
            raise Unfit(f"its parameters are of several types: {', '.join(types)}")
        if types[0] not in ("float32", "float64"):
            raise Unfit(f"its parameters are {types[0]}: only float32 and float64 can be")
        self.dtype = kinds.pop()

    def add_momentum(self, weights: Tensors, states: dict[str, Tensors]) -> None:
        """Room for the momentum of trials that cycle it, where the optimizer itself has none."""
        for name, state in states.items():
            if "momentum" in self.settings[name] and "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(weights[name])
                self.initial[name]["momentum_buffer"] = 0.0

    def step(
        self,
        name: str,
        weights: Tensor,
        gradients: Tensor,
        state: Tensors,
        rates: Tensor,
        momenta: Tensor | None = None,
    ) -> None:
        """One update of every row of a parameter, in place.

        Args:
            name: of the parameter.
            weights: (K, ...).
            gradients: (K, ...).
            state: by torch's names (K, ...), and step (K, 1, ...).
            rates: (K,).
            momenta: (K,), NaN where it is the settings' own; None where all are.
        """
        settings = self.settings[name]
        before = weights.clone()
        if momenta is not None:
            own = momentum_of(settings)
            momenta = column(torch.where(momenta.isnan(), own, momenta), weights)
        self._unit_step(weights, gradients, state, settings, momenta)
        if "lr_decay" in settings:
            weights.copy_(before.lerp(weights, 1 / (1 + state["step"] * settings["lr_decay"])))
            state["step"] += 1
        weights.copy_(before.lerp(weights, column(rates * settings["lr_ratio"], weights)))

    def _unit_step(
        self,
        weights: Tensor,
        gradients: Tensor,
        state: Tensors,
        settings: Settings,
        momenta: Tensor | None,
    ) -> None:
        """A step at rate 1; momenta (K, 1, ...)."""
        given = {name: value for name, value in settings.items() if name in self._rule.settings}
        given |= {"lr": 1.0, "foreach": False, "maximize": False}
        if "betas" in settings:
            given["beta1"], given["beta2"] = settings["betas"]
            if momenta is not None:
                # Torch takes a tensor for beta1: with the rows last, a number for each of them.
                given["beta1"] = momenta.flatten()
                weights, gradients = weights.movedim(0, -1), gradients.movedim(0, -1)
                state = {name: tensor.movedim(0, -1) for name, tensor in state.items()}
        elif momenta is not None:  # multiplied into the buffer before, and torch's is 1
            state["momentum_buffer"].mul_(momenta)
            given["momentum"] = 1.0
        if "lr_decay" in settings:  # without it, the number of steps has no say
            given["lr_decay"] = 0.0
            state = {**state, "step": torch.zeros(())}
        elif "step" in state:
            given |= {"differentiable": True, "capturable": weights.is_cuda}
        lists = [[state[kind]] if kind in state else [] for kind in self._rule.state]
        self._rule.function([weights], [gradients], *lists, **given)
        if momenta is not None and settings.get("nesterov"):
            # Which looks ahead by momentum × buffer, and not by all of it.
            weights.add_((1 - momenta) * state["momentum_buffer"])


def _initial_state(make: Callable[..., Any], settings: Settings) -> dict[str, float]:
    """What each tensor of the optimizer's state holds before the first update."""
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    names = _settings_of(make)
    optimizer = make([weight], lr=1.0, **{n: v for n, v in settings.items() if n in names})
    weight.grad = torch.zeros_like(weight)
    optimizer.step()  # with no gradient and no weight to decay, it leaves what it began with
    state = {name: v for name, v in optimizer.state[weight].items() if isinstance(v, Tensor)}
    return {name: 0.0 if name == "step" else float(value) for name, value in state.items()}


def column(numbers: Tensor, like: Tensor) -> Tensor:
    """A number per row (K,), to go with (K, ...)."""
    return numbers.view(-1, *[1] * (like.dim() - 1)).to(like.dtype)


def _settings_of(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters) - OURS


class _Rule:
    """A function of ``torch.optim``, and the state that it takes, in its order."""

    def __init__(self, function: Callable[..., None], *state: str) -> None:
        self.function = function
        self.state = state
        self.settings = _settings_of(function)


_ADAM = _Rule(adam, "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step")
RULES: dict[Any, _Rule] = {
    torch.optim.SGD: _Rule(sgd, "momentum_buffer"),
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
    torch.optim.RMSprop: _Rule(rmsprop, "square_avg", "grad_avg", "momentum_buffer", "step"),
    torch.optim.Adagrad: _Rule(adagrad, "sum", "step"),
}
