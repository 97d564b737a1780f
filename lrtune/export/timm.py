"""A schedule for timm: one of its own schedulers where that is equal, else one of its interface.

In updates, as timm's own schedulers with t_in_epochs=False are; where the arguments of timm's
train.py can say the same of epochs, the docstring has them.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

from lrtune.export.source import ExportContext, cooldown, literals, ratio, render
from lrtune.export.torch import scheduler
from lrtune.schedule.shapes import steepness

# A class of timm.scheduler and its arguments.
Native: TypeAlias = tuple[str, dict[str, Any]]


def timm(ctx: ExportContext) -> str:
    """Source that defines `make_scheduler(optimizer)`, with `step_update(num_updates)`."""
    # timm's own PlateauLRScheduler is deprecated and loses its state in a checkpoint, and its
    # schedulers are of the rate alone.
    values = scheduler(ctx) | {"cli": ""}
    if ctx.schedule.closed_loop or ctx.schedule.cycles_momentum or ctx.cooldowns:
        values |= {"make": "torch_scheduler", "name": "Wrapped"}
    elif (curve := native(ctx)) is None:
        values |= {"name": "Ratio", "ratio": ratio(ctx, "np")}
    else:
        name, kwargs = curve
        values |= {"name": name, "arguments": literals(kwargs), "cli": timm_cli(ctx)}
    return render("timm", ctx, install=f"timm{SINCE.get(values['name'], '')}", **values)


def native(ctx: ExportContext) -> Native | None:
    """The class of timm.scheduler and its arguments, if the rates are equal."""
    if ctx.family not in NATIVE or (curve := NATIVE[ctx.family](ctx)) is None:
        return None
    name, kwargs = curve
    if ctx.warmup:
        kwargs |= {"warmup_t": ctx.warmup, "warmup_lr_init": ctx.start}
        # timm's wsd has its warmup before it in any case.
        kwargs |= {} if name == "WSDLRScheduler" else {"warmup_prefix": True}
    return name, kwargs | {"t_in_epochs": False}


def _poly(ctx: ExportContext) -> Native:
    power = ctx.knobs.get("power", 1.0)
    return "PolyLRScheduler", {"t_initial": ctx.n, "power": power, "lr_min": ctx.floor}


def _step(every: int, factor: float) -> Native:
    return "StepLRScheduler", {"decay_t": every, "decay_rate": factor}


def _multistep(ctx: ExportContext) -> Native:
    # timm drops at the milestone less one.
    milestones = [m + 1 for m in ctx.params["milestones"]]
    return "MultiStepLRScheduler", {"decay_t": milestones, "decay_rate": ctx.params["gamma"]}


def _cosine(ctx: ExportContext) -> Native | None:
    if ctx.params["T_max"] < ctx.n:
        return None  # timm holds the floor from there on, torch rises again
    return "CosineLRScheduler", {"t_initial": ctx.params["T_max"], "lr_min": ctx.floor}


def _restarts(ctx: ExportContext) -> Native | None:
    lengths, times = ctx.cycles, ctx.params["T_mult"]
    if times > 2:
        return None  # timm finds the cycle with a logarithm, which rounds: floor(log(243, 3)) is 4
    cycles = {"cycle_mul": times, "cycle_limit": len(lengths)}
    return "CosineLRScheduler", {"t_initial": lengths[0], "lr_min": ctx.floor, **cycles}


def _tanh(ctx: ExportContext) -> Native | None:
    lb, ub = ctx.knobs["lb"], ctx.knobs["ub"]
    if ub > 5 or lb >= ub:
        return None  # 1 - tanh(ub) has lost its digits there
    return "TanhLRScheduler", {"t_initial": ctx.n, "lb": lb, "ub": ub, "lr_min": ctx.floor}


def _wsd(ctx: ExportContext) -> Native:
    decay = {"decay_t": ctx.params["decay_steps"], "lr_min": ctx.floor}
    form: dict[str, Any] = {"decay_fn": cooldown(ctx)}
    if cooldown(ctx) == "power":
        form |= {"decay_power": ctx.knobs["decay_power"]}
    elif cooldown(ctx) == "exponential":
        ratio = math.exp(-steepness(ctx.knobs["end_factor"]))
        form = {"decay_fn": "exp", "decay_ratio": ratio}
    return "WSDLRScheduler", {"t_initial": ctx.n, **decay, **form}


def _inverse_sqrt(ctx: ExportContext) -> Native:
    after_the_end = {"t_initial": ctx.n + 1, "decay_t": 1}
    stable = {"stable_fn": "rsqrt", "stable_timescale": ctx.params["timescale"]}
    return "WSDLRScheduler", after_the_end | stable


NATIVE: dict[str, Callable[[ExportContext], Native | None]] = {
    "constant": lambda ctx: _step(1, 1.0),
    "step": lambda ctx: _step(ctx.params["step_size"], ctx.params["gamma"]),
    "multistep": _multistep,
    "exponential": lambda ctx: _step(1, ctx.params["gamma"]),
    "inverse_sqrt": _inverse_sqrt,
    "linear": _poly,
    "polynomial": _poly,
    "cosine": _cosine,
    "cosine_restarts": _restarts,
    "tanh": _tanh,
    "wsd": _wsd,
}
SINCE = {"WSDLRScheduler": ">=1.0.31"}

# Class -> the end of train.py's command line, whose epochs are t_initial.
CLI = {
    "StepLRScheduler": "step --decay-epochs {decay_t} --decay-rate {decay_rate}",
    "MultiStepLRScheduler": "multistep --decay-milestones {decay_t} --decay-rate {decay_rate}",
    "PolyLRScheduler": "poly --decay-rate {power} --min-lr {lr_min}",
    "CosineLRScheduler": "cosine --min-lr {lr_min}",
    "WSDLRScheduler": "wsd --decay-epochs {decay_t} --lr-decay-fn {decay_fn} --min-lr {lr_min}",
}


def timm_cli(ctx: ExportContext) -> str:
    """The options of timm's train.py, in epochs, on two lines; empty where it has none for this."""
    name, kwargs = native(ctx) or ("", {})
    settled = kwargs.keys() & {"decay_power", "decay_ratio"}  # which train.py has not
    if ctx.ratios or name not in CLI or settled or kwargs.get("t_initial", ctx.n) != ctx.n:
        return ""
    milestones = kwargs.get("decay_t")
    if isinstance(milestones, list):
        kwargs |= {"decay_t": " ".join(map(str, milestones))}
    rise = f" --warmup-lr {ctx.start} --warmup-prefix" if ctx.warmup else ""
    return (
        f"--lr {ctx.peak} --epochs {ctx.n} --warmup-epochs {ctx.warmup}{rise}\n"
        f"--sched {CLI[name].format(**kwargs)}"
    )
