"""CURVES: the families as they are laid through rates, the simplest first."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from lrtune.doctor.curve import Curve, Vector, progress, run_length, short
from lrtune.doctor.cycles import cyclic, one_cycle, restarts
from lrtune.doctor.decays import decay, drops, even_drops, milestone_knobs, step_knobs, steps, wsd
from lrtune.doctor.seen import Seen
from lrtune.schedule import shapes
from lrtune.schedule.family import Array

WHOLE_MULTIPLES = (1, 2, 3)  # T_mult


def _linear_at_end(seen: Seen, x: Vector, s: Array, warmup: float) -> Array:
    return 1 + (x[0] - 1) * progress(max(1.0, seen.end - warmup), s)


def _power(x: Vector, u: Array) -> Array:
    return np.asarray(np.maximum(1 - u, 0.0) ** x[0])


def _rex(x: Vector, u: Array) -> Array:
    return np.asarray((1 - u) / (1 - (1 - x[0]) * u))


def _tanh(seen: Seen, x: Vector, s: Array, warmup: float) -> Array:
    return shapes.tanh(
        s,
        0,
        1.0,
        lb=x[0],
        ub=x[1],
        end_factor=x[2],
        total_iters=max(1.0, seen.end - warmup),  # type: ignore[arg-type]
    )


def _no_knobs(seen: Seen, x: Vector, n: int) -> dict[str, Any]:
    return {}


def _named(name: str, value: Callable[[Vector, int], float]) -> Callable[..., dict[str, Any]]:
    return lambda seen, x, n: {name: short(value(x, n), 8)}


def _constant(seen: Seen, x: Vector, s: Array, warmup: float) -> Array:
    return np.ones_like(s)


def _rate_of_fall(seen: Seen) -> list[list[float]]:
    return [[float(np.log(k / seen.end))] for k in (0.3, 3.0, 20.0)]


def _half_cosine(x: Vector, u: Array) -> Array:
    return np.asarray(np.cos(np.pi / 2 * u) ** 2)


LINEAR = decay("linear", lambda x, u: 1 - u, [], [], [[]], (), "end_factor")
COSINE = partial(decay, "cosine", _half_cosine, [], [], [[]], (), "eta_min")
UNBOUNDED = ([-25.0], [5.0])

CURVES: tuple[Curve, ...] = (
    Curve("constant", lambda seen: [[]], ([], []), _constant, run_length, _no_knobs),
    LINEAR[0],
    COSINE(past=True)[0],
    COSINE()[0],
    Curve("linear", lambda seen: [[seen.low]], ([0.0], [1.0]), _linear_at_end, run_length,
          _named("end_factor", lambda x, n: x[0])),
    LINEAR[1],
    COSINE(past=True)[1],
    COSINE()[1],
    Curve("step", even_drops, ([-20.0], [0.0]), steps, run_length, step_knobs),
    Curve("multistep", drops, ([-20.0], [0.0]), steps, run_length, milestone_knobs),
    Curve("exponential", _rate_of_fall, UNBOUNDED,
          lambda seen, x, s, w: np.exp(-np.exp(x[0]) * s), run_length,
          _named("final_ratio", lambda x, n: float(np.exp(-np.exp(x[0]) * n)))),
    one_cycle("cos"),
    one_cycle("linear"),
    *(restarts(multiple) for multiple in WHOLE_MULTIPLES),
    *(cyclic(mode) for mode in shapes.CYCLE_SCALE),
    *wsd("linear"), *wsd("cosine"), *wsd("sqrt"),
    Curve("inverse_sqrt", lambda seen: [[float(np.log(seen.end * k))] for k in (0.02, 0.5)],
          ([-5.0], [25.0]), lambda seen, x, s, w: np.sqrt(np.exp(x[0]) / (s + np.exp(x[0]))),
          run_length,
          _named("timescale", lambda x, n: float(np.exp(x[0])) / n)),
    Curve("inverse_time", _rate_of_fall, UNBOUNDED,
          lambda seen, x, s, w: 1 / (1 + np.exp(x[0]) * s), run_length,
          _named("decay_rate", lambda x, n: float(np.exp(x[0])) * n)),
    *decay("polynomial", _power, [0.1], [10.0], [[2.0]], ("power",), "end_factor"),
    *decay("rex", _rex, [1e-3], [1e3], [[0.5]], ("beta",), ""),
    Curve("tanh", lambda seen: [[-4.0, 2.0, 0.0]], ([-20.0, 0.0, 0.0], [0.0, 20.0, 1.0]), _tanh,
          run_length, lambda seen, x, n: {"lb": short(x[0]), "ub": short(x[1]),
                                    "end_factor": short(x[2])}),
)  # fmt: skip
