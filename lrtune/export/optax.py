"""A schedule as an optax schedule function: optax's own pieces, else jax.numpy; both jit."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TypeAlias

from lrtune.export.context import ExportContext, cannot_hold, head
from lrtune.export.formula import ratio
from lrtune.schedule.schedule import Schedule

# Expressions of optax schedules, and the updates at which each but the first takes over.
Pieces: TypeAlias = tuple[Sequence[str], Sequence[int]]

HOW = """\
optax.sgd(learning_rate=schedule), or any other optimizer: schedule(count) is the rate of update
count = 0, 1, ..., for {total} updates; it jits. Under optax.MultiSteps an update is one of the
optimizer's, not one of the accumulation's."""

HOW_PLATEAU = """\
optax.sgd(learning_rate=schedule), for {total} updates. After every validation{after},
    _, state = plateau.update(params, state, value=loss)    # state = plateau.init(params) at first
and in every update, after the optimizer's own
    updates = optax.tree.scale(state.scale, updates)"""


def optax(schedule: Schedule, total: int) -> str:
    """Source that defines `schedule(count)`, and for a plateau the transformation `plateau`.

    Raises:
        InputError: `total` is not admissible, or the family is greedy.
    """
    ctx = ExportContext(schedule, total)
    if ctx.family == "plateau":
        return _plateau(ctx)
    if schedule.closed_loop:
        raise cannot_hold(ctx, "optax", "it has nothing that raises a rate again")
    text = head(ctx, HOW.format(total=total), "optax")
    pieces = native(ctx)
    if pieces is not None:
        return f"{text}\nimport optax\n\nschedule = {_joined(*pieces)}\n"
    code = ratio(ctx, "jnp")
    math = "import math\n\n" if "math." in code else ""
    return (
        f"{text}\n{math}import jax.numpy as jnp\n\n\n{code}\n\n"
        f"def schedule(count):\n    return {ctx.peak} * ratio(count)\n"
    )


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
    after = f" that comes after {ctx.warmup} updates or more" if ctx.warmup else ""
    flat = f"optax.constant_schedule({ctx.peak})"
    rates = _line(ctx.start, ctx.peak, ctx.warmup) if ctx.warmup else flat
    knobs = ctx.knobs
    return (
        f"{head(ctx, HOW_PLATEAU.format(total=ctx.total, after=after), 'optax')}\n"
        f"import optax\nimport optax.contrib\n\nschedule = {rates}\n"
        "plateau = optax.contrib.reduce_on_plateau(\n"
        f"    factor={knobs['factor']},\n"
        f"    patience={knobs['patience'] + 1},  # validations until the drop: torch's, and one\n"
        f"    rtol={knobs['threshold'] or 1e-12},\n"  # optax refuses 0
        f"    cooldown={knobs['cooldown']},\n"
        f"    min_scale={knobs['min_lr']},\n)\n"
    )
