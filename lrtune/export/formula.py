"""FORMULAS: every open-loop family as array code that numpy, jax.numpy and keras.ops all run.

But for the names of functions, many of them are plain Python for one number.

`t` is the update, an integer; the code returns the rate over the peak. Two rules keep that right
in float32 as well: what is counted stays an integer until it is divided (compiled division may be
a multiplication by the rounded reciprocal, whose floor is off by one at multiples), and what goes
to zero is written with what is left, not as one minus what is done.
"""

import re
from collections.abc import Callable, Sequence
from textwrap import indent
from typing import TypeAlias

import numpy as np

from lrtune.export.context import ExportContext
from lrtune.schedule.schedule import Schedule
from lrtune.schedule.shapes import pchip

Code: TypeAlias = tuple[Sequence[str], str]  # lines before, and the expression of the ratio

# Of the names that formulas use; s is the update of the body, its last one is held.
MEANING = {"s": "np.clip({t}, 0, {last})", "u": "s / {n}", "left": "({n} - s) / {n}"}
PLAIN = {  # what one number takes in their place
    "np.array(cubics)": "cubics",
    "np.exp": "math.exp",
    "np.minimum": "min",
    "np.power": "math.pow",
    "np.sin": "math.sin",
    "np.sqrt": "math.sqrt",
}


def ratio(ctx: ExportContext, np: str) -> str:
    """Source of the function `ratio` of t; `np` is what numpy is called there."""
    return f"def ratio(t):\n{indent(_body(ctx), '    ')}\n".replace("np.", f"{np}.")


def plain(ctx: ExportContext) -> Code | None:
    """The formula for one number, in plain Python; None where it needs arrays."""
    before, expression = FORMULAS.get(ctx.family, _table)(ctx)
    lines = [*before, expression]
    for array, number in PLAIN.items():
        lines = [line.replace(array, number) for line in lines]
    return None if any("np." in line for line in lines) else (lines[:-1], lines[-1])


def rise(ctx: ExportContext) -> str:
    """The ratio during the warmup."""
    start = ctx.schedule.warmup_start
    return f"{start} + {1 - start} * (t / {ctx.warmup})"


def defined(ctx: ExportContext, code: Code, s: str = MEANING["s"]) -> list[str]:
    """The lines of the code, its expression last, after what the names in it mean."""
    lines = [*code[0], code[1]]
    t = f"t - {ctx.warmup}" if ctx.warmup else "t"
    for name, meaning in reversed((MEANING | {"s": s}).items()):
        # Parts have names of their own.
        read = [line for line in lines if not line.lstrip().startswith("def ")]
        used = any(re.search(rf"\b{name}\b", line) for line in read)
        if used and not any(line.startswith(f"{name} = ") for line in lines):
            lines.insert(0, f"{name} = {meaning.format(t=t, n=ctx.n, last=ctx.n - 1)}")
    return lines


def _body(ctx: ExportContext) -> str:
    *lines, expression = defined(ctx, FORMULAS.get(ctx.family, _table)(ctx))
    if ctx.warmup:
        lines.append(f"rise = {rise(ctx)}")
        expression = f"np.where(t < {ctx.warmup}, rise, {expression})"
    return "\n".join([*lines, f"return {expression}"])


def _above(floor: float, shape: str) -> str:
    factor = f"({shape})" if shape.startswith("1 /") else shape
    return f"{floor} + {1 - floor} * {factor}" if floor else shape


def _sine(left: str) -> str:
    # ½(1 + cos(π(1 - left)))
    return f"np.sin(math.pi / 2 * {left}) ** 2"


def _restarts(ctx: ExportContext) -> Code:
    lengths = ctx.cycles
    shape = _above(ctx.knobs["eta_min"], _sine("left"))
    if ctx.params["T_mult"] == 1:
        return [f"left = ({lengths[0]} - np.mod(s, {lengths[0]})) / {lengths[0]}"], shape
    ends = np.cumsum(lengths).tolist()
    return [
        f"ends, lengths = np.array({ends}), np.array({lengths})",
        "cycle = np.sum(s >= ends)",
        "left = (np.take(ends, cycle) - s) / np.take(lengths, cycle)",
    ], shape


SCALE = {
    "triangular": "",
    "triangular2": " * np.power(0.5, cycle)",
    "exp_range": " * np.power({gamma}, u)",
}


def _cyclic(ctx: ExportContext) -> Code:
    k = ctx.params["step_size_up"]
    scale = SCALE[ctx.knobs["mode"]].format(gamma=ctx.knobs["gamma"])
    return [
        f"cycle = np.floor_divide(s, {2 * k})",
        f"height = ({k} - np.abs(s - {2 * k} * cycle - {k})) / {k}",
    ], _above(ctx.knobs["base_lr"], f"height{scale}")


