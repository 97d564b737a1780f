"""Families made of other schedules (`sequence`) or of the user's own function (`custom`)."""

from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import numpy as np

from lrtune.errors import InputError
from lrtune.schedule.family import Array, Family, Knob, Knobs, Params, count


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
