"""A schedule as stand-alone Python source that needs torch and nothing else."""

from collections.abc import Callable
from textwrap import indent
from typing import Any, NamedTuple

import numpy as np

from lrtune.errors import InputError
from lrtune.export.templates import CLOSED, HEAD, LAMBDA, NATIVE, RISE_THEN_NATIVE
from lrtune.schedule.families import FAMILIES
from lrtune.schedule.family import Params
from lrtune.schedule.reactive import EPS, GREEDY_THRESHOLD, WORST, Mode
from lrtune.schedule.schedule import Schedule
from lrtune.schedule.shapes import pchip


def snippet(schedule: Schedule, total: int, mode: Mode = "min") -> str:
    """Source that defines `make_scheduler(optimizer)`: torch's class, else the formula.

    An open loop stepped past the total keeps the rate of the last update. All parameter groups get
    the same rate; `Schedule.torch` keeps the ratios between them.

    Args:
        schedule: what to write out.
        total: the number of updates of the whole run, on which its counts depend.
        mode: for a closed loop: whether the metric is best at its `min` or its `max`.

    Raises:
        InputError: `total` or `mode` is not admissible.
    """
    if mode not in WORST:
        raise InputError(f"mode={mode!r}: expected 'min' (a loss) or 'max' (an accuracy)")
    row = FAMILIES[schedule.family]
    params = schedule.resolve(total)
    warmup = params.pop("warmup_steps")
    values = {
        "peak": params.pop("peak_lr"),
        "start": schedule.warmup_start,
        "warmup": warmup,
        "mode": mode,
        "worst": f"float('{WORST[mode]}')",
        "eps": EPS,
        "greedy_threshold": GREEDY_THRESHOLD,
        "last": total - 1,
    }
    head = HEAD.format(
        family=row.name, doc=row.doc, source=row.source, total=total, json=schedule.to_json()
    )
    if row.closed_loop:
        template = CLOSED[row.name][warmup > 0]
        arguments = _arguments({"mode": mode, **params})
        return head + template.format(**{**values, **params, "arguments": arguments})
    if row.torch != "LambdaLR" and row.native(params):
        template = RISE_THEN_NATIVE if warmup else NATIVE
        return head + template.format(name=row.torch, arguments=_arguments(params), **values)
    ratio = _ratio(schedule, total, warmup, params)
    return head + LAMBDA.format(ratio=indent(ratio, "    "), **values)


def _ratio(schedule: Schedule, total: int, warmup: int, params: Params) -> str:
    """The body of `ratio(t)`: the family's formula, else the table."""
    if schedule.family in FORMULAS:
        formula = FORMULAS[schedule.family]
        body = formula.template.format(**formula.values(params))
    else:
        body = _table((schedule.rates(total)[warmup:] / schedule.peak_lr).tolist())
    update = f"t - {warmup}" if warmup else "t"
    span = f"s = min({update}, {total - warmup - 1})\n{body}"
    if not warmup:
        return span
    start = schedule.warmup_start
    return f"if t < {warmup}:\n    return {start} + (1 - {start}) * t / {warmup}\n{span}"


def _table(ratios: list[float]) -> str:
    """Code that looks up `s`: where the ratio changes, if it seldom does."""
    changes = {s: ratio for s, ratio in enumerate(ratios) if not s or ratio != ratios[s - 1]}
    if 2 * len(changes) > len(ratios):
        return f"ratios = {ratios}\nreturn ratios[s]"
    return (
        f"ratios = {changes}  # from an update on\nreturn ratios[max(r for r in ratios if r <= s)]"
    )


def _arguments(params: Params) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in params.items())


class Formula(NamedTuple):
    """Source that returns a ratio of the peak from s, and the values it is filled in with."""

    template: str
    values: Callable[[Params], dict[str, Any]] = dict


DECAY = {"linear": "1 - v", "cosine": "math.cos(math.pi / 2 * v) ** 2", "sqrt": "1 - math.sqrt(v)"}

FORMULAS: dict[str, Formula] = {
    "inverse_time": Formula("return 1 / (1 + {decay_rate} * s / {decay_steps})"),
    "inverse_sqrt": Formula("return math.sqrt({timescale} / (s + {timescale}))"),
    "polynomial": Formula(
        "return {end_factor} + (1 - {end_factor}) * (1 - s / {total_iters}) ** {power}"
    ),
    "wsd": Formula(
        "v = max(0, s - ({total_iters} - {decay_steps})) / {decay_steps}\n"
        "return {end_factor} + (1 - {end_factor}) * ({decay})",
        lambda p: p | {"decay": DECAY[p["decay_shape"]]},
    ),
    "rex": Formula("u = s / {total_iters}\nreturn (1 - u) / (1 - (1 - {beta}) * u)"),
    "tanh": Formula(
        "x = {lb} + ({ub} - {lb}) * s / {total_iters}\n"
        "return {end_factor} + (1 - {end_factor}) / (1 + math.exp(2 * x))"
    ),
    "spline": Formula(
        "cubics = {cubics}  # of the log ratio, piece by piece\n"
        "x = s / {total_iters} * len(cubics)\n"
        "piece = min(int(x), len(cubics) - 1)\n"
        "v = x - piece\n"
        "c0, c1, c2, c3 = cubics[piece]\n"
        "return math.exp(c0 + v * (c1 + v * (c2 + v * c3)))",
        lambda p: p | {"cubics": pchip(np.log(p["ordinates"])).tolist()},
    ),
    "custom": Formula(
        "from {module} import {name}\n\nreturn {name}(s, {total}, **{knobs})",
        lambda p: p | dict(zip(("module", "name"), p["function"].split(":"), strict=True)),
    ),
}
