"""Log: the rates that a training run used, read from its logs and checkpoints.

Logs are CSV, JSON, JSON lines or TensorBoard's events. Of a checkpoint's schedulers torch's own are
built again from their state and stepped once more.
"""

import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch.optim import SGD, Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from lrtune.errors import InputError, package
from lrtune.schedule.family import Array, integer

# lr, lr-SGD/pg1, train/learning_rate, optim.lr, lr/group0, rate; not lr_loss or flr.
RATE = re.compile(r"(^|.*[/._ -])(lr|learning[ _-]?rate)s?([/.: -].*|_?\d+|_pg.*|_group.*)?", re.I)
# Lightning's monitor logs these too, under the name of the rate.
OTHER = ("-momentum", "-weight_decay")
STEPS = ("trainer/global_step", "global_step", "step", "_step", "update", "iteration", "iter")
LARGEST = 256 * 2**20  # bytes of a log that is text: all of it is in memory at once
EVENTS = "*tfevents*"
TENSORBOARD = "tensorboard.backend.event_processing.event_accumulator"


@dataclass(frozen=True, slots=True)
class Log:
    """The rates of a run, or of one parameter group of it."""

    name: str  # the column, tag or scheduler that they are from
    at: Array  # float64[n], the updates that used them, increasing; 0 is the first of the run
    rates: Array  # float64[n]
    total: int | None = None  # updates of the whole run, where it is known
    ended: bool = True  # whether the last rate is the last of the run, as far as one can tell
    horizon: int | None = None  # what the scheduler itself says it was made for, in its own steps
    steps: int | None = None  # that the scheduler made, where that is known apart from the updates
    updates: int | None = None  # that the optimizer made when `steps` were counted
    base: float | None = None  # the rate that the scheduler starts from, where it says so
    floor: float | None = None  # the rate that it goes down to, where it says so
    notes: tuple[str, ...] = ()  # sentences about how it was read

    @property
    def gap(self) -> float:
        """Updates between two rates, usually."""
        return float(np.median(np.diff(self.at))) if len(self.at) > 1 else 1.0

    @property
    def end(self) -> float:
        """Updates of the run: as it is known, else as far as the rates go."""
        return float(self.total) if self.total else float(self.at[-1]) + self.gap

    @property
    def complete(self) -> bool:
        """Whether the rates reach the end of the run."""
        return self.ended and float(self.at[-1]) + 2 * self.gap >= self.end

    @property
    def zero(self) -> bool:
        """Whether no rate is other than zero, nor the one that the scheduler starts from."""
        return not self.rates.any() and not self.base

    def noted(self, *notes: str) -> "Log":
        """With sentences more."""
        return replace(self, notes=(*self.notes, *notes))


def log_of(where: object, name: str, steps: Sequence[float], rates: Sequence[float]) -> Log:
    """A Log of rows as they were written, the first of which may be counted as 1.

    A log that goes back was resumed: what comes later counts.
    """
    at, values = np.asarray(steps, dtype=float), np.asarray(rates, dtype=float)
    at, values = at[np.isfinite(at)], values[np.isfinite(at)]
    if not at.size:
        raise InputError(f"{where}: {name}: no rate with a step: nothing to look at")
    notes = []
    for place in np.flatnonzero(np.diff(at) < 0) + 1:
        if at[place] <= at[0] and place > 1:
            raise InputError(
                f"{where}: {name} begins again at step {at[place]:g} after step "
                f"{at[place - 1]:g}: two runs in one log; give each a log of its own"
            )
        notes.append(f"resumed: went back from step {at[place - 1]:g} to {at[place]:g}")
    # A row is kept if no later row has its step or one before it.
    kept = np.r_[at[:-1] < np.minimum.accumulate(at[::-1])[::-1][1:], True]
    at, values = at[kept], values[kept]
    return Log(name, at - (at[0] == 1), values, notes=tuple(notes[:3]))


