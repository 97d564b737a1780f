"""Schedulers in checkpoints: their rates worked out again from what they saved."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from lrtune.doctor.log import MOST, Log, NoRates, several
from lrtune.doctor.native import last_rate, rebuilt
from lrtune.errors import InputError
from lrtune.schedule import Schedule

DEEPEST = 6  # dictionaries within dictionaries
Groups: TypeAlias = Sequence[Mapping[str, Any]]  # the parameter groups of an optimizer


def read_checkpoint(path: Path) -> list[Log]:
    """The schedulers in a file of torch.save, wherever they are in it."""
    import torch

    try:
        data = torch.load(path, weights_only=True, map_location="cpu")
    except OSError:
        raise
    except Exception as error:  # what its unpickler meets in bytes that are no pickle is anything
        first = str(error).split(". ")[0].split("\n")[0][:160]
        raise InputError(
            f"{path}: torch.load(weights_only=True) refuses it ({first}); doctor runs nobody's "
            "code: save scheduler.state_dict() alone to a file and give that"
        ) from error
    states = list(_states(data))
    if not states:
        keys = ", ".join(map(str, list(data)[:8])) if isinstance(data, Mapping) else type(data)
        raise NoRates(f"{path}: no state_dict of a scheduler in it: {keys}")
    optimizers = list(_groups(data))
    counted = _counted(data)
    logs: list[Log] = []
    for place, (name, state) in enumerate(states):
        # As many of the one as of the other: they are in one order.
        beside = optimizers[place] if len(optimizers) == len(states) else None
        made = _logs(str(path), name, state, optimizers, beside)
        logs += [replace(log, **counted) for log in made]
    return several(logs)


def is_state(data: object) -> bool:
    """Whether it is the state_dict of a scheduler, torch's or ours."""
    if not isinstance(data, Mapping):
        return False
    ours = {"schedule", "total", "update"} <= data.keys()
    return ours or ("last_epoch" in data and "_last_lr" in data)


def _states(data: object, name: str = "scheduler", depth: int = 0) -> Iterator[tuple[str, Any]]:
    if is_state(data):
        yield name, data
    elif depth < DEEPEST and isinstance(data, Mapping):
        for key, value in data.items():
            yield from _states(value, str(key), depth + 1)
    elif depth < DEEPEST and isinstance(data, list | tuple):
        for number, value in enumerate(data):
            yield from _states(value, f"{name}[{number}]" if len(data) > 1 else name, depth + 1)


def _groups(data: object, depth: int = 0) -> Iterator[Groups]:
    """The parameter groups of the optimizers: some rates are there alone."""
    if isinstance(data, Mapping):
        if isinstance(data.get("param_groups"), list):
            yield data["param_groups"]
        elif depth < DEEPEST:
            for value in data.values():
                yield from _groups(value, depth + 1)
    elif isinstance(data, list | tuple) and depth < DEEPEST:
        for value in data:
            yield from _groups(value, depth + 1)


def _counted(data: object) -> dict[str, Any]:
    """What a checkpoint says of the run besides: Lightning's count of updates and epochs."""
    if not isinstance(data, Mapping):
        return {}
    updates, epoch = data.get("global_step"), data.get("epoch")
    found: dict[str, Any] = {}
    if isinstance(updates, int) and updates > 0:
        found["updates"] = updates
    if isinstance(epoch, int) and epoch >= 0:
        found["epochs"] = float(epoch + 1)
    return found


def _own(state: Mapping[str, Any], optimizers: Sequence[Groups], beside: Groups | None) -> Groups:
    """The groups that began with the scheduler's first rates; of several such, those beside it."""
    first = state.get("base_lrs")
    began = [one for one in optimizers if [group.get("initial_lr") for group in one] == first]
    if len(began) != 1 and beside is not None:
        return beside
    return began[0] if began else ()


def _logs(
    where: str,
    name: str,
    state: Mapping[str, Any],
    optimizers: Sequence[Groups],
    beside: Groups | None,
) -> Iterator[Log]:
    try:
        if "schedule" in state:
            yield _ours(name, state)
            return
        steps = int(state["last_epoch"])
        if not 0 <= steps <= MOST:
            raise InputError(f"{where}: {name}: last_epoch={steps}: expected 0 to {MOST:,}")
        groups = _own(state, optimizers, beside)
        for number, last in enumerate(state["_last_lr"]):
            group = groups[number] if number < len(groups) else {}
            title = name if len(state["_last_lr"]) == 1 else f"{name}, group {number}"
            yield _torchs(title, state, number, float(last), group, steps)
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError,
            RuntimeError) as error:  # fmt: skip
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{where}: {name}: not a scheduler's state as torch saves it: {error!r}"
        ) from error


def _ours(name: str, state: Mapping[str, Any]) -> Log:
    schedule, total, update = Schedule.from_dict(state["schedule"]), state["total"], state["update"]
    if not 0 <= update <= MOST:
        raise ValueError(f"update={update}: expected 0 to {MOST:,}")
    if schedule.closed_loop:
        controller = schedule.controller(total, state["mode"])
        for at, metric in state["observed"]:
            controller.observe(at, metric)
        rates = controller.rates
    else:
        rates = schedule.rates(total)
    used = rates[: max(1, min(update, total))]
    note = f"{name}: {schedule}"
    horizon = None if schedule.closed_loop else total
    return Log(
        name, np.arange(len(used), dtype=float), used, ended=False, horizon=horizon, steps=update
    ).noted(note)


@np.errstate(all="ignore")  # a T_max of zero shows as rates that are not the last one
def _torchs(
    name: str,
    state: Mapping[str, Any],
    number: int,
    last: float,
    group: Mapping[str, Any],
    steps: int,
) -> Log:
    base = _base(state, number)
    found = rebuilt(state, number, base, group, np.arange(steps + 1, dtype=float))
    common: dict[str, Any] = {"ended": False, "steps": steps, "base": base}
    if found is None:
        return Log(name, np.array([float(steps)]), np.array([last]), **common).noted(
            f"{name} keeps no more than its last rate, {last:.4g} after {steps:,} steps: "
            "for the rates before, give the log of the run"
        )
    rates = found.rates
    if not np.isclose(last_rate(rates), last, rtol=1e-3, atol=1e-6 * float(np.max(np.abs(rates)))):
        note = (
            f"{name}: {found.kind} would be at {last_rate(rates):.4g} after {steps:,} steps and "
            f"is at {last:.4g}: something else set the rate as well, or its settings were changed"
        )
        return Log(name, np.array([float(steps)]), np.array([last]), **common).noted(note)
    used = rates[:-1] if steps else rates  # the last one belongs to the update that comes next
    log = Log(
        name,
        np.arange(len(used), dtype=float),
        used,
        horizon=found.horizon,
        floor=found.floor,
        **common,
    )
    return log.noted(f"{name}: {found.kind}, {steps:,} steps made; rates worked out from its state")


def _base(state: Mapping[str, Any], number: int) -> float:
    if "base_lrs" in state:
        return float(state["base_lrs"][number])
    if "_schedulers" in state:
        return _base(state["_schedulers"][0], number)
    return float(state["_last_lr"][number])
