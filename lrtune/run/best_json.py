"""best.json in a run's folder: read for an export, a replay, the first trial of a search."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from lrtune.errors import InputError
from lrtune.export import replay
from lrtune.schedule import Schedule, load
from lrtune.verdict.best import BestSchedule
from lrtune.verdict.settings import RunSettings

SAME = ("study", "task", "horizon", "objective", "optimizer")  # what makes a task that one


def guessed(folder: Path, settings: RunSettings) -> dict[str, Any] | None:
    """The parameters of the schedule that ``lrtune guess`` left in a folder, for the same task."""
    path = folder / "best.json"
    try:
        best = BestSchedule.read(path) if path.is_file() else None
    except InputError:  # written by something else
        return None
    if best is None or best.guess is None:
        return None
    same = all(getattr(best, name) == getattr(settings, name) for name in SAME)
    return best.guess.params if same else None


def best_in(path: Path) -> Path:
    """The best.json of a run's folder; a file as it is.

    Raises:
        InputError: the folder has none.
    """
    if not path.is_dir():
        return path
    if not (path / "best.json").is_file():
        raise InputError(
            f"{path}: has no best.json: give the folder of a run that has a result, or a file"
        )
    return path / "best.json"


def read_best(path: Path) -> tuple[Schedule, BestSchedule | None]:
    """The schedule in a file, and what it was found with; None of a schedule alone.

    Raises:
        InputError: the file cannot be read, or is damaged.
    """
    schedule = load(path)
    alone = "schedule" not in json.loads(path.read_text(encoding="utf-8"))
    return schedule, None if alone else BestSchedule.read(path)


def replayed(path: Path) -> Schedule:
    """The rates of a best.json's own trial of a closed loop, as an open-loop schedule.

    Raises:
        InputError: the file is not in the folder of its run, or the loop is open.
    """
    schedule, best = read_best(path)
    if not schedule.closed_loop:
        raise InputError(
            f"{path}: {schedule.family} has the same rates in every run: leave out --replay"
        )
    stored = path.parent / "trials.parquet"
    if best is None or not stored.is_file():
        raise InputError(f"{stored}: not there: --replay needs the best.json in its run's folder")
    trials = pd.read_parquet(stored, columns=["number", "schedule", "step", "loss"])
    rows = trials[trials["number"] == (best.found.trial if best.found else math.nan)]
    if rows.empty or Schedule.from_json(rows.iloc[0]["schedule"]) != schedule:
        raise InputError(f"{stored}: has no trial of this schedule: not of the same run")
    row = rows.iloc[0]
    return replay(schedule, best.horizon, [*zip(row["step"].tolist(), row["loss"], strict=True)])
