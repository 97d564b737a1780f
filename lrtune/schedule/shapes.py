"""The bodies of the open-loop families that take more than a line.

`s` is 0 … n-1, the updates of the body; the other arguments are the resolved parameters, named
as torch's. Each gives float64[n]. Last come the families made of other schedules (`sequence`) and
of the user's own function (`custom`).
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np

from lrtune.errors import InputError
from lrtune.schedule.family import Array, Family, Knob, Knobs, Params, count


def half_cosine(v: Array) -> Array:
    """½(1 + cos πv), written as cos² to stay above zero one update before v = 1."""
    return np.cos(np.pi / 2 * v) ** 2


def cosine_restarts(
    s: Array, n: int, peak: float, *, T_0: int, T_mult: int, eta_min: float
) -> Array:
    """Cosine within cycles of length T_0·T_mult^i (Loshchilov & Hutter 2016)."""
    starts, lengths = [0], [T_0]
    while starts[-1] + lengths[-1] < n:
        starts.append(starts[-1] + lengths[-1])
        lengths.append(lengths[-1] * T_mult)
    cycle = np.searchsorted(starts, s, side="right") - 1
    v = (s - np.array(starts)[cycle]) / np.array(lengths)[cycle]
    return eta_min + (peak - eta_min) * half_cosine(v)


CYCLE_SCALE: dict[str, Callable[[Array, Array, float], Array]] = {
    "triangular": lambda cycle, s, gamma: np.ones_like(s),
    "triangular2": lambda cycle, s, gamma: 0.5**cycle,
    "exp_range": lambda cycle, s, gamma: gamma**s,
}


def triangles(
    s: Array, foot: float, top: float, step_size_up: int, mode: str, gamma: float
) -> Array:
    """From foot to top and back, again and again (Smith 2015); top may be the lower one."""
    cycle, phase = np.divmod(s / step_size_up, 2)
    height = 1 - np.abs(phase - 1)
    scale = CYCLE_SCALE[mode](cycle, s, gamma)
    return np.asarray(foot + (top - foot) * height * scale)


ANNEAL: dict[str, Callable[[Array], Array]] = {
    "cos": lambda v: 1 - half_cosine(v),
    "linear": lambda v: v,
}


def one_cycle(
    s: Array,
    ends: tuple[float, float, float],
    *,
    total_steps: int,
    pct_start: float,
    anneal_strategy: str,
    **rest: object,
) -> Array:
    """Torch's OneCycleLR: from the first end to the second at pct_start, then on to the third."""
    first, middle, last = ends
    top = pct_start * total_steps - 1
    # Where top is 0 torch divides 0 by 0 at s = 0; the rise from `first` has no length then.
    rise = s / (top or 1)
    fall = (s - top) / (total_steps - 1 - top)
    anneal = ANNEAL[anneal_strategy]
    up = first + (middle - first) * anneal(rise)
    down = middle + (last - middle) * anneal(fall)
    return np.where(s <= top, up, down)


def steepness(end: float) -> float:
    """How far an exponential decay falls, in nats: to its end, but no further than to 0.01."""
    return -math.log(min(max(end, 0.01), 0.99))


# (v, power, end) -> from 1 at v = 0 to 0 at v = 1. Hägele 2024 (arXiv 2405.18392) try the powers
# 0.5 ("1-sqrt", the best), 1 and 2, the cosine, and end^v, which the exponential is once it is put
# above the end; Hu 2024 (arXiv 2404.06395) has an exponential too.
DECAY: dict[str, Callable[[Array, float, float], Array]] = {
    "power": lambda v, power, end: 1 - v**power,
    "cosine": lambda v, power, end: half_cosine(v),
    "exponential": lambda v, power, end: (
        np.expm1((1 - v) * steepness(end)) / math.expm1(steepness(end))
    ),
}


def wsd(
    s: Array,
    n: int,
    peak: float,
    *,
    total_iters: int,
    decay_steps: int,
    decay_shape: str,
    end_factor: float,
    decay_power: float = 1.0,
) -> Array:
    """The peak, then a decay over the last decay_steps (Hu 2024, Hägele 2024)."""
    v = np.maximum(0, s - (total_iters - decay_steps)) / decay_steps
    ratio = DECAY[decay_shape](v, decay_power, end_factor)
    return peak * (end_factor + (1 - end_factor) * ratio)


def spline(s: Array, n: int, peak: float, *, ordinates: Sequence[float], total_iters: int) -> Array:
    """Monotone cubic through evenly spaced ordinates of log rate."""
    coefficients = pchip(np.log(ordinates))
    x = s / total_iters * len(coefficients)
    segment = x.astype(int)
    v = x - segment
    c0, c1, c2, c3 = coefficients[segment].T
    return np.asarray(peak * np.exp(c0 + v * (c1 + v * (c2 + v * c3))))


def pchip(y: Array) -> Array:
    """Monotone cubic interpolation through y at 0, 1, 2, …: (segments, 4) coefficients.

    Row i gives c0 + c1·v + c2·v² + c3·v³ for v in [0, 1] between y[i] and y[i+1]; one or two
    ordinates are a line in two segments. Fritsch & Carlson 1980, with the end slopes of scipy's
    PchipInterpolator.
    """
    if len(y) < 3:
        y = np.linspace(y[0], y[-1], 3)
    delta = np.diff(y)
    left, right = delta[:-1], delta[1:]
    same = left * right > 0
    harmonic = same * 2 * left * right / np.where(same, left + right, 1)
    first, last = _end_slope(delta[0], delta[1]), _end_slope(delta[-1], delta[-2])
    slope = np.concatenate([[first], harmonic, [last]])
    d0, d1 = slope[:-1], slope[1:]
    return np.stack([y[:-1], d0, 3 * delta - 2 * d0 - d1, d0 + d1 - 2 * delta], axis=1)