def without_repeats(logs: Sequence[Log]) -> list[Log]:
    """One of those that differ by a factor, as the rates of parameter groups do.

    A group at zero is frozen, on purpose; where all are at zero, that is for a rule to say.
    """
    kept: list[tuple[Log, Array]] = []
    for log in [log for log in logs if not log.zero] or logs:
        size = float(np.max(np.abs(log.rates[np.isfinite(log.rates)]), initial=0.0)) or 1.0
        curve = np.stack([log.at, log.rates / size])
        if not any(
            curve.shape == like.shape and np.allclose(curve, like, 1e-9, 1e-6, equal_nan=True)
            for _, like in kept
        ):
            kept.append((log, curve))
    left = len(logs) - len(kept)
    note = (
        [f"{left} more groups have the same rates, but for a factor, or are frozen"] if left else []
    )
    return [log.noted(*note) for log, _ in kept]


def distinct(rates: Array) -> "np.ndarray[Any, np.dtype[np.intp]]":
    """Where runs of equal rates begin."""
    moved = np.abs(np.diff(rates)) > 1e-9 * np.max(np.abs(rates), initial=0.0)
    return np.concatenate([np.zeros(1, np.intp), np.flatnonzero(moved) + 1])


def stairs(log: Log) -> int:
    """Updates that each rate is kept for, where all are kept equally long; else 1.

    A scheduler that is stepped once per epoch makes such a log.
    """
    changes = log.at[1:][np.diff(log.rates) != 0]
    if log.gap > 1 or changes.size < 2:
        return 1
    lengths = np.diff(np.r_[log.at[0], changes])
    length = max(1, int(np.median(lengths)))
    # All changes at whole multiples: one that is missing is a rate that stayed where it was.
    even = np.all(changes % length == 0) and np.mean(lengths == length) > 0.7
    return length if even else 1


def by_stair(log: Log, length: int) -> Log:
    """One rate per stair, counted in stairs."""
    taken = log.at % length == 0
    total = log.total and round(log.total / length)
    return replace(log, at=log.at[taken] / length, rates=log.rates[taken], total=total)


def is_rate(name: str) -> bool:
    """Whether a column or a tag of this name holds learning rates.

    >>> [is_rate(name) for name in ("lr-SGD/pg1", "train/learning_rate")]
    [True, True]
    >>> [is_rate(name) for name in ("loss", "lr_loss", "lr-SGD-momentum")]
    [False, False, False]
    """
    if name.endswith(OTHER):
        return False
    return name.lower() in ("rate", "rates") or RATE.fullmatch(name) is not None


