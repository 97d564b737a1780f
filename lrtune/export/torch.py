"""A schedule for PyTorch or Lightning, as source code that needs nothing of lrtune."""

from pathlib import Path
from typing import Any

from lrtune.export.source import (
    DECAY_BY,
    Code,
    ExportContext,
    FoundOptimizer,
    call,
    defined,
    literal,
    literals,
    plain,
    render,
    rise,
)
from lrtune.schedule.families import FAMILIES, PER_GROUP

# Of lrtune.engine.OPTIMIZERS the classes of torch.optim.
OPTIMIZERS = {
    "sgd": "SGD",
    "nesterov": "SGD",
    "adam": "Adam",
    "adamw": "AdamW",
    "rmsprop": "RMSprop",
    "adagrad": "Adagrad",
    "nadam": "NAdam",
    "radam": "RAdam",
    "adamax": "Adamax",
    "adadelta": "Adadelta",
    "adafactor": "Adafactor",
    "asgd": "ASGD",
    "muon": "MuonAdamW",
}
# Exported as it stands; to import it would be to import torch.
MUON = Path(__file__).parents[1] / "engine" / "muon.py"
# Settings that are 0 unless they are given.
ZERO = ("momentum", "dampening", "lr_decay", "initial_accumulator_value")


def torch(ctx: ExportContext) -> str:
    """Source that defines `make_scheduler(optimizer)`: torch's class, else the formula.

    An open loop stepped past the total keeps the rate of the last update, and says so once. All
    parameter groups get the same rate, but for those that the search had otherwise. A closed loop
    takes a metric that is best at its lowest.
    """
    if ctx.schedule.schedule_free:
        return render("schedule_free", ctx, install="schedulefree", optimizer=_schedule_free(ctx))
    return render("torch", ctx, install="torch", **scheduler(ctx))


def lightning(ctx: ExportContext) -> str:
    """Source that defines `make_scheduler`, `configure_optimizers` and `CheckSchedule`."""
    # Lightning itself gives a metric to ReduceLROnPlateau alone, and then never steps a warmup.
    fed = ctx.schedule.closed_loop and ctx.stepped
    return render("lightning", ctx, install="lightning", fed=fed, **scheduler(ctx))


def scheduler(ctx: ExportContext) -> dict[str, Any]:
    """What the templates of scheduler and optimizer need, for every target that runs torch."""
    row = FAMILIES[ctx.family]
    values: dict[str, Any] = {"formula": None, "optimizer": None, "muon": ""}
    if ctx.optimizer is not None:
        values["optimizer"] = _optimizer(ctx.optimizer)
    if ctx.optimizer is not None and ctx.optimizer.name == "muon":
        source = MUON.read_text(encoding="utf-8")
        values["muon"] = source[source.index("def hidden_matrices") :].rstrip()
    if row.closed_loop or native(ctx):
        mode = {"mode": "min"} if row.closed_loop else {}
        arguments = literals({**mode, **ctx.params})
        for name in arguments.keys() & PER_GROUP if ctx.has_ratios else ():
            each = "share(group, optimizer) for group in optimizer.param_groups"
            arguments[name] = f"[{arguments[name]} * {each}]"
        return values | {"arguments": arguments}
    code = _custom(ctx) if ctx.family == "custom" else plain(ctx) or _table(ctx)
    *lines, ratio = defined(ctx, code, s="min({t}, {last})")
    if ctx.warmup:
        lines.insert(0, f"if t < {ctx.warmup}:\n    return {rise(ctx)}")
    return values | {"formula": "\n".join([*lines, f"return {ratio}"])}


def native(ctx: ExportContext) -> bool:
    """Whether torch has a class that gives the rates of an open loop, of every group."""
    row = FAMILIES[ctx.family]
    one_floor = ctx.has_ratios and ctx.params.get("eta_min")  # an absolute rate
    has_class = row.torch not in ("LambdaLR", "LRScheduler")
    return has_class and not one_floor and not ctx.cooldowns and row.native(ctx.params)


def _optimizer(optimizer: FoundOptimizer) -> str:
    """The call that makes the optimizer of a model; the rate is the scheduler's."""
    if optimizer.by_function:
        return f"{optimizer.name}(model)  # your function, which the peak was found with: import it"
    settings = {
        name: literal(tuple(value) if isinstance(value, list) else value)
        for name, value in optimizer.settings.items()
        if value is not None and value is not False and (value or name not in ZERO)
    }
    settings.pop(DECAY_BY, None)
    parameters = "groups" if optimizer.ratios or optimizer.of_matrices else "model.parameters()"
    if optimizer.name == "muon":
        return call("MuonAdamW", parameters, "hidden_matrices(model)", **settings)
    return call(f"torch.optim.{OPTIMIZERS[optimizer.name]}", parameters, **settings)


def _schedule_free(ctx: ExportContext) -> str:
    """The call that makes the schedule-free form; AdamW's where the optimizer is not known."""
    found = ctx.optimizer
    name = "SGD" if found and found.name in ("sgd", "nesterov") else "AdamW"
    taken = ("momentum", "weight_decay") if name == "SGD" else ("betas", "eps", "weight_decay")
    settings = {n: found.settings[n] for n in taken if n in found.settings} if found else {}
    settings = {n: tuple(v) if isinstance(v, list) else v for n, v in settings.items()}
    grouped = found is not None and (found.ratios or found.of_matrices)
    parameters = "groups" if grouped else "model.parameters()"
    given = {"lr": ctx.peak, **settings, "warmup_steps": ctx.warmup or None}
    return call(f"schedulefree.{name}ScheduleFree", parameters, **given)


def _custom(ctx: ExportContext) -> Code:
    module, name = ctx.params["function"].split(":")
    knobs = literal(ctx.params["knobs"])
    return [f"from {module} import {name}\n"], f"{name}(s, {ctx.n}, **{knobs})"


def _table(ctx: ExportContext) -> Code:
    """A look-up of `s`: from where the ratio changes on, if it seldom does."""
    ratios = (ctx.schedule.rates(ctx.total)[ctx.warmup :] / ctx.peak).tolist()
    changes = {s: ratio for s, ratio in enumerate(ratios) if not s or ratio != ratios[s - 1]}
    if 2 * len(changes) > len(ratios):
        return [f"ratios = {ratios}"], "ratios[s]"
    return [f"ratios = {changes}  # from an update on"], "ratios[max(r for r in ratios if r <= s)]"
