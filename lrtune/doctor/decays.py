"""Curves that only fall."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lrtune.doctor.curve import Curve, Vector, floor_of, lengths, own_length, progress, short
from lrtune.doctor.seen import Seen
from lrtune.schedule import shapes
from lrtune.schedule.family import Array


def decay(
    family: str,
    shape: Callable[[Vector, Array], Array],  # (settings after the length, u) -> 1 ... 0
    low: list[float],
    high: list[float],
    starts: list[list[float]],
    names: Sequence[str],
    floor: str,
    past: bool = False,
) -> list[Curve]:
    """Down to zero, and down to a floor where the family has one."""
    count = len(names)

    def free(seen: Seen, x: Vector, s: Array, warmup: float) -> Array:
        u = s / np.exp(x[0]) if past else progress(float(np.exp(x[0])), s)
        r = floor_of(x, 1 + count)
        return np.asarray(r + (1 - r) * shape(x[1 : 1 + count], u))

    def knobs(seen: Seen, x: Vector, n: int) -> dict[str, Any]:
        own = {name: short(v) for name, v in zip(names, x[1 : 1 + count], strict=True)}
        r = short(floor_of(x, 1 + count))
        return own | ({floor: r} if floor else {})

    def begin(*rest: float) -> Callable[[Seen], list[list[float]]]:
        return lambda seen: [one for s in starts for one in lengths(*s, *rest)(seen)]

    length = ([0.0], [25.0])
    either = {"ends": True, "falls": not past}
    bounds = (length[0] + low, length[1] + high)
    to_zero = Curve(family, begin(), bounds, free, own_length, knobs, **either)
    if not floor:
        return [to_zero]
    to_floor = Curve(
        family,
        lambda seen: [[*one, min(seen.low, 0.99)] for one in begin()(seen)],
        (bounds[0] + [0.0], bounds[1] + [1.0]),
        free,
        own_length,
        knobs,
        **either,
    )
    return [to_zero, to_floor]


def wsd(shape: str) -> list[Curve]:
    """The stable part, and a decay to a floor: by its start and its end."""

    def ratio(seen: Seen, x: Vector, s: Array, warmup: float) -> Array:
        start, n = float(np.exp(x[0])) * x[1], float(np.exp(x[0]))
        v = np.clip((s - start) / max(n - start, 1e-9), 0, 1)
        r = floor_of(x, 2)
        return np.asarray(r + (1 - r) * shapes.DECAY[shape](v))

    def knobs(seen: Seen, x: Vector, n: int) -> dict[str, Any]:
        decay = round((1 - x[1]) * n) / n
        return {"decay": short(decay, 8), "decay_shape": shape, "end_factor": short(floor_of(x, 2))}

    def starts(*rest: float) -> Callable[[Seen], list[list[float]]]:
        def of(seen: Seen) -> list[list[float]]:
            warmup = seen.warmup(seen.top)
            begins = float(seen.changes[0]) - 1 if seen.changes.size else seen.end * 0.8
            run = max(2.0, seen.end - warmup)
            share = min(0.99, max(0.01, (begins - warmup) / run))
            rest_at = max(2.0, seen.flat - warmup)
            late = min(0.99, max(0.01, (begins - warmup) / rest_at))
            pairs = [(run, share), (run, (share + 1) / 2), (rest_at, late), (2 * run, share / 2)]
            return [[float(np.log(n)), d, *rest] for n, d in pairs]

        return of

    return [
        Curve("wsd", starts(), ([0.0, 0.0], [25.0, 0.999]), ratio, own_length, knobs, ends=True),
        Curve(
            "wsd",
            lambda seen: [[*one, seen.low] for one in starts()(seen)],
            ([0.0, 0.0, 0.0], [25.0, 0.999, 1.0]),
            ratio,
            own_length,
            knobs,
            ends=True,
        ),
    ]


def steps(seen: Seen, x: Vector, s: Array, warmup: float) -> Array:
    """One factor at every update at which the rate was seen to change."""
    counts = np.searchsorted(seen.changes - warmup, s, side="right")
    return np.asarray(np.exp(x[0]) ** counts)


def step_knobs(seen: Seen, x: Vector, n: int) -> dict[str, Any]:
    """The knobs of `step`."""
    sizes = np.diff(np.r_[seen.warmup(seen.top), seen.changes])
    size = float(np.median(sizes)) if sizes.size else n
    return {"gamma": short(float(np.exp(x[0]))), "step_size": short(size / n, 10)}


def milestone_knobs(seen: Seen, x: Vector, n: int) -> dict[str, Any]:
    """The knobs of `multistep`."""
    milestones = (seen.changes - round(seen.warmup(seen.top))) / n
    return {
        "gamma": short(float(np.exp(x[0]))),
        "milestones": [short(float(m), 10) for m in milestones],
    }


def drops(seen: Seen) -> list[list[float]]:
    """The factor of each drop, where they all are drops and few."""
    falls = seen.levels[1:] / np.maximum(seen.levels[:-1], 1e-300)
    if not falls.size or falls.size > 60 or falls.max() >= 1 or falls.min() <= 0:
        return []
    return [[float(np.log(np.median(falls)))]]


def even_drops(seen: Seen) -> list[list[float]]:
    """The same, where they come at even distances."""
    sizes = np.diff(np.r_[seen.warmup(seen.top), seen.changes])
    even = sizes.size and np.abs(sizes - sizes[0]).max() <= 1 and sizes[0] > 1
    return drops(seen) if even else []
