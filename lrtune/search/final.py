"""Final: one whole training on a fresh seed, and the log of them."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from lrtune.errors import InputError, as_utf8
from lrtune.files import plain
from lrtune.schedule import Schedule
from lrtune.search.record import Curves


@dataclass(frozen=True, slots=True)
class Final:
    """One training that is over.

    Attributes:
        schedule: what it trained with.
        seed: of everything random that it met.
        horizon: updates of the whole training.
        state: complete, diverged or failed.
        reason: why.
        split: what ``metrics`` were measured on: test, or val where there is no test split.
        metrics: of the weights that are judged; empty unless complete.
        curves: on the validation split, on the way.
        updates: done.
        judged_at: the update whose weights were judged; None unless complete.
        seconds: of training and validation.
        blocks: the objective on the parts of the test split.
    """

    schedule: Schedule
    seed: int
    horizon: int
    state: str
    reason: str
    split: str
    metrics: dict[str, float]
    curves: Curves
    updates: int
    seconds: float
    judged_at: int | None = None
    blocks: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As a line of the log."""
        kept = {name: getattr(self, name) for name in self.__slots__}
        kept |= {"schedule": self.schedule.to_dict(), "curves": asdict(self.curves)}
        found: dict[str, Any] = plain(kept)
        return found


def append_final(path: Path, final: Final) -> None:
    """Add a line to the log of finals, whole and on the disk."""
    line = json.dumps(final.to_json()).encode() + b"\n"
    with path.open("ab+") as log:
        if log.tell():
            log.seek(-1, os.SEEK_END)
            line = line if log.read() == b"\n" else b"\n" + line  # the last one was torn
        log.write(line)
        log.flush()
        os.fsync(log.fileno())


def read_finals(path: Path) -> pd.DataFrame:
    """The log as a table, one row a training; a line that a kill tore is left out.

    Raises:
        InputError: a line is whole, but not one of ours.

    Returns:
        Columns ``family``, ``schedule`` (JSON), ``peak_lr``, ``seed``, ``horizon``, ``state``,
        ``reason``, ``split``, ``updates``, ``judged_at`` (NaN unless complete), ``seconds``,
        ``blocks``, ``step``, ``rate``, ``train_loss``, ``final_M`` of each metric (NaN unless
        complete) and ``val_M``, its curve on validation.
    """
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(_row(json.loads(line)))
        except json.JSONDecodeError:
            continue
        except (KeyError, TypeError, AttributeError, InputError) as error:
            raise InputError(
                f"{path}: damaged: remove it, and its trainings are repeated"
            ) from error
    return pd.DataFrame(rows, columns=None if rows else list(COLUMNS))


COLUMNS: Sequence[str] = ("family", "schedule", "peak_lr", "seed", "horizon", "state", "reason")
COLUMNS = (*COLUMNS, "split", "updates", "judged_at", "seconds", "blocks", "step", "rate")
COLUMNS = (*COLUMNS, "train_loss")


def _row(kept: dict[str, Any]) -> dict[str, Any]:
    schedule, curves = Schedule.from_dict(kept["schedule"]), kept["curves"]
    found = {name: kept[name] for name in COLUMNS if name in kept}
    found |= {"family": schedule.family, "peak_lr": schedule.peak_lr}
    found["reason"] = as_utf8(kept["reason"])
    found |= {"schedule": schedule.to_json(), "step": curves["step"], "rate": curves["rate"]}
    found["train_loss"] = _with_nan(curves["train_loss"])
    for name, curve in curves["metrics"].items():
        found[f"final_{name}"] = kept["metrics"].get(name, math.nan)
        found[f"val_{name}"] = _with_nan(curve)
    return found


def _with_nan(curve: list[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in curve]
