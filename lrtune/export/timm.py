"""A schedule for timm: one of its own schedulers where that is equal, else one of its interface.

In updates, as timm's own schedulers with t_in_epochs=False are; where the arguments of timm's
train.py can say the same of epochs, the docstring has them.
"""

from collections.abc import Callable
from typing import Any

from lrtune.export.case import DECAY, Case, head
from lrtune.export.formula import ratio
from lrtune.export.snippet import torch_code
from lrtune.export.train_py import arguments
from lrtune.schedule.family import Params
from lrtune.schedule.schedule import Schedule

HOW = """\
scheduler = make_scheduler(optimizer)  # sets the learning rate
scheduler.step_update(num_updates)     # after every update of the optimizer, {total} in all"""

HOW_ARGUMENTS = """

If the {total} are epochs, train.py has it too (then the rate changes once an epoch):
{arguments}"""

HOW_FED = """
scheduler.step(epoch, loss)            # after every validation
To go on later, save its state_dict() beside the optimizer's: timm's train.py does not."""


def timm(schedule: Schedule, total: int) -> str:
    """Source that defines `make_scheduler(optimizer)`, with `step_update(num_updates)`.

    Raises:
        InputError: `total` is not admissible.
    """
    case = Case(schedule, total)
    how = HOW.format(total=total)
    if schedule.closed_loop:
        # timm's own PlateauLRScheduler is deprecated and loses its state in a checkpoint.
        on_update = (
            UP_TO.format(done="update") if case.stepped else "pass  # validations alone count"
        )
        return head(case, how + HOW_FED, "timm") + _wrapped(case, on_update, ON_METRIC)
    if schedule.cycles_momentum:  # timm's own are of the rate alone
        on_update = UP_TO.format(done="last_epoch")
        return head(case, how, "timm") + _wrapped(case, on_update, "pass  # updates alone count")
    found = native(case)
    if found is None:
        code = ratio(case, "np")
        math = "import math\n\n" if "math." in code else ""
        filled = OWN.format(math=math, ratio=code, peak=case.peak)
        return head(case, how, "timm") + filled
    name, kwargs = found
    words = arguments(case)
    if words:
        how += HOW_ARGUMENTS.format(total=total, arguments=_folded(words))
    lines = "".join(f"        {key}={value!r},\n" for key, value in kwargs.items())
    return head(case, how, f"timm{SINCE.get(name, '')}") + NATIVE_CODE.format(
        name=name, peak=case.peak, lines=lines.replace("'", '"')
    )


def _wrapped(case: Case, on_update: str, on_epoch: str) -> str:
    code = torch_code(case).strip().replace("make_scheduler", "torch_scheduler")
    return WRAPPED.format(code=code, on_update=on_update, on_epoch=on_epoch)


def native(case: Case) -> tuple[str, Params] | None:
    """The class of timm.scheduler and its arguments, if the rates are equal."""
    if case.family not in NATIVE:
        return None
    found = NATIVE[case.family](case)
    if found is None:
        return None
    name, kwargs = found
    if case.warmup:
        kwargs |= {"warmup_t": case.warmup, "warmup_lr_init": case.start}
        # timm's wsd has its warmup before it in any case.
        kwargs |= {} if name == "WSDLRScheduler" else {"warmup_prefix": True}
    return name, kwargs | {"t_in_epochs": False}


def _folded(words: str) -> str:
    head, _, tail = words.partition(" --sched ")
    return f"    {head}\n    --sched {tail}"


def _poly(case: Case) -> tuple[str, Params]:
    power = case.knobs.get("power", 1.0)
    return "PolyLRScheduler", {"t_initial": case.n, "power": power, "lr_min": case.floor}


def _cosine(case: Case) -> tuple[str, Params] | None:
    if case.params["T_max"] < case.n:
        return None  # timm holds the floor from there on, torch rises again
    return "CosineLRScheduler", {"t_initial": case.params["T_max"], "lr_min": case.floor}


def _restarts(case: Case) -> tuple[str, Params] | None:
    lengths = case.cycles
    if case.params["T_mult"] > 2:
        return None  # timm finds the cycle with a logarithm, which rounds: floor(log(243, 3)) is 4
    return "CosineLRScheduler", {
        "t_initial": lengths[0],
        "lr_min": case.floor,
        "cycle_mul": case.params["T_mult"],
        "cycle_limit": len(lengths),
    }


def _tanh(case: Case) -> tuple[str, Params] | None:
    lb, ub = case.knobs["lb"], case.knobs["ub"]
    if ub > 5 or lb >= ub:
        return None  # 1 - tanh(ub) has lost its digits there
    return "TanhLRScheduler", {"t_initial": case.n, "lb": lb, "ub": ub, "lr_min": case.floor}


def _wsd(case: Case) -> tuple[str, Params]:
    return "WSDLRScheduler", {
        "t_initial": case.n,
        "decay_t": case.params["decay_steps"],
        "lr_min": case.floor,
        "decay_fn": DECAY[case.params["decay_shape"]],
    }


NATIVE: dict[str, Callable[[Case], tuple[str, dict[str, Any]] | None]] = {
    "constant": lambda case: ("StepLRScheduler", {"decay_t": 1, "decay_rate": 1.0}),
    "step": lambda case: (
        "StepLRScheduler",
        {"decay_t": case.params["step_size"], "decay_rate": case.params["gamma"]},
    ),
    "multistep": lambda case: (
        "MultiStepLRScheduler",
        # timm drops at the milestone less one.
        {
            "decay_t": [m + 1 for m in case.params["milestones"]],
            "decay_rate": case.params["gamma"],
        },
    ),
    "exponential": lambda case: (
        "StepLRScheduler",
        {"decay_t": 1, "decay_rate": case.params["gamma"]},
    ),
    "inverse_sqrt": lambda case: (
        "WSDLRScheduler",
        {
            "t_initial": case.n + 1,  # and the decay after the end
            "decay_t": 1,
            "stable_fn": "rsqrt",
            "stable_timescale": case.params["timescale"],
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