def _end_slope(near: float, far: float) -> float:
    slope = (3 * near - far) / 2
    if slope * near <= 0:
        return 0.0
    if near * far < 0 and abs(slope) > 3 * abs(near):
        return 3 * near
    return slope


def _check_sequence(knobs: Knobs, peak: float) -> None:
    parts, milestones = knobs["schedules"], knobs["milestones"]
    if len(milestones) != len(parts) - 1:
        fewer = f"{len(parts) - 1}, one fewer than schedules"
        raise InputError(f"sequence: milestones={milestones!r}: expected {fewer}")
    for i, part in enumerate(parts):
        where = f"sequence: schedules[{i}]={part.family!r}: expected"
        if part.closed_loop:
            raise InputError(f"{where} an open-loop family (a part ends at a known update)")
        if part.cycles_momentum:
            raise InputError(f"{where} one without base_momentum and max_momentum, as other parts")
    highest = max(part.peak_lr for part in parts)
    if peak != highest:
        raise InputError(
            f"sequence: peak_lr={peak!r}: expected {highest!r}, the highest of its parts"
        )


def _resolve_sequence(knobs: Knobs, n: int, peak: float) -> Params:
    """Each part with the updates of its span as its own horizon."""
    milestones = [count(fraction, n) for fraction in knobs["milestones"]]
    spans = [b - a for a, b in pairwise([0, *milestones, n])]
    if min(spans) < 1:
        raise InputError(
            f"sequence: total leaves a body of {n} updates, its parts {spans}: expected at least "
            "1 each; give a larger total or milestones further apart"
        )
    return {
        "milestones": milestones,
        "schedules": [
            {"schedule": part.to_dict(), "total": span, "resolved": part.resolve(span)}
            for part, span in zip(knobs["schedules"], spans, strict=True)
        ],
    }


def _sequence(
    s: Array, n: int, peak: float, *, schedules: list[Params], milestones: list[int]
) -> Array:
    from lrtune.schedule.schedule import Schedule  # a sequence is made of what it is a row of

    return np.concatenate(
        [Schedule.from_dict(part["schedule"]).rates(part["total"]) for part in schedules]
    )


def _custom(
    s: Array, n: int, peak: float, *, function: str, total: int, knobs: dict[str, float]
) -> Array:
    """The peak × function(step, total, **knobs), for step = 0 … total - 1."""
    if function not in _REGISTERED:
        raise InputError(
            f"custom: function={function!r} is not registered: decorate it with "
            "@lrtune.register and import its module first"
        )
    ratios = np.empty(total)
    for step in range(total):
        call = f"custom: {function}(step={step}, total={total})"
        try:
            ratio = _REGISTERED[function](step, total, **knobs)
        except Exception as error:
            raise InputError(f"{call} raised {type(error).__name__}: {error}") from error
        try:
            ratios[step] = ratio
        except (TypeError, ValueError):
            ratios[step] = np.nan
        if not 0 < ratios[step] <= 1:
            raise InputError(f"{call} = {ratio!r}: expected a ratio of the peak in (0, 1]")
    return peak * ratios


# Files name functions, and only functions that the user's own code has put here are called: a file
# that could name any function of any module would be a program.
_REGISTERED: dict[str, Callable[..., float]] = {}

F = TypeVar("F", bound=Callable[..., float])


def register(function: F) -> F:
    """Let `custom` schedules use this function, under its name `module:function`; a decorator.

    Args:
        function: `f(step, total, **knobs)` -> ratio of the peak, in (0, 1].

    Example:
        >>> from lrtune.schedule import Schedule
        >>> @register
        ... def hump(step, total, low):
        ...     return max(low, 1 - abs(2 * step / total - 1))
        >>> knobs = {"function": f"{hump.__module__}:hump", "low": 0.1}
        >>> Schedule("custom", peak_lr=1.0, knobs=knobs).rates(4).tolist()
        [0.1, 0.5, 1.0, 0.5]
    """
    _REGISTERED[f"{function.__module__}:{function.__qualname__}"] = function
    return function


SEQUENCE = Family(
    "sequence",
    "schedules one after the other",
    knobs=(
        Knob("schedules", 0, 0, "schedules", None, (0, 0), doc="a list of schedules"),
        Knob(
            "milestones",
            *(0, 0, "linear", None, (0.001, 0.999)),
            length=2,
            ordered=True,
            doc="the fractions of the body at which each hands over",
        ),
    ),
    resolve=_resolve_sequence,
    # SequentialLR gives all parts one base rate, and cannot hold another: so LambdaLR.
    body=_sequence,
    check=_check_sequence,
)

CUSTOM = Family(
    "custom",
    "the user's pure function f(step, total, **knobs) -> ratio of the peak",
    knobs=(Knob("function", 0, 0, "function", None, (0, 0), doc="the name 'module:function'"),),
    resolve=lambda k, n, peak: {
        "function": k["function"],
        "total": n,
        "knobs": {name: value for name, value in k.items() if name != "function"},
    },
    body=_custom,
    source="the user",
    extra=Knob("", 0, 0, "linear", None, (-1e300, 1e300), doc="passed on to the function"),
)
