"""A schedule for Keras 3 on any backend: a LearningRateSchedule, or a callback for a closed loop.

Always by formula: Keras' own classes are asked by the batch under gradient accumulation, and some
lose their digits near zero or the update of a drop, where counts are divided in float32.
"""

from collections.abc import Callable, Mapping
from textwrap import indent
from typing import Any

from lrtune.export.context import ExportContext, FoundOptimizer, call, head
from lrtune.export.formula import ratio
from lrtune.export.torch import GREEDY_STEP
from lrtune.schedule.reactive import EPS, GREEDY_THRESHOLD

HOW = """\
model.compile({optimizer}, ...)
For {total} updates: counted by the optimizer, not by the epoch. With gradient_accumulation_steps=k
the rate is Schedule(every=k).{notes}"""

HOW_CLOSED = """\
model.compile({optimizer}, ...)
model.fit(..., validation_data=..., callbacks=[callback])
For {total} updates, validated after every epoch. A model that is loaded goes on at the rate it had;
what is counted begins anew.{notes}"""

VELOCITY = """
Keras' momentum keeps the rate that each gradient had; torch's, searched with, the present one."""
EPSILON = """
Keras' epsilon counts for more in the first updates than torch's, which the search had."""
SMALL = 1e-6  # epsilon that is next to nothing in any update


def keras(ctx: ExportContext) -> str:
    """Source that defines a `Schedule`, or a `callback` to give `fit`, and the `optimizer`."""
    optimizer, how = _optimizer(ctx)
    if not ctx.schedule.closed_loop:
        code = ratio(ctx, "ops")
        math = "import math\n\n" if "math." in code else ""
        source = OPEN.format(math=math, ratio=code, peak=ctx.peak)
        return head(ctx, how, "keras>=3") + source + optimizer
    if native(ctx):
        source = NATIVE.format(
            patience=ctx.params["patience"] + 1,
            # Keras' last epoch of a cooldown counts again; torch's does not.
            cooldown=ctx.params["cooldown"] + (ctx.params["cooldown"] > 0),
            factor=ctx.params["factor"],
            min_lr=ctx.params["min_lr"],
        )
        return head(ctx, how, "keras>=3") + source + optimizer
    rule = RULES[ctx.family].format(**ctx.params, eps=EPS, greedy_threshold=GREEDY_THRESHOLD)
    start, warmup = ctx.schedule.warmup_start, ctx.warmup
    rise = RISE.format(start=start, warmup=warmup) if warmup else ""
    seen = f" and self.updates() >= {warmup}" if warmup else ""
    source = CLOSED.format(
        peak=ctx.peak, rule=rule.strip("\n"), rise=rise, seen=seen, warmup=warmup
    )
    return head(ctx, how, "keras>=3") + source + optimizer


def _optimizer(ctx: ExportContext) -> tuple[str, str]:
    """The code that makes the optimizer, and how all of it is used."""
    how = HOW_CLOSED if ctx.schedule.closed_loop else HOW
    rate = str(ctx.peak) if ctx.schedule.closed_loop else "Schedule()"
    found = ctx.optimizer
    lacking = "" if found is None else found.lacking("Keras", LACKS)
    if found is None or lacking:
        yours = f"keras.optimizers.SGD({rate}) or another"
        return "", how.format(optimizer=yours, total=ctx.total, notes=lacking)
    notes = VELOCITY if found.settings.get("momentum") else ""
    notes += EPSILON if "betas" in found.settings and found.settings["eps"] > SMALL else ""
    name, rename = OPTIMIZERS["adamw" if found.decoupled else found.name]
    arguments, where = rename(found.settings), f"keras.optimizers.{name}"
    source = ""
    if found.decay and (found.of_matrices or not found.decoupled):
        arguments |= {"weight_decay": 0.0} if found.decoupled else {}
        where, source = "Optimizer", DECAY.format(name=name, decay=indent(_decay(found), " " * 8))
    elif found.decoupled:
        arguments |= {"weight_decay": found.decay}
    made = call(where, learning_rate=rate, **arguments)
    text = f"{source}\n{found.note}optimizer = {made}\n"
    return text, how.format(optimizer="optimizer", total=ctx.total, notes=notes)


def _decay(found: FoundOptimizer) -> str:
    """The lines of weight decay before an update, as torch has it."""
    line = DECOUPLED if found.decoupled else BY_GRADIENT
    line = line.format(decay=found.decay)
    return f"if len(variable.shape) > 1:\n    {line}" if found.of_matrices else line


