"""Logs: CSV, JSON, JSON lines and TensorBoard's event files, and a folder with any of them."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrtune.doctor.checkpoint import read_checkpoint
from lrtune.doctor.log import Log, log_of, without_repeats
from lrtune.errors import InputError

# lr, lr-SGD/pg1, train/learning_rate, optim.lr, lr/group0, rate; not lr_loss or flr.
RATE = re.compile(r"(^|.*[/._ -])(lr|learning[ _-]?rate)s?([/.: -].*|_?\d+|_pg.*|_group.*)?", re.I)
# Lightning's monitor logs these too, under the name of the rate.
OTHER = ("-momentum", "-weight_decay")
STEPS = ("trainer/global_step", "global_step", "step", "_step", "update", "iteration", "iter")
LARGEST = 256 * 2**20  # bytes of a log that is text: all of it is in memory at once
EVENTS = "*tfevents*"


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


def read_jsonl(path: Path) -> list[Log]:
    """One JSON object per line; a last line that was cut short is left out."""
    rows, notes = [], []
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=str)
        except ValueError as error:
            if 1 < number == len(lines) and not line.endswith(b"\n"):
                notes.append(f"line {number}, the last, was cut short and is left out")
                break
            raise InputError(f"{path}: line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            kind = type(row).__name__
            raise InputError(f"{path}: line {number}: expected an object, got {kind}")
        rows.append(row)
    return [log.noted(*notes) for log in _logs(path, rows)]


def read_json(path: Path) -> list[Log]:
    """Hugging Face's trainer_state.json, a list of rows, or lists by name."""
    text = path.read_text(encoding="utf-8")
    try:
        data = json.loads(text, parse_constant=str)  # "NaN": a rate, and not a missing one
    except ValueError as error:
        raise InputError(f"{path}: not JSON (cut short?): {error}") from error
    if isinstance(data, dict) and isinstance(data.get("log_history"), list):
        return _trainer_state(path, data)
    if isinstance(data, dict):
        lists = {name: value for name, value in data.items() if isinstance(value, list)}
        return _logs(path, pd.DataFrame({k: pd.Series(v, dtype=object) for k, v in lists.items()}))
    rows = data if isinstance(data, list) else []
    return _logs(path, [row for row in rows if isinstance(row, dict)])


def _trainer_state(path: Path, state: dict[str, Any]) -> list[Log]:
    rows = [row for row in state["log_history"] if isinstance(row, dict)]
    total, updates = (state.get(key) for key in ("max_steps", "global_step"))
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
    if find_spec("tensorboard") is None:
        raise InputError("tensorboard: is not installed: pip install 'lrtune[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    try:
        events = EventAccumulator(str(path), {"scalars": 0}).Reload()  # 0: all of them
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


READERS: Mapping[str, Callable[[Path], list[Log]]] = {  # by the file's name
    "*.json": read_json,
    EVENTS: read_events,
    "*.csv": read_csv,
    "*.jsonl": read_jsonl,
    **dict.fromkeys(("*.pt", "*.pth", "*.ckpt", "*.bin", "*.tar"), read_checkpoint),
}


def read(path: Path) -> list[Log]:
    """What a training run left behind: a file, or a folder with one of the usual names.

    Raises:
        InputError: nothing there, nothing that is known, or no rates in it.
    """
    try:
        if path.is_dir():
            names = ("trainer_state.json", "metrics.csv", "scheduler.pt", "last.ckpt")
            known = [path / name for name in names if (path / name).is_file()]
            if not known and not any(path.glob(EVENTS)):
                raise InputError(f"{path}: none of {', '.join(names)}, {EVENTS} in it: give a file")
            return read(known[0]) if known else read_events(path)
        if not path.stat().st_size:
            raise InputError(f"{path}: is empty")
        for pattern, reader in READERS.items():
            if path.match(pattern):
                if reader is not read_checkpoint and path.stat().st_size > LARGEST:
                    raise InputError(f"{path}: at most {LARGEST:,} bytes are read: thin the log")
                return reader(path)
        raise InputError(
            f"{path}: expected a log (.csv, .json, .jsonl, TensorBoard's events) or a checkpoint "
            "(.pt, .pth, .ckpt, .bin, .tar)"
        )
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read: {reason}") from error
