"""A schedule for timm: one of its own schedulers where that is equal, else one of its interface.

In updates, as timm's own schedulers with t_in_epochs=False are; where the arguments of timm's
train.py can say the same of epochs, the docstring has them.
"""

from collections.abc import Callable
from typing import Any

from lrtune.export.context import DECAY, ExportContext, head
from lrtune.export.formula import ratio
from lrtune.export.torch import torch_code
from lrtune.schedule.family import Params

HOW = """\
scheduler = make_scheduler(optimizer)  # sets the learning rate
scheduler.step_update(num_updates)     # after every update of the optimizer, {total} in all"""

HOW_ARGUMENTS = """

If the {total} are epochs, train.py has it too (then the rate changes once an epoch):
{arguments}"""

HOW_FED = """
scheduler.step(epoch, loss)            # after every validation
To go on later, save its state_dict() beside the optimizer's: timm's train.py does not."""


def timm(ctx: ExportContext) -> str:
    """Source that defines `make_scheduler(optimizer)`, with `step_update(num_updates)`."""
    schedule, total = ctx.schedule, ctx.total
    how = HOW.format(total=total)
    if schedule.closed_loop:
        # timm's own PlateauLRScheduler is deprecated and loses its state in a checkpoint.
        on_update = (
            UP_TO.format(done="update") if ctx.stepped else "pass  # validations alone count"
        )
        return head(ctx, how + HOW_FED, "timm") + _wrapped(ctx, on_update, ON_METRIC)
    if schedule.cycles_momentum:  # timm's own are of the rate alone
        on_update = UP_TO.format(done="last_epoch")
        return head(ctx, how, "timm") + _wrapped(ctx, on_update, "pass  # updates alone count")
    found = native(ctx)
    if found is None:
        code = ratio(ctx, "np")
        math = "import math\n\n" if "math." in code else ""
        filled = OWN.format(math=math, ratio=code, peak=ctx.peak)
        return head(ctx, how, "timm") + filled
    name, kwargs = found
    words = timm_cli(ctx)
    if words:
        how += HOW_ARGUMENTS.format(total=total, arguments=_folded(words))
    lines = "".join(f"        {key}={value!r},\n" for key, value in kwargs.items())
    return head(ctx, how, f"timm{SINCE.get(name, '')}") + NATIVE_CODE.format(
        name=name, peak=ctx.peak, lines=lines.replace("'", '"')
    )


def _wrapped(ctx: ExportContext, on_update: str, on_epoch: str) -> str:
    code = torch_code(ctx).strip().replace("make_scheduler", "torch_scheduler")
    return WRAPPED.format(code=code, on_update=on_update, on_epoch=on_epoch)


def native(ctx: ExportContext) -> tuple[str, Params] | None:
    """The class of timm.scheduler and its arguments, if the rates are equal."""
    if ctx.family not in NATIVE:
        return None
    found = NATIVE[ctx.family](ctx)
    if found is None:
        return None
    name, kwargs = found
    if ctx.warmup:
        kwargs |= {"warmup_t": ctx.warmup, "warmup_lr_init": ctx.start}
        # timm's wsd has its warmup before it in any ctx.
        kwargs |= {} if name == "WSDLRScheduler" else {"warmup_prefix": True}
    return name, kwargs | {"t_in_epochs": False}


def _folded(words: str) -> str:
    head, _, tail = words.partition(" --sched ")
    return f"    {head}\n    --sched {tail}"


def _poly(ctx: ExportContext) -> tuple[str, Params]:
    power = ctx.knobs.get("power", 1.0)
    return "PolyLRScheduler", {"t_initial": ctx.n, "power": power, "lr_min": ctx.floor}


def _cosine(ctx: ExportContext) -> tuple[str, Params] | None:
    if ctx.params["T_max"] < ctx.n:
        return None  # timm holds the floor from there on, torch rises again
    return "CosineLRScheduler", {"t_initial": ctx.params["T_max"], "lr_min": ctx.floor}


def _restarts(ctx: ExportContext) -> tuple[str, Params] | None:
    lengths = ctx.cycles
    if ctx.params["T_mult"] > 2:
        return None  # timm finds the cycle with a logarithm, which rounds: floor(log(243, 3)) is 4
    return "CosineLRScheduler", {
        "t_initial": lengths[0],
        "lr_min": ctx.floor,
        "cycle_mul": ctx.params["T_mult"],
        "cycle_limit": len(lengths),
    }


def _tanh(ctx: ExportContext) -> tuple[str, Params] | None:
    lb, ub = ctx.knobs["lb"], ctx.knobs["ub"]
    if ub > 5 or lb >= ub:
        return None  # 1 - tanh(ub) has lost its digits there
    return "TanhLRScheduler", {"t_initial": ctx.n, "lb": lb, "ub": ub, "lr_min": ctx.floor}


def _wsd(ctx: ExportContext) -> tuple[str, Params]:
    return "WSDLRScheduler", {
        "t_initial": ctx.n,
        "decay_t": ctx.params["decay_steps"],
        "lr_min": ctx.floor,
        "decay_fn": DECAY[ctx.params["decay_shape"]],
    }


