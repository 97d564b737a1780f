"""A schedule as an optax schedule function: optax's own pieces, else jax.numpy; both jit."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeAlias

from lrtune.export.context import ExportContext, FoundOptimizer, call, cannot_hold, head
from lrtune.export.formula import ratio

# Expressions of optax schedules, and the updates at which each but the first takes over.
Pieces: TypeAlias = tuple[Sequence[str], Sequence[int]]

HOW = """\
{optimizer}: schedule(count) is the rate of update
count = 0, 1, ..., for {total} updates; it jits. Under optax.MultiSteps an update is one of the
optimizer's, not one of the accumulation's."""

HOW_PLATEAU = """\
{optimizer}, for {total} updates. After every validation{after},
    _, state = plateau.update(params, state, value=loss)    # state = plateau.init(params) at first
and in every update, after the optimizer's own
    updates = optax.tree.scale(state.scale, updates)"""


def optax(ctx: ExportContext) -> str:
    """Source that defines `schedule(count)`, the `optimizer`, and for a plateau the `plateau`.

    Raises:
        InputError: the family is greedy.
    """
    how, imports = HOW, ["import optax"]
    if ctx.family == "plateau":
        how, code = HOW_PLATEAU, _plateau(ctx)
        imports.append("import optax.contrib")
    elif ctx.schedule.closed_loop:
        raise cannot_hold(ctx, "optax", "it has nothing that raises a rate again")
    elif (pieces := native(ctx)) is not None:
        code = f"\nschedule = {_joined(*pieces)}\n"
    else:
        formula = ratio(ctx, "jnp")
        code = f"\n\n{formula}\n\ndef schedule(count):\n    return {ctx.peak} * ratio(count)\n"
        imports = ["import math\n"] if "math." in formula else []
        imports.append("import jax.numpy as jnp")
    lacking = "" if ctx.optimizer is None else ctx.optimizer.lacking("optax", LACKS)
    yours = "optax.sgd(learning_rate=schedule), or any other optimizer"
    if ctx.optimizer is not None and not lacking:
        yours = "`optimizer` is the one that the peak was found with"
        code += _optimizer(ctx.optimizer)
        imports += ["import optax", *(["import jax"] if ctx.optimizer.of_matrices else [])]
    after = f" that comes after {ctx.warmup} updates or more" if ctx.warmup else ""
    said = how.format(optimizer=yours, total=ctx.total, after=after) + lacking
    lines = "\n".join(sorted({*imports}, key=lambda line: ("math" not in line, line)))
    return f"{head(ctx, said, 'optax')}\n{lines}\n{code}"


def _optimizer(found: FoundOptimizer) -> str:
    mask = {"mask": "matrices"} if found.of_matrices else {}
    if found.decoupled:
        decay = {"weight_decay": found.decay, **mask}
        parts = [call("optax.adamw", "schedule", **_betas(found.settings), **decay)]
    else:
        parts = OPTIMIZERS[found.name](found.settings)
        if found.decay:
            parts.insert(0, call("optax.add_decayed_weights", str(found.decay), **mask))
    made = parts[0] if len(parts) == 1 else call("optax.chain", *parts)
    return f"{MATRICES if mask else ''}\n{found.note}optimizer = {made}\n"


MATRICES = """

def matrices(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)  # norms and biases do not decay

