"""best.json: the winner, where it was found, and how sure it is."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrtune.errors import InputError
from lrtune.export import FoundOptimizer, replay
from lrtune.reports.first_screen import found_with
from lrtune.run.run_json import FORMAT
from lrtune.schedule import Schedule, load
from lrtune.verdict.recommendation import short
from lrtune.verdict.summary import beside, figures_in, recommended
from lrtune.verdict.verdict import Verdict

SAME = ("study", "task", "horizon", "objective", "optimizer")  # what makes a task that one
KEPT = (*SAME, "unit", "epochs", "judge", "versions")


def best_json(
    trials: pd.DataFrame, settings: Mapping[str, Any], verdict: Verdict | None
) -> dict[str, Any] | None:
    """The verdict's winner, or before one the best trial.

    Where no trial was trained to its end it is the one with the best forecast, which ``found`` then
    holds; None where there is none either.
    """
    if trials.empty:
        return None
    row = recommended(trials, settings["objective"]["direction"])
    if verdict is not None and verdict.decided:
        first = verdict.recommended
        schedule, resolved = first.schedule.to_dict(), first.resolved
        own = trials[trials["number"] == first.trial]
        row = None if own.empty else own.iloc[0]
    elif row is not None:
        schedule, resolved = json.loads(row["schedule"]), json.loads(row["resolved"])
    else:
        return None
    return {
        "format": FORMAT,
        "schedule": schedule,
        "resolved": resolved,
        "found": None if row is None else _found(row, settings["metrics"]),
        "verdict": None if verdict is None else short(verdict),
        **{name: settings[name] for name in KEPT},
    }


def _found(row: "pd.Series[Any]", metrics: Sequence[str]) -> dict[str, Any]:
    found = {"trial": int(row["number"]), "seed": int(row["seed"]), "split": "val"}
    if row["state"] != "complete":
        return found | {"metrics": None, "forecast": figures_in(row["evidence"])}
    seen = {name: beside(row, name) for name in metrics}
    return found | {"metrics": {n: v if np.isfinite(v) else None for n, v in seen.items()}}


def guessed(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The parameters of the schedule that ``lrtune guess`` left in a folder, for the same task."""
    path = folder / "best.json"
    if not path.is_file():
        return None
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        params: dict[str, Any] = kept["guess"]["params"]
        same = all(kept[name] == json.loads(json.dumps(settings[name])) for name in SAME)
    except (ValueError, KeyError, TypeError, RecursionError):  # no guess
        return None
    return params if same else None


def replayed(path: Path) -> Schedule:
    """The rates of a best.json's own trial of a closed loop, as an open-loop schedule.

    Raises:
        InputError: the file is not in the folder of its run, or the loop is open.
    """
    schedule, total = load(path), horizon_of(path)
    if not schedule.closed_loop:
        raise InputError(
            f"{path}: {schedule.family} has the same rates in every run: leave out --replay"
        )
    stored = path.parent / "trials.parquet"
    if not stored.is_file():
        raise InputError(f"{stored}: not there: --replay needs the best.json in its run's folder")
    number = json.loads(path.read_text(encoding="utf-8"))["found"]["trial"]
    trials = pd.read_parquet(stored, columns=["number", "schedule", "step", "loss"])
    rows = trials[trials["number"] == number]
    if rows.empty or Schedule.from_json(rows.iloc[0]["schedule"]) != schedule:
        raise InputError(f"{stored}: has no trial {number} of this schedule: not of the same run")
    row = rows.iloc[0]
    return replay(schedule, total, [*zip(row["step"].tolist(), row["loss"], strict=True)])


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


def found_optimizer(path: Path) -> FoundOptimizer | None:
    """The optimizer that a best.json was found with; None of a schedule alone.

    Raises:
        InputError: the file does not say all of its settings.
    """
    return FoundOptimizer.of(json.loads(path.read_text(encoding="utf-8")))


def training_of(path: Path) -> str:
    """Comments on the training that a best.json was found with; none of a schedule alone."""
    kept = json.loads(path.read_text(encoding="utf-8"))
    return found_with(kept, kept["found"]) if "optimizer" in kept else ""


def horizon_of(path: Path) -> int:
    """The horizon that a best.json was found with.

    Raises:
        InputError: a schedule alone, which fits any horizon.
    """
    horizon = json.loads(path.read_text(encoding="utf-8")).get("horizon")
    if type(horizon) is not int:
        raise InputError(f"{path}: says no horizon: give --total, the number of updates")
    return horizon
