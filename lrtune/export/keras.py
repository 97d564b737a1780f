"""A schedule for Keras 3 on any backend: a LearningRateSchedule, or a callback for a closed loop.

Always by formula: Keras' own classes are asked by the batch under gradient accumulation, and some
lose their digits near zero or the update of a drop, where counts are divided in float32.
"""

from lrtune.export.context import ExportContext, head
from lrtune.export.formula import ratio
from lrtune.export.torch import GREEDY_STEP
from lrtune.schedule.reactive import EPS, GREEDY_THRESHOLD
from lrtune.schedule.schedule import Schedule

HOW = """\
keras.optimizers.SGD(learning_rate=Schedule()), or any other optimizer, for {total} updates: counted
by the optimizer, not by the epoch. With gradient_accumulation_steps=k it is Schedule(every=k)."""

HOW_CLOSED = """\
model.compile(keras.optimizers.SGD({peak}), ...)  # or any other optimizer
model.fit(..., validation_data=..., callbacks=[callback])
For {total} updates, validated after every epoch. A model that is loaded goes on at the rate it had;
what is counted begins anew."""


def keras(schedule: Schedule, total: int) -> str:
    """Source that defines a `Schedule` to give an optimizer, or a `callback` to give `fit`.

    Raises:
        InputError: `total` is not admissible.
    """
    ctx = ExportContext(schedule, total)
    if not schedule.closed_loop:
        code = ratio(ctx, "ops")
        math = "import math\n\n" if "math." in code else ""
        how = HOW.format(total=total)
        return head(ctx, how, "keras>=3") + OPEN.format(math=math, ratio=code, peak=ctx.peak)
    how = HOW_CLOSED.format(total=total, peak=ctx.peak)
    if native(ctx):
        return head(ctx, how, "keras>=3") + NATIVE.format(
            patience=ctx.params["patience"] + 1,
            # Keras' last epoch of a cooldown counts again; torch's does not.
            cooldown=ctx.params["cooldown"] + (ctx.params["cooldown"] > 0),
            factor=ctx.params["factor"],
            min_lr=ctx.params["min_lr"],
        )
    rule = RULES[ctx.family].format(**ctx.params, eps=EPS, greedy_threshold=GREEDY_THRESHOLD)
    rise = RISE.format(start=schedule.warmup_start, warmup=ctx.warmup) if ctx.warmup else ""
    seen = f" and self.updates() >= {ctx.warmup}" if ctx.warmup else ""
    return head(ctx, how, "keras>=3") + CLOSED.format(
        peak=ctx.peak, rule=rule.strip("\n"), rise=rise, seen=seen, warmup=ctx.warmup
    )


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
