"""torch's schedulers by what they save: their rates, step by step, worked out again."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from lrtune.schedule import shapes
from lrtune.schedule.family import Array

State = Mapping[str, Any]


class Rebuilt(NamedTuple):
    """What a state tells.

    Attributes:
        kind: torch's class.
        rates: after 0, 1, ... steps.
        horizon: steps that it was made for, where it was made for a number.
        floor: the rate that it goes down to, where it says so.
    """

    kind: str
    rates: Array
    horizon: int | None = None
    floor: float | None = None


class Kind(NamedTuple):
    """One of torch's classes: the keys that tell it, its rates, its horizon."""

    name: str
    keys: frozenset[str]
    rates: Callable[[State, int, float, State, Array], Array | None]
    horizon: Callable[[State], int | None] = lambda state: None


def rebuilt(state: State, number: int, base: float, group: State, s: Array) -> Rebuilt | None:
    """The rates of parameter group `number` at the steps `s`; None where only a log knows them."""
    for kind in KINDS:
        if kind.keys <= state.keys():
            rates = kind.rates(state, number, base, group, s)
            if rates is None:
                return None
            return Rebuilt(kind.name, rates, kind.horizon(state), state.get("eta_min"))
    return None


def last_rate(rates: Array) -> float:
    """The rate after the last step."""
    return float(rates[-1])


def _cosine(state: State, number: int, base: float, group: State, s: Array) -> Array:
    return shapes.cosine(s, len(s), base, T_max=state["T_max"], eta_min=state["eta_min"])


def _restarts(state: State, number: int, base: float, group: State, s: Array) -> Array:
    take = {name: state[name] for name in ("T_0", "T_mult", "eta_min")}
    return shapes.cosine_restarts(s, len(s) + 1, base, **take)


def _step(state: State, number: int, base: float, group: State, s: Array) -> Array:
    return shapes.step(s, len(s), base, step_size=state["step_size"], gamma=state["gamma"])


def _multistep(state: State, number: int, base: float, group: State, s: Array) -> Array:
    counted = state["milestones"]
    milestones = sorted(m for m, times in counted.items() for _ in range(times))
    return shapes.multistep(s, len(s), base, milestones=milestones, gamma=state["gamma"])


def _exponential(state: State, number: int, base: float, group: State, s: Array) -> Array:
    return np.asarray(base * float(state["gamma"]) ** s)


def _linear(state: State, number: int, base: float, group: State, s: Array) -> Array:
    first, last, total = state["start_factor"], state["end_factor"], state["total_iters"]
    return np.asarray(base * (first + (last - first) * np.minimum(s, total) / total))


def _constant(state: State, number: int, base: float, group: State, s: Array) -> Array:
    return base * np.where(s < state["total_iters"], state["factor"], 1.0)


def _polynomial(state: State, number: int, base: float, group: State, s: Array) -> Array:
    total = state["total_iters"]
    return np.asarray(base * (1 - np.minimum(s, total) / total) ** state["power"])


def _cyclic(state: State, number: int, base: float, group: State, s: Array) -> Array:
    top, size, rise = state["max_lrs"][number], state["total_size"], state["step_ratio"]
    cycle = np.floor(1 + s / size)
    x = 1 + s / size - cycle
    height = np.where(x <= rise, x / rise, (x - 1) / (rise - 1))
    scale = {
        "triangular": np.ones_like(s),
        "triangular2": 0.5 ** (cycle - 1),
        "exp_range": float(state["gamma"]) ** s,
    }[state["mode"]]
    return np.asarray(base + (top - base) * height * scale)


def _one_cycle(state: State, number: int, base: float, group: State, s: Array) -> Array | None:
    """Its highest and lowest rate are in the optimizer's groups, not in its own state."""
    if not {"max_lr", "min_lr"} <= group.keys():
        return None
    marks = {"initial_lr": base, "max_lr": float(group["max_lr"]), "min_lr": float(group["min_lr"])}
    anneal = shapes.ANNEAL[state["_anneal_func_type"]]
    ends = [float(phase["end_step"]) for phase in state["_schedule_phases"]]
    rates = np.empty_like(s)
    spans = [*pairwise([0.0, *ends])]
    for phase, (start, end) in reversed([*zip(state["_schedule_phases"], spans, strict=True)]):
        low, high = marks[phase["start_lr"]], marks[phase["end_lr"]]
        inside = s <= (np.inf if end == ends[-1] else end)  # torch goes on with the last phase
        own = low + (high - low) * anneal((s - start) / (end - start))
        rates = np.where(inside, own, rates)
    return rates


def _sequence(state: State, number: int, base: float, group: State, s: Array) -> Array | None:
    bounds = [0, *state["_milestones"], np.inf]
    rates = np.empty_like(s)
    for part, (start, end) in zip(state["_schedulers"], pairwise(bounds), strict=True):
        inside = (s >= start) & (s < end)
        own = np.arange(np.count_nonzero(inside), dtype=float)
        found = rebuilt(part, number, base, group, own) if own.size else None
        if own.size and found is None:
            return None
        if found is not None:
            rates[inside] = found.rates
    return rates


def _sequence_horizon(state: State) -> int | None:
    part = state["_schedulers"][-1]
    own = next((k.horizon(part) for k in KINDS if k.keys <= part.keys()), None)
    return None if own is None else int(state["_milestones"][-1]) + own


def _chained(state: State, number: int, base: float, group: State, s: Array) -> Array | None:
    ratios = np.ones_like(s)
    for part in state["_schedulers"]:
        found = rebuilt(part, number, base, group, s)
        if found is None or not base:
            return None
        ratios = ratios * found.rates / base
    return base * ratios


def _unknown(state: State, number: int, base: float, group: State, s: Array) -> None:
    return None


def _of(name: str) -> Callable[[State], int]:
    return lambda state: int(state[name])


# The first whose keys are all there, so those with more keys come before those with fewer.
KINDS = (
    Kind("SequentialLR", frozenset({"_milestones", "_schedulers"}), _sequence, _sequence_horizon),
    Kind("ChainedScheduler", frozenset({"_schedulers"}), _chained),
    Kind("ReduceLROnPlateau", frozenset({"patience", "num_bad_epochs"}), _unknown),
    Kind("LambdaLR", frozenset({"lr_lambdas"}), _unknown),
    Kind("MultiplicativeLR", frozenset({"lr_lambda"}), _unknown),
    Kind("CosineAnnealingWarmRestarts", frozenset({"T_0", "T_mult", "eta_min"}), _restarts),
    Kind("CosineAnnealingLR", frozenset({"T_max", "eta_min"}), _cosine, _of("T_max")),
    Kind("OneCycleLR", frozenset({"total_steps", "_schedule_phases"}), _one_cycle,
         _of("total_steps")),
    Kind("CyclicLR", frozenset({"max_lrs", "total_size", "step_ratio", "mode"}), _cyclic),
    Kind("StepLR", frozenset({"step_size", "gamma"}), _step),
    Kind("MultiStepLR", frozenset({"milestones", "gamma"}), _multistep),
    Kind("LinearLR", frozenset({"start_factor", "end_factor", "total_iters"}), _linear,
         lambda s: int(s["total_iters"]) if s["end_factor"] < s["start_factor"] else None),
    Kind("ConstantLR", frozenset({"factor", "total_iters"}), _constant),
    Kind("PolynomialLR", frozenset({"power", "total_iters"}), _polynomial, _of("total_iters")),
    Kind("ExponentialLR", frozenset({"gamma"}), _exponential),
)  # fmt: skip
