"""Schedulers in checkpoints: torch's own are built again from their state and stepped once more."""

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.optim import SGD, Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from lrtune.doctor.log import Log, without_repeats
from lrtune.errors import InputError
from lrtune.schedule.family import Array, integer

State: TypeAlias = Mapping[str, Any]
MOST = 5_000_000  # steps of a scheduler that are made again, at 3 µs each
DEEPEST = 6  # dictionaries within dictionaries

# torch's classes, told by the keys of their state: the first whose keys are all there.
KINDS: Mapping[str, tuple[str, ...]] = {
    "SequentialLR": ("_milestones", "_schedulers"),
    "ChainedScheduler": ("_schedulers",),
    "OneCycleLR": ("total_steps", "_schedule_phases"),
    "CyclicLR": ("max_lrs", "total_size", "step_ratio", "mode"),
    "MultiStepLR": ("milestones", "gamma"),
    "CosineAnnealingWarmRestarts": ("T_0", "T_mult", "eta_min"),
    "CosineAnnealingLR": ("T_max", "eta_min"),
    "StepLR": ("step_size", "gamma"),
    "LinearLR": ("start_factor", "end_factor", "total_iters"),
    "ConstantLR": ("factor", "total_iters"),
    "PolynomialLR": ("total_iters", "power"),
    "ExponentialLR": ("gamma",),
}
PLAIN = [*KINDS][-7:]  # those whose keys are their arguments
# The steps that a scheduler was made for, where it was made for a number.
HORIZONS = {"CosineAnnealingLR": "T_max", "LinearLR": "total_iters",
            "PolynomialLR": "total_iters"}  # fmt: skip


def read_checkpoint(path: Path) -> list[Log]:
    """The schedulers in a file of torch.save, wherever they are in it.

    Raises:
        InputError: torch refuses the file, there is no scheduler's state in it, or torch refuses
            that state.
    """
    try:
        data = torch.load(path, weights_only=True, map_location="cpu")
    except OSError:
        raise
    except Exception as error:  # the unpickler raises anything on bytes that are no pickle
        first = str(error).split(". ")[0].split("\n")[0][:160]
        raise InputError(
            f"{path}: torch.load(weights_only=True) refuses it ({first}); doctor runs nobody's "
            "code: save scheduler.state_dict() alone to a file and give that"
        ) from error
    states = list(_schedulers(data))
    if not states:
        keys = ", ".join(map(str, list(data)[:8])) if isinstance(data, Mapping) else type(data)
        raise InputError(f"{path}: no state_dict of a scheduler in it: {keys}")
    logs: list[Log] = []
    for name, state in states:
        try:
            logs += _logs(name, state)
        except Exception as error:  # torch's code meets what nobody has checked
            reason = (
                error if isinstance(error, InputError) else f"not a scheduler's state: {error!r}"
            )
            raise InputError(f"{path}: {name}: {reason}") from error
    updates = data.get("global_step") if isinstance(data, Mapping) else None
    if isinstance(updates, int) and updates > 0:  # as Lightning counts them
        logs = [replace(log, updates=updates) for log in logs]
    return without_repeats(logs)


def _schedulers(
    data: object, name: str = "scheduler", depth: int = 0
) -> Iterator[tuple[str, State]]:
    """The states of schedulers within `data`, each with its key."""
    if isinstance(data, Mapping) and "_last_lr" in data:
        yield name, data
    elif isinstance(data, Mapping) and depth < DEEPEST:
        for key, value in data.items():
            yield from _schedulers(value, str(key), depth + 1)
    elif isinstance(data, list | tuple) and depth < DEEPEST:
        for place, value in enumerate(data):
            key = f"{name}[{place}]" if len(data) > 1 else name
            yield from _schedulers(value, key, depth + 1)