def read_csv(path: Path) -> list[Log]:
    """A table with a line of names, such as Lightning's metrics.csv or an export of W&B."""
    try:
        table = pd.read_csv(
            path, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig"
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{path}: not CSV: {' '.join(str(error).split())}") from error
    return _logs(path, table)


def read_json(path: Path) -> list[Log]:
    """Hugging Face's trainer_state.json, rows in a list or one per line, or lists by name."""
    text, by_line = path.read_text(encoding="utf-8"), path.suffix.lower() == ".jsonl"
    texts = [line for line in text.splitlines() if line.strip()] if by_line else [text]
    try:  # "NaN" as a word: a rate, and not a missing one
        data = [json.loads(each, parse_constant=str) for each in texts]
    except ValueError as error:
        raise InputError(f"{path}: not JSON (cut short?): {error}") from error
    whole = data if by_line else data[0]
    if not isinstance(whole, dict):
        rows = whole if isinstance(whole, list) else []
        return _logs(path, [row for row in rows if isinstance(row, dict)])
    if not isinstance(whole.get("log_history"), list):
        lists = {name: value for name, value in whole.items() if isinstance(value, list)}
        return _logs(path, pd.DataFrame({k: pd.Series(v, dtype=object) for k, v in lists.items()}))
    rows = [row for row in whole["log_history"] if isinstance(row, dict)]
    total, updates = (whole.get(key) for key in ("max_steps", "global_step"))
    return [
        # transformers logs at update k, counted from one, the rate that this update used.
        replace(
            log,
            at=log.at if log.at[0] == 0 else log.at - 1,
            total=total if isinstance(total, int) and total > 0 else None,
            updates=updates if isinstance(updates, int) else None,
        )
        for log in _logs(path, [row for row in rows if "learning_rate" in row] or rows)
    ]


def _logs(path: Path, rows: pd.DataFrame | list[dict[str, Any]]) -> list[Log]:
    """A Log of each column of rates; rows without a rate are other metrics' rows."""
    table = pd.DataFrame(rows).astype(object)
    steps = _steps(table)
    logs = []
    for name in filter(is_rate, map(str, table)):
        cells = table[name][table[name].notna() & (table[name] != "")]
        if cells.empty:
            continue
        try:
            rates = cells.astype(float)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{path}: {name}: {str(error)[:80]}") from error
        at = steps[cells.index]
        same = at.nunique() == 1  # a step that never counts
        logs.append(log_of(path, name, range(len(at)) if same else at.to_list(), rates.to_list()))
    if not logs:
        raise _no_rates(path, "column", map(str, table))
    return without_repeats(logs)


def _steps(table: pd.DataFrame) -> "pd.Series[float]":
    """In each row the first of the columns of steps in which there is a number, else its place."""
    steps = pd.Series(np.nan, index=table.index)
    for name in STEPS:
        for column in (column for column in table if str(column).lower() == name):
            steps = steps.fillna(pd.to_numeric(table[column], errors="coerce"))
    return steps.where(np.isfinite(steps)).fillna(pd.Series(table.index, dtype=float))


def _no_rates(path: Path, what: str, names: Iterable[str]) -> InputError:
    shown = ", ".join(list(names)[:8]) or "none"
    return InputError(
        f"{path}: no {what} of learning rates (lr, learning_rate, lr-SGD, ...); it has {shown}"
    )


def read_events(path: Path) -> list[Log]:
    """The scalars of one TensorBoard run whose tags name rates: a file, or a folder of several."""
    backend = package(TENSORBOARD, install="'lrtune[tensorboard]'")
    try:
        events = backend.EventAccumulator(str(path), {"scalars": 0}).Reload()  # 0: all of them
        tags = events.Tags()["scalars"]
        points = {tag: events.Scalars(tag) for tag in tags if is_rate(tag)}
    except Exception as error:  # tensorboard raises what its protocol buffers raise
        raise InputError(f"{path}: not events that TensorBoard reads: {error}") from error
    if not points:
        raise _no_rates(path, "tag", tags)
    return without_repeats([
        log_of(path, tag, [p.step for p in several], [p.value for p in several])
        for tag, several in points.items()
    ])  # fmt: skip


State: TypeAlias = Mapping[str, Any]
MOST = 5_000_000  # steps of a scheduler that are made again, at 3 µs each
DEEPEST = 6  # dictionaries within dictionaries

# torch's classes, told by the keys of their state: the first whose keys are all there.
KINDS: Mapping[str, tuple[str, ...]] = {
    "SequentialLR": ("_milestones", "_schedulers"),
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
    """The schedulers in a file of torch.save, wherever they are in it."""
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
            logs += _scheduler_logs(name, state)
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


def _scheduler_logs(name: str, state: State) -> list[Log]:
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
    """The scheduler as it was before its first step; None where its state does not tell.

    That of OneCycleLR does not: it keeps its rates in the optimizer.
    """
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
    if kind == "SequentialLR":
        parts: list[Any] = [_built(part, optimizer) for part in state["_schedulers"]]
        if None not in parts:
            return lr_scheduler.SequentialLR(optimizer, parts, list(state["_milestones"]))
    return None


def _horizon(state: State) -> int | None:
    """Steps that a scheduler was made for, where it was made for a number."""
    kind = _kind(state)
    if kind == "SequentialLR":
        last = _horizon(state["_schedulers"][-1])
        return None if last is None else int(state["_milestones"][-1]) + last
    rises = kind == "LinearLR" and state["end_factor"] >= state["start_factor"]
    return int(state[HORIZONS[kind]]) if kind in HORIZONS and not rises else None
