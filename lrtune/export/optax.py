"""A schedule as an optax schedule function: optax's own pieces, else jax.numpy; both jit."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeAlias

from lrtune.export.source import (
    DECAY_BY,
    ExportContext,
    FoundOptimizer,
    call,
    cannot_hold,
    cooldown,
    ratio,
    render,
)

# Expressions of optax schedules, and the updates at which each but the first takes over.
Pieces: TypeAlias = tuple[Sequence[str], Sequence[int]]

# Of torch's optimizers.
LACKS = ("dampening", "lr_decay", "amsgrad", "decoupled_weight_decay", DECAY_BY)
MOST_PIECES = 5  # more cycles than these are a formula


def optax(ctx: ExportContext) -> str:
    """Source that defines `schedule(count)`, the `optimizer`, and for a plateau the `plateau`."""
    values: dict[str, Any] = {"pieces": (), "ends": (), "ratio": ""}
    if ctx.schedule.closed_loop and ctx.family != "plateau":
        raise cannot_hold(ctx, "optax", "it has nothing that raises a rate again")
    if pieces := native(ctx):
        values |= {"pieces": pieces[0], "ends": [*pieces[1]]}
    else:
        values |= {"ratio": ratio(ctx, "jnp")}
    lacking = ctx.optimizer.lacking({*OPTIMIZERS, "adamw"}, LACKS) if ctx.optimizer else ""
    optimizer = _optimizer(ctx.optimizer) if ctx.optimizer and not lacking else ""
    return render("optax", ctx, install="optax", optimizer=optimizer, lacking=lacking, **values)


def native(ctx: ExportContext) -> Pieces | None:
    """The pieces of optax that equal the schedule, the warmup first; None if there are none."""
    curve = NATIVE[ctx.family](ctx) if ctx.family in NATIVE else None
    if curve is None or not ctx.warmup:
        return curve
    rise = _line(ctx.start, ctx.peak, ctx.warmup)
    if ctx.family == "plateau":  # what follows is the same rate, and only scaled
        return [rise], []
    pieces, ends = curve
    return [rise, *pieces], [ctx.warmup + end for end in (0, *ends)]


def _line(start: float, end: float, updates: int) -> str:
    return f"optax.linear_schedule({start}, {end}, {updates})"


def _flat(ctx: ExportContext) -> str:
    return f"optax.constant_schedule({ctx.peak})"


def _half_wave(ctx: ExportContext, updates: int, floor: float) -> str:
    return f"optax.cosine_decay_schedule({ctx.peak}, {updates}, alpha={floor})"


def _drops(ctx: ExportContext, updates: Sequence[int]) -> Pieces:
    gammas: dict[int, float] = defaultdict(lambda: 1.0)
    for update in updates:
        gammas[update] *= ctx.params["gamma"]
    return [f"optax.piecewise_constant_schedule({ctx.peak}, {dict(gammas)})"], []


def _polynomial(ctx: ExportContext) -> Pieces:
    power = ctx.knobs["power"]
    return [f"optax.polynomial_schedule({ctx.peak}, {ctx.floor}, {power}, {ctx.n})"], []


def _exponential(ctx: ExportContext) -> Pieces:
    return [f"optax.exponential_decay({ctx.peak}, {ctx.n}, {ctx.knobs['final_ratio']})"], []


def _cosine(ctx: ExportContext) -> Pieces | None:
    length = ctx.params["T_max"]
    # optax holds the floor after that length, torch rises again
    return None if length < ctx.n else ([_half_wave(ctx, length, ctx.knobs["eta_min"])], [])


def _restarts(ctx: ExportContext) -> Pieces | None:
    if len(ctx.cycles) > MOST_PIECES:
        return None
    waves = [_half_wave(ctx, length, ctx.knobs["eta_min"]) for length in ctx.cycles]
    return waves, list(accumulate(ctx.cycles[:-1]))


def _wsd(ctx: ExportContext) -> Pieces | None:
    updates, low = ctx.params["decay_steps"], ctx.knobs["end_factor"]
    decays = {
        "linear": _line(ctx.peak, ctx.floor, updates),
        "cosine": _half_wave(ctx, updates, low),
    }
    decay = decays.get(cooldown(ctx))
    return None if decay is None else ([_flat(ctx), decay], [ctx.n - updates])


# optax.exponential_decay with a staircase is not here: compiled, it is late at some of its drops.
NATIVE: dict[str, Callable[[ExportContext], Pieces | None]] = {
    "constant": lambda ctx: ([_flat(ctx)], []),
    "plateau": lambda ctx: ([_flat(ctx)], []),
    "step": lambda ctx: _drops(ctx, range(ctx.params["step_size"], ctx.n, ctx.params["step_size"])),
    "multistep": lambda ctx: _drops(ctx, ctx.params["milestones"]),
    "exponential": _exponential,
    "linear": lambda ctx: ([_line(ctx.peak, ctx.floor, ctx.n)], []),
    "polynomial": _polynomial,
    "cosine": _cosine,
    "cosine_restarts": _restarts,
    "wsd": _wsd,
}


def _optimizer(optimizer: FoundOptimizer) -> str:
    mask = {"mask": "matrices"} if optimizer.of_matrices else {}
    if optimizer.decoupled:
        decay = {"weight_decay": optimizer.decay, **mask}
        return call("optax.adamw", "schedule", **_betas(optimizer.settings), **decay)
    parts = OPTIMIZERS[optimizer.name](optimizer.settings)
    if optimizer.decay:
        parts.insert(0, call("optax.add_decayed_weights", str(optimizer.decay), **mask))
    return parts[0] if len(parts) == 1 else call("optax.chain", *parts)


def _betas(settings: Mapping[str, Any]) -> dict[str, Any]:
    first, second = settings["betas"]
    return {"b1": first, "b2": second, "eps": settings["eps"]}


def _adam(name: str) -> Callable[[Mapping[str, Any]], list[str]]:
    return lambda settings: [call(f"optax.{name}", "schedule", **_betas(settings))]


def _sgd(settings: Mapping[str, Any]) -> list[str]:
    more = {name: settings[name] or None for name in ("momentum", "nesterov")}
    return [call("optax.sgd", "schedule", **more)]


def _rmsprop(settings: Mapping[str, Any]) -> list[str]:
    scale = "optax.scale_by_stddev" if settings["centered"] else "optax.scale_by_rms"
    momentum = settings["momentum"]  # of optax.rmsprop it would keep the rates of earlier updates
    return [
        call(scale, decay=settings["alpha"], eps=settings["eps"], eps_in_sqrt=False),
        *([f"optax.trace({momentum})"] if momentum else []),
        "optax.scale_by_learning_rate(schedule)",
    ]


def _adagrad(settings: Mapping[str, Any]) -> list[str]:
    start = float(settings["initial_accumulator_value"])
    # optax adds eps before it takes the root.
    eps = settings["eps"] ** 2
    return [call("optax.adagrad", "schedule", initial_accumulator_value=start, eps=eps)]


# Name -> parts of the chain, of torch's settings; weight decay aside.
OPTIMIZERS: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "sgd": _sgd,
    "nesterov": _sgd,
    "adam": _adam("adam"),
    "radam": _adam("radam"),
    "adamax": _adam("adamax"),
    "adadelta": lambda s: [call("optax.adadelta", "schedule", rho=s["rho"], eps=s["eps"])],
    "rmsprop": _rmsprop,
    "adagrad": _adagrad,
}