def _logs(name: str, state: State) -> list[Log]:
    """The rates of each parameter group; only the last one where no more can be told."""
    counted = state if "last_epoch" in state else state["_schedulers"][0]  # of a ChainedScheduler
    expected = f"a whole number from 0 to {MOST:,}"
    steps = integer("last_epoch", counted["last_epoch"], 0, MOST, expected)
    base, kind, logs = _base(state), _kind(state), []
    table = _replayed(state, base, steps)
    for place, last in enumerate(map(float, state["_last_lr"])):
        title = name if len(base) == 1 else f"{name}, group {place}"
        log = Log(title, np.array([float(steps)]), np.array([last]), ended=False)
        log = replace(log, steps=steps, base=base[place])
        if table is None:
            log = log.noted(
                f"{title} keeps no more than its last rate, {last:.4g} after {steps:,} steps: "
                "for the rates before, give the log of the run"
            )
        elif not math.isclose(table[-1, place], last, rel_tol=1e-3, abs_tol=1e-6 * table.max()):
            log = log.noted(
                f"{title}: {kind} would be at {table[-1, place]:.4g} after {steps:,} steps and is "
                f"at {last:.4g}: something else set the rate, or its settings were changed"
            )
        else:
            used = table[: max(1, steps), place]  # the last one belongs to the next update
            log = replace(log, at=np.arange(float(len(used))), rates=used, horizon=_horizon(state))
            log = replace(log, floor=state.get("eta_min"))
            log = log.noted(f"{title}: {kind}, {steps:,} steps made; its rates are worked out")
        logs.append(log)
    return logs


def _base(state: State) -> list[float]:
    """The rates that the scheduler starts from."""
    if "_schedulers" in state and "base_lrs" not in state:
        return _base(state["_schedulers"][0])
    return [float(rate) for rate in state.get("base_lrs", state["_last_lr"])]


def _replayed(state: State, base: list[float], steps: int) -> Array | None:
    """float64[steps + 1, groups], the rates after 0, 1, ... steps; None where none can be told."""
    optimizer = SGD([{"params": [torch.zeros(1)], "lr": rate} for rate in base])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about a loop that trains nothing
        scheduler = _built(state, optimizer)
        if scheduler is None:
            return None
        rates = np.empty((steps + 1, len(base)))
        for step in range(steps + 1):
            if step:
                scheduler.step()
            rates[step] = [group["lr"] for group in optimizer.param_groups]
    return rates


def _kind(state: State) -> str:
    """The class of torch that saved a state, as far as its keys tell."""
    return next((name for name, keys in KINDS.items() if state.keys() >= {*keys}), "")


def _built(state: State, optimizer: Optimizer) -> LRScheduler | None:
    """The scheduler as it was before its first step; None where its state does not tell."""
    kind = _kind(state)
    if kind in PLAIN:
        made: LRScheduler = getattr(lr_scheduler, kind)(
            optimizer, **{key: state[key] for key in KINDS[kind]}
        )
        return made
    if kind == "MultiStepLR":
        steps = lr_scheduler.MultiStepLR(optimizer, [], state["gamma"])
        steps.milestones = Counter(state["milestones"])
        return steps
    if kind == "CyclicLR":
        size, rise = state["total_size"], state["step_ratio"]
        given: Any = {"step_size_up": size * rise, "step_size_down": size * (1 - rise)}
        given |= {"mode": state["mode"], "gamma": state["gamma"], "cycle_momentum": False}
        return lr_scheduler.CyclicLR(optimizer, _base(state), state["max_lrs"], **given)
    if kind in ("SequentialLR", "ChainedScheduler"):
        parts: list[Any] = [_built(part, optimizer) for part in state["_schedulers"]]
        if None in parts:
            return None
        if kind == "ChainedScheduler":
            return lr_scheduler.ChainedScheduler(parts)
        return lr_scheduler.SequentialLR(optimizer, parts, list(state["_milestones"]))
    return None  # OneCycleLR keeps its rates in the optimizer


def _horizon(state: State) -> int | None:
    """Steps that a scheduler was made for, where it was made for a number."""
    kind = _kind(state)
    if kind == "SequentialLR":
        last = _horizon(state["_schedulers"][-1])
        return None if last is None else int(state["_milestones"][-1]) + last
    rises = kind == "LinearLR" and state["end_factor"] >= state["start_factor"]
    return int(state[HORIZONS[kind]]) if kind in HORIZONS and not rises else None
