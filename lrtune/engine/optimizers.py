"""OPTIMIZERS: torch's update rules by name. The rate is the schedule's and never set here."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from lrtune.errors import InputError, nearest
from lrtune.tasks import Task


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: torch's class, what it is given unless told otherwise, and its fast form.

    ``cycled`` is the setting that a momentum cycle moves, None where there is none.
    """

    make: Callable[..., torch.optim.Optimizer]
    settings: Mapping[str, object] = field(default_factory=dict)
    fast: Mapping[str, bool] = field(default_factory=lambda: {"fused": True})
    cycled: str | None = "momentum"


# What the schedule, the task and the engine decide.
OURS = {"params", "lr", "maximize", "foreach", "fused", "capturable", "differentiable"}

OPTIMIZERS: dict[str, Rule] = {
    "sgd": Rule(torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": Rule(torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adam": Rule(torch.optim.Adam, cycled="betas"),
    "adamw": Rule(torch.optim.AdamW, cycled="betas"),
    "rmsprop": Rule(torch.optim.RMSprop, fast={"foreach": True}),  # torch has no fused one
    "adagrad": Rule(torch.optim.Adagrad, cycled=None),
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
    rule = OPTIMIZERS[name]
    if "lr" in given:
        raise InputError(f"optimizer {name}: lr is the schedule's: see peak_lr")
    known = {
        setting: parameter.default
        for setting, parameter in inspect.signature(rule.make).parameters.items()
        if setting not in OURS
    }
    for setting, value in given.items():
        if setting not in known:
            raise InputError(f"optimizer {name} has no {setting!r}{nearest(str(setting), known)}")
        if not _is_like(value, known[setting]):
            raise InputError(
                f"optimizer {name}: {setting}={value!r}: expected the like of {known[setting]!r}"
            )
    settings = {**known, **rule.settings, **given}
    try:
        rule.make([nn.Parameter(torch.zeros(1))], lr=0.1, **settings, **rule.fast)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"optimizer {name}: {error}") from error
    return settings


def check_momentum(name: str) -> None:
    """Refuse an optimizer that has no momentum to cycle."""
    if OPTIMIZERS[name].cycled is None:
        others = ", ".join(other for other, rule in OPTIMIZERS.items() if rule.cycled)
        raise InputError(
            f"optimizer {name} has no momentum to cycle: take one of {others}, or do without "
            "cycle_momentum (of a schedule: without base_momentum and max_momentum)"
        )


def momentum_of(settings: Mapping[str, Any]) -> float:
    """What a momentum cycle would move in a group that has it: momentum, or Adam's beta1."""
    return float(settings["betas"][0] if "betas" in settings else settings["momentum"])


def set_momentum(group: dict[str, Any], value: float) -> None:
    """As torch's OneCycleLR and CyclicLR set it."""
    if "betas" in group:
        group["betas"] = (value, *group["betas"][1:])
    else:
        group["momentum"] = value


def _is_like(value: object, default: object) -> bool:
    """Whether a setting has the type and the length of torch's own default, and is finite."""
    if isinstance(default, tuple):
        return (
            isinstance(value, tuple)
            and len(value) == len(default)
            and all(_is_like(v, d) for v, d in zip(value, default, strict=True))
        )
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) < 1e6


def make_optimizer(task: Task, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of one model, the rate of each group to be set before each update.

    Every group has its ``lr_ratio``: what the schedule's rate is multiplied by there.

    Raises:
        InputError: the task's groups are none.
    """
    rule = OPTIMIZERS[task.optimizer]
    settings = settings_of(task.optimizer, task.settings)
    try:
        groups = _groups(task, model)
        return rule.make(groups, lr=0.0, **settings, **rule.fast)
    except InputError:
        raise
    except Exception as error:  # whatever the user's function may raise, or torch of its groups
        said = " ".join(str(error).split())
        raise InputError(f"{task.name}: groups: {type(error).__name__}: {said}") from error


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
        own = {name: value for name, value in group.items() if name not in ("params", "lr_ratio")}
        settings_of(task.optimizer, own)
    return groups
