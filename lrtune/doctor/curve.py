"""Curve: a way to lay a family through rates, and what such ways share.

A curve's horizon is a setting like others here, since that is what is wrong most often: it may be
shorter than the run, and past it the rate stays (or, for cosine, rises again as torch's does).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from lrtune.doctor.seen import Seen
from lrtune.schedule.family import Array

Vector: TypeAlias = Sequence[float] | Array


@dataclass(frozen=True, slots=True)
class Curve:
    """A way to lay a family through rates.

    Attributes:
        family: of FAMILIES.
        starts: where the search begins: settings, without the peak.
        bounds: lowest and highest settings.
        ratio: (seen, settings, updates of the body, warmup) -> rates over the peak.
        length: (seen, settings, warmup) -> updates of the body; None: as long as the run.
        knobs: (seen, settings, updates of the body) -> knobs of a Schedule.
        warmup: whether a rise comes before it.
        ends: whether its length is its horizon.
        falls: whether it never rises after the warmup.
    """

    family: str
    starts: Callable[[Seen], list[list[float]]]
    bounds: tuple[list[float], list[float]]
    ratio: Callable[[Seen, Vector, Array, float], Array]
    length: Callable[[Seen, Vector, float], float | None]
    knobs: Callable[[Seen, Vector, int], dict[str, Any]]
    warmup: bool = True
    ends: bool = False
    falls: bool = True


def short(value: float, digits: int = 5) -> float:
    """A number as a person would copy it."""
    return float(f"{value:.{digits}g}")


def own_length(seen: Seen, x: Vector, warmup: float) -> float | None:
    """A body whose length is the first setting, as a logarithm."""
    return float(np.exp(x[0]))


def run_length(seen: Seen, x: Vector, warmup: float) -> float | None:
    """A body that is as long as the run."""
    return None


def lengths(*rest: float) -> Callable[[Seen], list[list[float]]]:
    """Bodies as long as the run, or until the rate comes to rest, much shorter, much longer."""

    def starts(seen: Seen) -> list[list[float]]:
        warmup = seen.warmup(seen.top)
        run = max(2.0, seen.end - warmup)
        rest_at = max(1.0, seen.flat - warmup)
        dip = max(1.0, seen.dip - warmup)
        ends = dict.fromkeys([run, rest_at, dip, run / 2, run / 4, run / 8, 2 * run, 5 * run])
        return [[float(np.log(n)), *rest] for n in ends]

    return starts


def progress(n: float, s: Array) -> Array:
    """How far updates are in a body of n, 1 past its end."""
    return np.minimum(s / n, 1.0)


def floor_of(x: Vector, place: int) -> float:
    """The setting at a place, if there are so many; else zero."""
    return float(x[place]) if len(x) > place else 0.0
