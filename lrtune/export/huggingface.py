"""A schedule for Hugging Face's Trainer: its own `lr_scheduler_type` where that is equal.

Where its curves are ours: its warmups rise from zero, ours from above it, so most schedules with a
warmup are handed in as a scheduler instead.
"""

from collections.abc import Callable

from lrtune.export.context import DECAY, ExportContext, FoundOptimizer, head
from lrtune.export.torch import torch_code
from lrtune.schedule.family import Params

HOW_NATIVE = """\
TrainingArguments(..., **ARGUMENTS)
For {total} updates: with gradient_accumulation_steps=k one update is k batches."""
EVALUATED = ', eval_strategy="epoch", metric_for_best_model="loss"'

HOW_SCHEDULER = """\
scheduler = make_scheduler(optimizer)  # sets the learning rate of any torch optimizer
args = TrainingArguments(..., max_steps={total}{evaluated})
Trainer(..., args=args, optimizers=(optimizer, scheduler){more})
For {total} updates: with gradient_accumulation_steps=k one update is k batches."""


def huggingface(ctx: ExportContext) -> str:
    """Source that defines `ARGUMENTS` for TrainingArguments, else `make_scheduler(optimizer)`."""
    schedule, total = ctx.schedule, ctx.total
    found, optimizer = native(ctx), arguments_of(ctx.optimizer)
    if found is None or optimizer is None:
        more = ", callbacks=[FeedSchedule()]" if schedule.closed_loop else ""
        evaluated = EVALUATED if schedule.closed_loop else ""
        how = HOW_SCHEDULER.format(total=total, more=more, evaluated=evaluated)
        code = CALLBACKS.get(ctx.family, "")
        imported = "\nfrom transformers import TrainerCallback\n" if code else ""
        return head(ctx, how, "transformers[torch]") + imported + torch_code(ctx) + code
    name, kwargs = found
    arguments = {"learning_rate": ctx.peak, "lr_scheduler_type": name}
    arguments |= {"lr_scheduler_kwargs": kwargs} if kwargs else {}
    arguments |= optimizer
    arguments |= {"warmup_steps": ctx.warmup, "max_steps": total}
    if schedule.closed_loop:
        arguments |= {"eval_strategy": "epoch", "metric_for_best_model": "loss"}
    how = HOW_NATIVE.format(total=total)
    lines = "".join(f"    {name!r}: {value!r},\n" for name, value in arguments.items())
    lines = lines.replace("'", '"')
    install = f"transformers[torch]{SINCE.get(name, '')}"
    return f"{head(ctx, how, install)}\nARGUMENTS = {{\n{lines}}}\n"


def arguments_of(found: FoundOptimizer | None) -> Params | None:
    """The optimizer for TrainingArguments; None where the one that it makes is another.

    The Trainer makes AdamW, and no bias and no norm decays.
    """
    if found is None:
        return {}
    if not found.decoupled or found.settings["amsgrad"] or (found.decay and not found.of_matrices):
        return None
    first, second = found.settings["betas"]
    betas = {"adam_beta1": first, "adam_beta2": second, "adam_epsilon": found.settings["eps"]}
    return {"optim": "adamw_torch", **betas, "weight_decay": found.decay}


def native(ctx: ExportContext) -> tuple[str, Params] | None:
    """Transformers' name of the family and its arguments, if the rates are equal."""
    if ctx.family not in NATIVE or (ctx.warmup and not _same_rise(ctx)):
        return None
    return NATIVE[ctx.family](ctx)


def _same_rise(ctx: ExportContext) -> bool:
    # transformers' warmup_stable_decay rises from the ratio where it ends.
    return ctx.family == "wsd" and ctx.schedule.warmup_start == ctx.knobs["end_factor"]


def _polynomial(ctx: ExportContext) -> tuple[str, Params] | None:
    low, power = ctx.floor, ctx.knobs.get("power", 1.0)
    if low >= ctx.peak:
        return None
    return ("linear", {}) if power == 1 and not low else ("polynomial", _end(low, power))


def _end(low: float, power: float) -> Params:
    return {"lr_end": low, "power": power}


def _cosine(ctx: ExportContext) -> tuple[str, Params]:
    waves = ctx.n / ctx.params["T_max"] / 2
    kwargs = {} if waves == 0.5 else {"num_cycles": waves}
    low = ctx.knobs["eta_min"]
    return ("cosine_with_min_lr", {"min_lr_rate": low, **kwargs}) if low else ("cosine", kwargs)


def _restarts(ctx: ExportContext) -> tuple[str, Params] | None:
    cycles, rest = divmod(ctx.n, ctx.params["T_0"])
    # Rounding may put a restart of transformers' an update late.
    on_time = all(int(cycles * (s / ctx.n)) == s // ctx.params["T_0"] for s in range(ctx.n))
    same_length = ctx.params["T_mult"] == 1 or cycles == 1
    if ctx.knobs["eta_min"] or rest or not same_length or not on_time:
        return None
    return "cosine_with_restarts", {"num_cycles": cycles}


def _wsd(ctx: ExportContext) -> tuple[str, Params]:
    return "warmup_stable_decay", {
        "num_decay_steps": ctx.params["decay_steps"],
        "decay_type": DECAY[ctx.params["decay_shape"]],
        "min_lr_ratio": ctx.knobs["end_factor"],
    }


def _greedy(ctx: ExportContext) -> tuple[str, Params]:
    own = {name: ctx.params[name] for name in ("factor", "patience", "max_lr", "min_lr")}
    smooth = ctx.params["smooth"]
    return "greedy", own | ({"smooth": True, "window_size": smooth} if smooth > 1 else {})


NATIVE: dict[str, Callable[[ExportContext], tuple[str, Params] | None]] = {
    "constant": lambda ctx: ("constant", {}),
    "linear": _polynomial,
    "polynomial": _polynomial,
    "cosine": _cosine,
    "cosine_restarts": _restarts,
    "inverse_sqrt": lambda ctx: ("inverse_sqrt", {"timescale": ctx.params["timescale"]}),
    "wsd": _wsd,
    "plateau": lambda ctx: ("reduce_lr_on_plateau", {"mode": "min", **ctx.params}),
    "greedy": _greedy,
}

SINCE = {"greedy": ">=5.4"}

# The Trainer steps a ReduceLROnPlateau on evaluations alone, and others on updates alone.
CALLBACKS = {
    "plateau": '''

class FeedSchedule(TrainerCallback):
    """Steps the warmup with every update; the Trainer itself gives the scheduler the metric."""

    def on_step_end(self, args, state, control, lr_scheduler, **rest):
        lr_scheduler.step()
''',
    "greedy": '''

class FeedSchedule(TrainerCallback):
    """Gives the scheduler every eval_loss; the Trainer itself steps it."""

    def on_evaluate(self, args, state, control, metrics, lr_scheduler, **rest):
        if "eval_loss" in metrics:  # of several sets each has a name of its own
            lr_scheduler.step(metrics["eval_loss"])
''',
}