def _one_cycle(ctx: ExportContext) -> Code:
    top = ctx.params["pct_start"] * ctx.n - 1
    first = 1 / ctx.params["div_factor"]
    last = first / ctx.params["final_div_factor"]
    form = _sine if ctx.params["anneal_strategy"] == "cos" else str
    return [
        f"up = {_above(first, form(f'(s / {top or 1.0})'))}",
        f"down = {_above(last, form(f'(({ctx.n - 1} - s) / {ctx.n - 1 - top})'))}",
    ], f"np.where(s <= {int(np.floor(top))}, up, down)"


DECAY = {"linear": "left", "cosine": _sine("left"), "sqrt": "left / (1 + np.sqrt(1 - left))"}


def _wsd(ctx: ExportContext) -> Code:
    decay = ctx.params["decay_steps"]
    shape = DECAY[ctx.params["decay_shape"]]
    return [f"left = np.minimum({ctx.n} - s, {decay}) / {decay}"], _above(
        ctx.knobs["end_factor"], shape
    )


def _spline(ctx: ExportContext) -> Code:
    cubics = pchip(np.log(ctx.knobs["ordinates"])).tolist()
    k = len(cubics)
    rows = "".join(f"    {row},\n" for row in cubics)
    return [
        f"cubics = [  # of the log ratio, piece by piece\n{rows}]",
        f"piece = {k} * s // {ctx.n}",
        f"v = ({k} * s - {ctx.n} * piece) / {ctx.n}",
        "c = np.array(cubics)[piece]",
    ], "np.exp(c[0] + v * (c[1] + v * (c[2] + v * c[3])))"


def _sequence(ctx: ExportContext) -> Code:
    definitions, lines = [], []
    starts = [0, *ctx.params["milestones"]]
    for i, (start, part) in enumerate(zip(starts, ctx.params["schedules"], strict=True)):
        schedule = Schedule.from_dict(part["schedule"])
        body = _body(ExportContext(schedule, part["total"]))
        definitions.append(f"def part{i}(t):\n{indent(body, '    ')}\n")
        weight = "" if schedule.peak_lr == ctx.peak else f"{schedule.peak_lr / ctx.peak} * "
        own = f"{weight}part{i}({f's - {start}' if i else 's'})"
        lines.append(f"rate = np.where(s < {start}, rate, {own})" if i else f"rate = {own}")
    definitions[0] = f"\n{definitions[0]}"
    return [*definitions, *lines], "rate"


def _table(ctx: ExportContext) -> Code:
    ratios = (ctx.schedule.rates(ctx.total)[ctx.warmup :] / ctx.peak).tolist()
    return [f"table = np.array({ratios})"], "np.take(table, s)"


def _alone(expression: str) -> Callable[[ExportContext], Code]:
    """A formula of one line, with the family's parameters and knobs in it."""
    return lambda ctx: ([], expression.format(**{**ctx.knobs, **ctx.params}))


def _to_floor(knob: str, shape: str) -> Callable[[ExportContext], Code]:
    """The same, of a shape that goes down to the floor that a knob gives."""
    return lambda ctx: ([], _above(ctx.knobs[knob], shape.format(**{**ctx.knobs, **ctx.params})))


FORMULAS: dict[str, Callable[[ExportContext], Code]] = {
    "constant": _alone("1.0"),
    "step": _alone("np.power({gamma}, np.floor_divide(s, {step_size}))"),
    "multistep": _alone("np.power({gamma}, np.sum(s >= np.array({milestones})))"),
    "exponential": _alone("np.power({final_ratio}, u)"),
    "inverse_time": _alone("1 / (1 + {decay_rate} * u)"),
    "inverse_sqrt": lambda ctx: ([], f"1 / np.sqrt(1 + u / {ctx.knobs['timescale']})"),
    "linear": _to_floor("end_factor", "left"),
    "polynomial": _to_floor("end_factor", "np.power(left, {power})"),
    "cosine": _to_floor("eta_min", _sine("(({T_max} - s) / {T_max})")),
    "cosine_restarts": _restarts,
    "cyclic": _cyclic,
    "one_cycle": _one_cycle,
    "wsd": _wsd,
    "rex": _alone("left / (left + {beta} * u)"),
    "tanh": _to_floor("end_factor", "1 / (1 + np.exp(2 * ({lb} * left + {ub} * u)))"),
    "spline": _spline,
    "sequence": _sequence,
}
