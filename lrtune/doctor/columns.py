"""Rates in rows: CSV, JSON lines, and the trainer_state.json of Hugging Face."""

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lrtune.doctor.log import MOST, Log, NoRates, in_order, several
from lrtune.errors import InputError

# lr, lr-SGD/pg1, train/learning_rate, optim.lr, lr/group0, rate; not lr_loss or flr.
RATE = re.compile(r"(^|.*[/._ -])(lr|learning[ _-]?rate)s?([/.: -].*|_?\d+|_pg.*|_group.*)?", re.I)
# Lightning's monitor logs these too, under the name of the rate.
BESIDES = ("-momentum", "-weight_decay")
LARGEST = 256 * 2**20  # bytes of a JSON file, all of which is in memory at once
STEPS = ("trainer/global_step", "global_step", "step", "_step", "update", "iteration", "iter")
EPOCHS = ("trainer/epoch", "train/epoch", "epoch", "epochs")


def is_rate(name: str) -> bool:
    """Whether a column or a tag of this name holds learning rates.

    >>> [is_rate(name) for name in ("lr-SGD/pg1", "train/learning_rate")]
    [True, True]
    >>> [is_rate(name) for name in ("loss", "lr_loss", "lr-SGD-momentum")]
    [False, False, False]
    """
    if name.endswith(BESIDES):
        return False
    return name.lower() in ("rate", "rates") or RATE.fullmatch(name) is not None


def read_csv(path: Path) -> list[Log]:
    """A table with a line of names, such as Lightning's metrics.csv or an export of W&B."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            rows = csv.DictReader(file)
            if not any(is_rate(name) for name in rows.fieldnames or ()):
                raise _no_rates(path, "column", rows.fieldnames or ())
            return from_rows(str(path), rows)
        except csv.Error as error:
            raise InputError(f"{path}: not CSV: {error}") from error


def read_jsonl(path: Path) -> list[Log]:
    """One JSON object a line; a last line that was cut short is left out."""
    cut: list[str] = []

    def rows() -> Iterable[Mapping[str, Any]]:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as error:
                    if number > 1 and not line.endswith(b"\n"):
                        cut.append(f"line {number}, the last, was cut short and is left out")
                        return
                    raise InputError(f"{path}: line {number} is not JSON: {error}") from error
                if not isinstance(row, dict):
                    kind = type(row).__name__
                    raise InputError(f"{path}: line {number}: expected an object, got {kind}")
                yield row

    return [log.noted(*cut) for log in from_rows(str(path), rows())]


def from_rows(where: str, rows: Iterable[Mapping[str, Any]]) -> list[Log]:
    """A Log of each column of rates; rows without a rate are other metrics' rows."""
    found: dict[str, tuple[list[float], list[float], list[float]]] = {}
    names: dict[str, None] = {}
    for number, row in enumerate(rows):
        if number > 4 * MOST:
            raise InputError(f"{where}: more than {4 * MOST:,} rows: thin the log")
        names |= dict.fromkeys(str(name) for name in row)
        for name, value in row.items():
            if not isinstance(name, str) or value in (None, "") or not is_rate(name):
                continue
            steps, rates, epochs = found.setdefault(name, ([], [], []))
            step = _first(row, STEPS)
            steps.append(number if step is None else step)
            rates.append(_number(where, name, number, value))
            epoch = _first(row, EPOCHS)
            epochs.append(math.nan if epoch is None else epoch)
    if not found:
        raise _no_rates(where, "column", names)
    logs = []
    for name, (steps, rates, epochs) in found.items():
        if len(set(steps)) == 1 and len(steps) > 1:
            steps = [float(i) for i in range(len(steps))]
        at, values, notes = in_order(where, name, steps, rates)
        first = at[0] if at[0] == 1 else 0.0  # counted from one
        last = next((e for e in reversed(epochs) if math.isfinite(e)), None)
        whole = last is not None and float(last).is_integer()
        spans = None if last is None else last + 1 if whole else last
        logs.append(Log(name, at - first, values, epochs=spans, notes=notes))
    return several(logs)


def read_json(path: Path) -> list[Log]:
    """Hugging Face's trainer_state.json, or a list of rows, or columns by name."""
    size = path.stat().st_size
    if size > LARGEST:
        raise InputError(
            f"{path}: {size:,} bytes of JSON: at most {LARGEST:,} are read: thin the log, or write "
            "an object a line and name the file .jsonl"
        )
    text = path.read_text(encoding="utf-8")
    try:
        data = json.loads(text)
    except ValueError as error:
        if "\n{" in text.strip():
            return read_jsonl(path)
        raise InputError(f"{path}: not JSON (cut short?): {error}") from error
    if isinstance(data, dict) and isinstance(data.get("log_history"), list):
        return _trainer_state(path, data)
    if isinstance(data, list) and all(isinstance(row, dict) for row in data) and data:
        return from_rows(str(path), data)
    if isinstance(data, dict):
        columns = {k: v for k, v in data.items() if isinstance(v, list)}
        if any(is_rate(name) for name in columns):
            rows = zip(*columns.values(), strict=False)
            return from_rows(str(path), [dict(zip(columns, row, strict=True)) for row in rows])
        raise _no_rates(path, "key", data)
    raise NoRates(f"{path}: holds no rows with a learning rate")


def _trainer_state(path: Path, state: Mapping[str, Any]) -> list[Log]:
    rows = [row for row in state["log_history"] if isinstance(row, dict)]
    logs = from_rows(str(path), [row for row in rows if "learning_rate" in row] or rows)
    total, done = state.get("max_steps"), state.get("global_step")
    if not isinstance(total, int | float) or not 0 < total < math.inf:
        total = None
    read = []
    for log in logs:
        # transformers logs at update k, counted from one, the rate that this update used.
        shifted = log.at if log.at[0] == 0 else log.at - 1
        epoch = next((row.get("epoch") for row in reversed(rows) if row.get("epoch")), None)
        read.append(
            Log(
                log.name,
                shifted,
                log.rates,
                total=None if total is None else int(total),
                epochs=epoch,
                updates=done if isinstance(done, int) else None,
                notes=log.notes,
            )
        )
    return read


def _first(row: Mapping[str, Any], names: Iterable[str]) -> float | None:
    lower = {str(name).lower(): value for name, value in row.items()}
    for name in names:
        try:
            return float(lower[name])
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
    return None


def _number(where: str, name: str, number: int, value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{where}: row {number + 1}: {name}={str(value)[:40]!r}: not a number"
        ) from error


def _no_rates(where: object, what: str, names: Iterable[str]) -> NoRates:
    shown = ", ".join(list(names)[:8]) or "none"
    return NoRates(
        f"{where}: no {what} of learning rates (lr, learning_rate, lr-SGD, ...); it has {shown}"
    )
