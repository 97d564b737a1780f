"""A schedule for Keras 3 on any backend: a LearningRateSchedule, or a callback for a closed loop.

Always by formula: Keras' own classes are asked by the batch under gradient accumulation, and some
lose their digits near zero or the update of a drop, where counts are divided in float32.
"""

from collections.abc import Callable, Mapping
from typing import Any

from lrtune.export.source import DECAY_BY, ExportContext, call, ratio, render

LACKS = ("dampening", "lr_decay", DECAY_BY)  # of torch's optimizers
SMALL = 1e-6  # epsilon that is next to nothing in any update


def keras(ctx: ExportContext) -> str:
    """Source that defines a `Schedule`, or a `callback` to give `fit`, and the `optimizer`."""
    formula = "" if ctx.schedule.closed_loop else ratio(ctx, "ops")
    return render("keras", ctx, install="keras>=3", ratio=formula, **_optimizer(ctx))


def _optimizer(ctx: ExportContext) -> dict[str, Any]:
    """What the template needs to make the optimizer."""
    optimizer, rate = ctx.optimizer, str(ctx.peak) if ctx.schedule.closed_loop else "Schedule()"
    values = {
        "rate": rate,
        "lacking": optimizer.lacking(OPTIMIZERS, LACKS) if optimizer else "",
        "optimizer": "",
    }
    if optimizer is None or values["lacking"]:
        return values
    name, rename = OPTIMIZERS["adamw" if optimizer.decoupled else optimizer.name]
    arguments, maker = rename(optimizer.settings), f"keras.optimizers.{name}"
    # Keras' own weight decay is decoupled, and of all weights.
    as_torch = optimizer.decay > 0 and (optimizer.of_matrices or not optimizer.decoupled)
    if optimizer.decoupled:
        arguments |= {"weight_decay": 0.0 if as_torch else optimizer.decay}
    made = call("Optimizer" if as_torch else maker, learning_rate=rate, **arguments)
    return values | {
        "maker": maker,
        "as_torch": as_torch,
        "optimizer": made,
        "own_momentum": optimizer.settings.get("momentum", 0) > 0,
        "own_epsilon": "betas" in optimizer.settings and optimizer.settings["eps"] > SMALL,
    }


def _betas(settings: Mapping[str, Any]) -> dict[str, Any]:
    first, second = settings["betas"]
    amsgrad = settings.get("amsgrad") or None
    return {"beta_1": first, "beta_2": second, "epsilon": settings["eps"], "amsgrad": amsgrad}


def _momentum(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"momentum": settings["momentum"], "nesterov": settings["nesterov"] or None}


def _rmsprop(settings: Mapping[str, Any]) -> dict[str, Any]:
    same = {"rho": settings["alpha"], "momentum": settings["momentum"]}
    return same | {"epsilon": settings["eps"] ** 2, "centered": settings["centered"] or None}


def _adagrad(settings: Mapping[str, Any]) -> dict[str, Any]:
    start = float(settings["initial_accumulator_value"])
    return {"initial_accumulator_value": start, "epsilon": settings["eps"] ** 2}


# Name -> class of keras.optimizers, torch's settings -> its arguments, weight decay aside. Where
# Keras adds epsilon before it takes the root, it is the square of torch's.
OPTIMIZERS: dict[str, tuple[str, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "sgd": ("SGD", _momentum),
    "nesterov": ("SGD", _momentum),
    "adam": ("Adam", _betas),
    "adamw": ("AdamW", _betas),
    "rmsprop": ("RMSprop", _rmsprop),
    "adagrad": ("Adagrad", _adagrad),
    "adamax": ("Adamax", _betas),
    "adadelta": ("Adadelta", lambda s: {"rho": s["rho"], "epsilon": s["eps"]}),
}
