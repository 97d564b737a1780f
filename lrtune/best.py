"""best.json: the winner, where it was found, and how sure it is."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrtune.errors import InputError
from lrtune.results.answer import short
from lrtune.results.summary import beside, best
from lrtune.settings import FORMAT

KEPT = ("study", "task", "horizon", "unit", "epochs", "objective", "optimizer", "versions")


def best_json(
    trials: pd.DataFrame, settings: Mapping[str, Any], verdict: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """The verdict's winner, or before one the best trial; None where no trial has a value."""
    if trials.empty:
        return None
    row = best(trials, settings["objective"]["direction"])
    if verdict is not None and verdict["answer"]["place"] in ("winner", "tie"):
        row = trials[trials["number"] == verdict["families"][0]["trial"]].iloc[0]
    if row is None:
        return None
    seen = {name: beside(row, name) for name in settings["metrics"]}
    return {
        "format": FORMAT,
        "schedule": json.loads(row["schedule"]),
        "resolved": json.loads(row["resolved"]),
        "found": {
            "trial": int(row["number"]),
            "seed": int(row["seed"]),
            "split": "val",
            "metrics": {
                name: value if np.isfinite(value) else None for name, value in seen.items()
            },
        },
        "verdict": None if verdict is None else short(verdict),
        **{name: settings[name] for name in KEPT},
    }


def horizon_of(path: Path) -> int:
    """The horizon that a best.json was found with.

    Raises:
        InputError: a schedule alone, which fits any horizon.
    """
    horizon = json.loads(path.read_text(encoding="utf-8")).get("horizon")
    if type(horizon) is not int:
        raise InputError(f"{path}: says no horizon: give --total, the number of updates")
    return horizon