NATIVE: dict[str, Callable[[ExportContext], tuple[str, dict[str, Any]] | None]] = {
    "constant": lambda ctx: ("StepLRScheduler", {"decay_t": 1, "decay_rate": 1.0}),
    "step": lambda ctx: (
        "StepLRScheduler",
        {"decay_t": ctx.params["step_size"], "decay_rate": ctx.params["gamma"]},
    ),
    "multistep": lambda ctx: (
        "MultiStepLRScheduler",
        # timm drops at the milestone less one.
        {
            "decay_t": [m + 1 for m in ctx.params["milestones"]],
            "decay_rate": ctx.params["gamma"],
        },
    ),
    "exponential": lambda ctx: (
        "StepLRScheduler",
        {"decay_t": 1, "decay_rate": ctx.params["gamma"]},
    ),
    "inverse_sqrt": lambda ctx: (
        "WSDLRScheduler",
        {
            "t_initial": ctx.n + 1,  # and the decay after the end
            "decay_t": 1,
            "stable_fn": "rsqrt",
            "stable_timescale": ctx.params["timescale"],
        },
    ),
    "linear": _poly,
    "polynomial": _poly,
    "cosine": _cosine,
    "cosine_restarts": _restarts,
    "tanh": _tanh,
    "wsd": _wsd,
}

SINCE = {"WSDLRScheduler": ">=1.0.31"}


def timm_cli(ctx: ExportContext) -> str:
    """The options of timm's train.py, in epochs; empty where they cannot say it."""
    words = SCHED[ctx.family](ctx) if ctx.family in SCHED else ""
    if not words:
        return ""
    rise = f"--warmup-epochs {ctx.warmup}"
    if ctx.warmup:
        rise += f" --warmup-lr {ctx.start} --warmup-prefix"
    return f"--lr {ctx.peak} --epochs {ctx.n} {rise} --sched {words}"


def _sched_cosine(ctx: ExportContext) -> str:
    return f"cosine --min-lr {ctx.floor}" if ctx.params["T_max"] == ctx.n else ""


# The rest of the command line, from --sched on.
SCHED: dict[str, Callable[[ExportContext], str]] = {
    "constant": lambda ctx: "constant",
    "step": lambda ctx: "step --decay-epochs {step_size} --decay-rate {gamma}".format(**ctx.params),
    "multistep": lambda ctx: (
        "multistep --decay-milestones "
        f"{' '.join(str(m + 1) for m in ctx.params['milestones'])} "
        f"--decay-rate {ctx.params['gamma']}"
    ),
    "exponential": lambda ctx: f"step --decay-epochs 1 --decay-rate {ctx.params['gamma']}",
    "linear": lambda ctx: f"poly --decay-rate 1.0 --min-lr {ctx.floor}",
    "polynomial": lambda ctx: f"poly --decay-rate {ctx.knobs['power']} --min-lr {ctx.floor}",
    "cosine": _sched_cosine,
    "wsd": lambda ctx: (
        f"wsd --decay-epochs {ctx.params['decay_steps']} "
        f"--lr-decay-fn {DECAY[ctx.params['decay_shape']]} --min-lr {ctx.floor}"
    ),
}

NATIVE_CODE = """
from timm.scheduler import {name}


def make_scheduler(optimizer):
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = {peak}
    scheduler = {name}(
        optimizer,
{lines}    )
    scheduler.step_update(0)  # some begin with the peak
    return scheduler
"""

OWN = '''
{math}import numpy as np
from timm.scheduler.scheduler import Scheduler


{ratio}

class Ratio(Scheduler):
    """At update t, the rate of each group is ratio(t) of its own."""

    def __init__(self, optimizer):
        super().__init__(optimizer, "lr", t_in_epochs=False)
        self.step_update(0)

    def _get_lr(self, t):
        return [base * float(ratio(t)) for base in self.base_values]


def make_scheduler(optimizer):
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = {peak}
    return Ratio(optimizer)
'''

WRAPPED = '''
{code}


class Wrapped:
    """A torch scheduler with timm's interface, and with the lr_scale of parameter groups."""

    def __init__(self, optimizer):
        self.scheduler = torch_scheduler(optimizer)
        self.state_dict = self.scheduler.state_dict
        self.scale(1)

    def load_state_dict(self, state):
        self.unscaled(self.scheduler.load_state_dict, state)

    def step_update(self, num_updates, metric=None):
        {on_update}

    def step(self, epoch, metric=None):
        {on_epoch}

    def unscaled(self, call, *arguments):
        self.scale(-1)
        call(*arguments)
        self.scale(1)

    def scale(self, power):
        for group in self.scheduler.optimizer.param_groups:
            group["lr"] *= group.get("lr_scale", 1) ** power


make_scheduler = Wrapped
'''

ON_METRIC = """if metric is not None:  # of the validation
            self.unscaled(self.scheduler.step, metric)"""

UP_TO = """for _ in range(num_updates - self.scheduler.{done}):
            self.unscaled(self.scheduler.step)"""
