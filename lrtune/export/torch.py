"""A schedule for PyTorch or Lightning, as source code that needs nothing of lrtune."""

from typing import Any

from lrtune.export.source import (
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
from lrtune.schedule.families import FAMILIES

# Of lrtune.engine.OPTIMIZERS the classes of torch.optim.
OPTIMIZERS = {
    "sgd": "SGD",
    "nesterov": "SGD",
    "adam": "Adam",
    "adamw": "AdamW",
    "rmsprop": "RMSprop",
    "adagrad": "Adagrad",
}
# Settings that are 0 unless they are given.
ZERO = ("momentum", "dampening", "lr_decay", "initial_accumulator_value")


def torch(ctx: ExportContext) -> str:
    """Source that defines `make_scheduler(optimizer)`: torch's class, else the formula.

    An open loop stepped past the total keeps the rate of the last update, and says so once. All
    parameter groups get the same rate; `Schedule.torch` keeps the ratios between them. A closed
    loop takes a metric that is best at its lowest.
    """
    optimizer = None
    if ctx.optimizer is not None and ctx.schedule.settings:
        parameters = "groups" if ctx.optimizer.of_matrices else "model.parameters()"
        optimizer = torch_optimizer(ctx.optimizer, parameters)
    return render("torch", ctx, install="torch", optimizer=optimizer, **scheduler(ctx))


def lightning(ctx: ExportContext) -> str:
    """Source that defines `make_scheduler`, `configure_optimizers` and `CheckSchedule`."""
    optimizer = None
    if ctx.optimizer is not None:
        parameters = "groups" if ctx.optimizer.of_matrices else "self.parameters()"
        optimizer = torch_optimizer(ctx.optimizer, parameters)
    # Lightning itself gives a metric to ReduceLROnPlateau alone, and then never steps a warmup.
    fed = ctx.schedule.closed_loop and ctx.stepped
    values = scheduler(ctx) | {"fed": fed, "optimizer": optimizer}
    return render("lightning", ctx, install="lightning", **values)


def scheduler(ctx: ExportContext) -> dict[str, Any]:
    """What the template `make_scheduler` needs, for every target that runs torch."""
    row = FAMILIES[ctx.family]
    if row.closed_loop or native(ctx):
        mode = {"mode": "min"} if row.closed_loop else {}
        return {"arguments": literals({**mode, **ctx.params}), "formula": None}
    code = _custom(ctx) if ctx.family == "custom" else plain(ctx) or _table(ctx)
    *lines, ratio = defined(ctx, code, s="min({t}, {last})")
    if ctx.warmup:
        lines.insert(0, f"if t < {ctx.warmup}:\n    return {rise(ctx)}")
    return {"formula": "\n".join([*lines, f"return {ratio}"])}


def native(ctx: ExportContext) -> bool:
    """Whether torch has a class that gives the rates of an open loop."""
    row = FAMILIES[ctx.family]
    return row.torch not in ("LambdaLR", "LRScheduler") and row.native(ctx.params)


def torch_optimizer(optimizer: FoundOptimizer, parameters: str) -> str:
    """The call that makes the optimizer of these parameters; the rate is the scheduler's."""
    settings = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in optimizer.settings.items()
        if value is not False and (value or name not in ZERO)
    }
    return call(f"torch.optim.{OPTIMIZERS[optimizer.name]}", parameters, **settings)


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