def _betas(settings: Mapping[str, Any]) -> dict[str, Any]:
    first, second = settings["betas"]
    eps, amsgrad = settings["eps"], settings["amsgrad"]
    return {"beta_1": first, "beta_2": second, "epsilon": eps, "amsgrad": amsgrad}


def _momentum(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"momentum": settings["momentum"], "nesterov": settings["nesterov"]}


# Name -> class of keras.optimizers, torch's settings -> its arguments, weight decay aside. Where
# Keras adds epsilon before it takes the root, it is the square of torch's.
OPTIMIZERS: dict[str, tuple[str, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "sgd": ("SGD", _momentum),
    "nesterov": ("SGD", _momentum),
    "adam": ("Adam", _betas),
    "adamw": ("AdamW", _betas),
    "rmsprop": (
        "RMSprop",
        lambda settings: {
            "rho": settings["alpha"],
            "momentum": settings["momentum"],
            "epsilon": settings["eps"] ** 2,
            "centered": settings["centered"],
        },
    ),
    "adagrad": (
        "Adagrad",
        lambda settings: {
            "initial_accumulator_value": float(settings["initial_accumulator_value"]),
            "epsilon": settings["eps"] ** 2,
        },
    ),
}
LACKS = ("dampening", "lr_decay")

DECAY = '''

@keras.saving.register_keras_serializable(package="lrtune")
class Optimizer(keras.optimizers.{name}):
    """With weight decay as the peak was found with: as torch does it, and of the same weights."""

    def update_step(self, gradient, variable, learning_rate):
{decay}
        super().update_step(gradient, variable, learning_rate)

'''
BY_GRADIENT = "gradient = gradient + {decay} * variable"
DECOUPLED = "self.assign_sub(variable, {decay} * learning_rate * variable)"


def native(ctx: ExportContext) -> bool:
    """Whether Keras' own callback gives the same rates: its threshold is absolute."""
    return not ctx.stepped and ctx.params["threshold"] == 0


OPEN = '''
{math}import keras
from keras import ops


{ratio}

@keras.saving.register_keras_serializable(package="lrtune")
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """The rate of every update; `every`: the optimizer's gradient_accumulation_steps."""

    def __init__(self, peak_lr={peak}, every=1):
        self.peak_lr, self.every = peak_lr, every

    def __call__(self, step):
        t = ops.floor_divide(ops.cast(step, "int32"), self.every)
        return ops.cast(self.peak_lr * ratio(t), "float32")

    def get_config(self):
        return {{"peak_lr": self.peak_lr, "every": self.every}}
'''

NATIVE = """
import keras

callback = keras.callbacks.ReduceLROnPlateau(
    monitor="val_loss",
    mode="min",
    factor={factor},
    patience={patience},
    min_delta=0.0,
    cooldown={cooldown},
    min_lr={min_lr},
)
"""

CLOSED = '''
import keras


class Callback(keras.callbacks.Callback):
    """Sets the rate by the loss of every validation."""

    def __init__(self):
        super().__init__()
        self.rate, self.best = {peak}, float("inf")
        self.good = self.bad = self.rest = 0
        self.window = []

    def on_train_begin(self, logs=None):
        if self.updates() > {warmup}:  # of a run that goes on
            self.rate = float(self.model.optimizer.learning_rate)
        self.model.optimizer.learning_rate = self.rate
{rise}
    def on_epoch_end(self, epoch, logs=None):
        if "val_loss" in logs{seen}:
            self.validate(logs["val_loss"])
        self.model.optimizer.learning_rate = self.rate

    def updates(self):
        return int(self.model.optimizer.iterations)

{rule}


callback = Callback()
'''

RISE = """
    rising = True

    def on_train_batch_begin(self, batch, logs=None):
        if self.rising:  # to look at the model takes JAX a while
            t = min(self.updates(), {warmup})
            self.rising = t < {warmup}
            rise = {start} + (1 - {start}) * t / {warmup}
            self.model.optimizer.learning_rate = self.rate * rise
"""

RULES = {
    "plateau": """
    def validate(self, loss):
        better = loss < self.best * (1 - {threshold})
        self.best = loss if better else self.best
        self.bad = 0 if better or self.rest else self.bad + 1
        self.rest = max(0, self.rest - 1)
        if self.bad > {patience}:
            self.bad, self.rest = 0, {cooldown}
            self.change(max(self.rate * {factor}, {min_lr}))

    def change(self, rate):
        if self.rate - rate > {eps}:
            self.rate = rate
""",
    "greedy": """
    def validate(self, loss):
        self.window = [*self.window, loss][-{smooth}:]
        average = sum(self.window) / len(self.window)
        better = average < self.best - {greedy_threshold}
"""
    + GREEDY_STEP,
}