"""


def _betas(settings: Mapping[str, Any]) -> dict[str, Any]:
    first, second = settings["betas"]
    return {"b1": first, "b2": second, "eps": settings["eps"]}


def _sgd(settings: Mapping[str, Any]) -> list[str]:
    momentum = settings["momentum"] or False
    return [call("optax.sgd", "schedule", momentum=momentum, nesterov=settings["nesterov"])]


def _rmsprop(settings: Mapping[str, Any]) -> list[str]:
    scale = "optax.scale_by_stddev" if settings["centered"] else "optax.scale_by_rms"
    momentum = settings["momentum"]  # of optax.rmsprop it would keep the rates of earlier updates
    return [
        call(scale, decay=settings["alpha"], eps=settings["eps"], eps_in_sqrt="False"),
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
    "adam": lambda settings: [call("optax.adam", "schedule", **_betas(settings))],
    "rmsprop": _rmsprop,
    "adagrad": _adagrad,
}
LACKS = ("dampening", "lr_decay", "amsgrad")


def native(ctx: ExportContext) -> Pieces | None:
    """The pieces of optax that equal the schedule, the warmup first; None if there are none."""
    found = NATIVE[ctx.family](ctx) if ctx.family in NATIVE else None
    if found is None or not ctx.warmup:
        return found
    pieces, ends = found
    return [_line(ctx.start, ctx.peak, ctx.warmup), *pieces], [
        ctx.warmup + end for end in (0, *ends)
    ]


def _joined(pieces: Sequence[str], ends: Sequence[int]) -> str:
    if not ends:
        return pieces[0]
    lines = "".join(f"        {piece},\n" for piece in pieces)
    return f"optax.join_schedules(\n    [\n{lines}    ],\n    {[*ends]},\n)"


def _line(start: float, end: float, updates: int) -> str:
    return f"optax.linear_schedule({start}, {end}, {updates})"


def _half_wave(ctx: ExportContext, updates: int, floor: float) -> str:
    return f"optax.cosine_decay_schedule({ctx.peak}, {updates}, alpha={floor})"


def _drops(ctx: ExportContext, updates: Sequence[int]) -> Pieces:
    gammas: dict[int, float] = defaultdict(lambda: 1.0)
    for update in updates:
        gammas[update] *= ctx.params["gamma"]
    return [f"optax.piecewise_constant_schedule({ctx.peak}, {dict(gammas)})"], []


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
    decay = decays.get(ctx.params["decay_shape"])
    stable = f"optax.constant_schedule({ctx.peak})"
    return None if decay is None else ([stable, decay], [ctx.n - updates])


MOST_PIECES = 5  # more cycles than these are a formula

# optax.exponential_decay with a staircase is not here: compiled, it is late at some of its drops.
NATIVE: dict[str, Callable[[ExportContext], Pieces | None]] = {
    "constant": lambda ctx: ([f"optax.constant_schedule({ctx.peak})"], []),
    "step": lambda ctx: _drops(ctx, range(ctx.params["step_size"], ctx.n, ctx.params["step_size"])),
    "multistep": lambda ctx: _drops(ctx, ctx.params["milestones"]),
    "exponential": lambda ctx: (
        [f"optax.exponential_decay({ctx.peak}, {ctx.n}, {ctx.knobs['final_ratio']})"],
        [],
    ),
    "linear": lambda ctx: ([_line(ctx.peak, ctx.floor, ctx.n)], []),
    "polynomial": lambda ctx: (
        [f"optax.polynomial_schedule({ctx.peak}, {ctx.floor}, {ctx.knobs['power']}, {ctx.n})"],
        [],
    ),
    "cosine": _cosine,
    "cosine_restarts": _restarts,
    "wsd": _wsd,
}


def _plateau(ctx: ExportContext) -> str:
    flat = f"optax.constant_schedule({ctx.peak})"
    rates = _line(ctx.start, ctx.peak, ctx.warmup) if ctx.warmup else flat
    knobs = ctx.knobs
    return (
        f"\nschedule = {rates}\n"
        "plateau = optax.contrib.reduce_on_plateau(\n"
        f"    factor={knobs['factor']},\n"
        f"    patience={knobs['patience'] + 1},  # validations until the drop: torch's, and one\n"
        f"    rtol={knobs['threshold'] or 1e-12},\n"  # optax refuses 0
        f"    cooldown={knobs['cooldown']},\n"
        f"    min_scale={knobs['min_lr']},\n)\n"
    )
