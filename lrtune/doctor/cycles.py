"""Curves that rise again."""

from typing import Any

import numpy as np

from lrtune.doctor.curve import Curve, Vector, own_length, run_length, short
from lrtune.doctor.seen import Seen
from lrtune.schedule import shapes
from lrtune.schedule.family import Array


def one_cycle(strategy: str) -> Curve:
    """One rise and one fall."""

    def ratio(seen: Seen, x: Vector, s: Array, warmup: float) -> Array:
        n = float(np.exp(x[0]))
        return shapes.one_cycle(
            np.minimum(s, n - 1),
            0,
            1.0,
            max_lr=1.0,
            total_steps=n,  # type: ignore[arg-type]
            pct_start=x[1],
            div_factor=float(np.exp(x[2])),
            final_div_factor=float(np.exp(x[3])),
            anneal_strategy=strategy,
            cycle_momentum=False,
        )

    def knobs(seen: Seen, x: Vector, n: int) -> dict[str, Any]:
        return {
            "pct_start": short(x[1]),
            "div_factor": short(float(np.exp(x[2]))),
            "final_div_factor": short(float(np.exp(x[3]))),
            "anneal_strategy": strategy,
        }

    def starts(seen: Seen) -> list[list[float]]:
        div = np.log(max(1.01, 1 / max(seen.base, 1e-3)))
        runs = dict.fromkeys([seen.end, seen.flat + 1, 2 * seen.end, 4 * seen.end])
        made = [
            [
                float(np.log(max(3.0, n))),
                min(0.95, max(0.02, (seen.turn + 1) / max(n, 3))),
                div,
                8.0,
            ]
            for n in runs
        ]
        return [*made, [float(np.log(4 * seen.end)), 0.3, np.log(25), 8.0]]

    bounds = ([1.0, 0.005, 0.0, 0.0], [25.0, 0.99, 9.2, 18.4])
    return Curve(
        "one_cycle", starts, bounds, ratio, own_length, knobs, warmup=False, ends=True, falls=False
    )


def restarts(multiple: int) -> Curve:
    """Cosine in cycles, each so many times as long as the one before."""

    def cycle(seen: Seen, warmup: float) -> float:
        """The length of the first cycle; from all restarts where cycles are of one length."""
        count = len(seen.restarts)
        if multiple == 1:
            # A cycle need not be a whole number of updates: restarts are at the update after it.
            return float(seen.restarts[-1] - warmup) / count
        return float(seen.restarts[0] - warmup)

    def ratio(seen: Seen, x: Vector, s: Array, warmup: float) -> Array:
        T_0 = cycle(seen, warmup) - x[1] * seen.gap
        return shapes.cosine_restarts(
            s,
            int(s.max(initial=0)) + 2,
            1.0,
            T_0=T_0,  # type: ignore[arg-type]
            T_mult=multiple,
            eta_min=x[0],
        )

    def starts(seen: Seen) -> list[list[float]]:
        return (
            [[low, off] for low in (seen.low, 0.0) for off in (0.0, 0.25, 0.5, 0.75)]
            if seen.restarts.size
            else []
        )

    def knobs(seen: Seen, x: Vector, n: int) -> dict[str, Any]:
        T_0 = cycle(seen, seen.warmup(seen.top)) - x[1] * seen.gap
        return {"T_0": short(round(T_0) / n, 10), "T_mult": multiple, "eta_min": short(x[0])}

    bounds = ([0.0, -0.5], [1.0, 1.0])  # a restart is somewhere between two rates
    return Curve("cosine_restarts", starts, bounds, ratio, run_length, knobs, falls=False)


def cyclic(mode: str) -> Curve:
    """Triangles."""

    def ratio(seen: Seen, x: Vector, s: Array, warmup: float) -> Array:
        return shapes.cyclic(
            s,
            0,
            1.0,
            base_lr=x[1],
            max_lr=1.0,
            step_size_up=float(np.exp(x[0])),  # type: ignore[arg-type]
            mode=mode,
            gamma=float(np.exp(-np.exp(x[2]))) if mode == "exp_range" else 1.0,
            cycle_momentum=False,
        )

    def knobs(seen: Seen, x: Vector, n: int) -> dict[str, Any]:
        gamma = float(np.exp(-np.exp(x[2])) ** n) if mode == "exp_range" else 0.1
        up = round(float(np.exp(x[0])))
        return {"base_lr": short(x[1]), "step_size_up": short(up / n, 10), "mode": mode,
                "gamma": short(gamma)}  # fmt: skip

    def starts(seen: Seen) -> list[list[float]]:
        up, base = np.log(max(1.0, seen.turn)), max(seen.base, 1e-9)
        more = [-np.log(seen.end)] if mode == "exp_range" else []
        return [[float(up), base, *more]] if seen.turn > 0 else []

    low, high = [0.0, 1e-9], [25.0, 1.0]
    if mode == "exp_range":
        low, high = [*low, -25.0], [*high, 0.0]
    return Curve("cyclic", starts, (low, high), ratio, run_length, knobs, warmup=False, falls=False)
