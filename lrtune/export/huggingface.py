"""A schedule for Hugging Face's Trainer: its own `lr_scheduler_type` where that is equal.

Where its curves are ours: its warmups rise from zero, ours from above it, so most schedules with a
warmup are handed in as a scheduler instead.
"""

from collections.abc import Callable

from lrtune.export.source import ExportContext, FoundOptimizer, cooldown, render
from lrtune.export.torch import scheduler
from lrtune.schedule.family import Params


def huggingface(ctx: ExportContext) -> str:
    """Source that defines `ARGUMENTS` for TrainingArguments, else `make_scheduler(optimizer)`."""
    curve, optimizer = native(ctx), arguments_of(ctx.optimizer)
    if curve is None or optimizer is None:
        return render(
            "huggingface", ctx, install="transformers[torch]", trainer=None, **scheduler(ctx)
        )
    name, kwargs = curve
    trainer = {"learning_rate": ctx.peak, "lr_scheduler_type": name}
    trainer |= {"lr_scheduler_kwargs": kwargs} if kwargs else {}
    trainer |= optimizer | {"warmup_steps": ctx.warmup, "max_steps": ctx.total}
    if (smoothing := ctx.schedule.settings.get("label_smoothing")) is not None:
        trainer["label_smoothing_factor"] = smoothing
    if ctx.schedule.closed_loop:
        trainer |= {"eval_strategy": "epoch", "metric_for_best_model": "loss"}
    install = f"transformers[torch]{SINCE.get(name, '')}"
    return render("huggingface", ctx, install=install, trainer=trainer)


def arguments_of(optimizer: FoundOptimizer | None) -> Params | None:
    """The optimizer for TrainingArguments; None where the one that it makes is another.

    The Trainer makes AdamW, and no bias and no norm decays.
    """
    if optimizer is None:
        return {}
    if (
        not optimizer.decoupled
        or optimizer.decay_by
        or optimizer.ratios
        or optimizer.settings["amsgrad"]
        or (optimizer.decay and not optimizer.of_matrices)
    ):
        return None
    first, second = optimizer.settings["betas"]
    betas = {"adam_beta1": first, "adam_beta2": second, "adam_epsilon": optimizer.settings["eps"]}
    return {"optim": "adamw_torch", **betas, "weight_decay": optimizer.decay}


def native(ctx: ExportContext) -> tuple[str, Params] | None:
    """Transformers' name of the family and its arguments, if the rates are equal."""
    # transformers' warmup_stable_decay rises from the ratio where it ends.
    same_rise = ctx.family == "wsd" and ctx.schedule.warmup_start == ctx.knobs["end_factor"]
    if ctx.family not in NATIVE or (ctx.warmup and not same_rise):
        return None
    return NATIVE[ctx.family](ctx)


def _polynomial(ctx: ExportContext) -> tuple[str, Params] | None:
    low, power = ctx.floor, ctx.knobs.get("power", 1.0)
    if low >= ctx.peak:
        return None
    if power == 1 and not low:
        return "linear", {}
    return "polynomial", {"lr_end": low, "power": power}


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


def _wsd(ctx: ExportContext) -> tuple[str, Params] | None:
    if cooldown(ctx) in ("power", "exponential"):
        return None
    return "warmup_stable_decay", {
        "num_decay_steps": ctx.params["decay_steps"],
        "decay_type": cooldown(ctx),
        "min_lr_ratio": ctx.knobs["end_factor"],
    }


def _greedy(ctx: ExportContext) -> tuple[str, Params]:
    kwargs = {name: ctx.params[name] for name in ("factor", "patience", "max_lr", "min_lr")}
    smooth = ctx.params["smooth"]
    return "greedy", kwargs | ({"smooth": True, "window_size": smooth} if smooth > 1 else {})


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
