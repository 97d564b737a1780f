"""The table work behind every figure and sentence: who is best, family by family.

`trials` is the search's table, one row a trial (`trials.parquet`). Only a complete trial has a
value that counts: another's last value comes from earlier in training and compares with nothing.
The best trial is the one whose schedule is expected to do best on another seed. It is seldom the
one with the best value of its own, which was also the luckiest.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lrtune.schedule import Schedule

RANKED = ("complete",)
ENDS = ("complete", "stalled", "pruned", "diverged", "failed")


def ranked(trials: pd.DataFrame, direction: str) -> pd.DataFrame:
    """The trials whose value counts, best first; equal ones in the order they were tried.

    Returns:
        These rows, with a column `score`, by which they are ordered: the final value expected of
        the trial's schedule, or its own value where nothing is expected.
    """
    counts = trials["state"].isin(RANKED) & np.isfinite(trials["value"].astype(float))
    rows = trials[counts].assign(score=scores(trials)[counts]).sort_values("number")
    return rows.sort_values("score", ascending=direction == "minimize", kind="stable")


def scores(trials: pd.DataFrame) -> "pd.Series[float]":
    """The final value that is expected of each trial's schedule, or else its own value."""
    value = trials["value"].astype(float)
    if "expected" not in trials:
        return value
    expected = trials["expected"].astype(float)
    return expected.where(np.isfinite(expected), value)


def best(trials: pd.DataFrame, direction: str) -> "pd.Series[Any] | None":
    """The winning trial, or None when no trial has a value that counts.

    Example:
        >>> trials = pd.DataFrame({"number": [0, 1], "state": "complete", "value": [0.4, 0.3]})
        >>> int(best(trials, "minimize").number)
        1
    """
    rows = ranked(trials, direction)
    return None if rows.empty else rows.iloc[0]


def best_of_each(trials: pd.DataFrame, direction: str) -> pd.DataFrame:
    """The best trial of every family that has one, best family first."""
    return ranked(trials, direction).drop_duplicates("family")


def by_family(trials: pd.DataFrame, direction: str) -> pd.DataFrame:
    """One row a family, best first; families without a value last, by name.

    Returns:
        Columns `family`, `trials`, one count for each of ENDS, `best` (the score of the best
        trial), `median`, `q1`, `q3` (the quartiles of the values, q1 ≤ q3), `peak_lr` and `number`
        of the best trial, and `updates` spent.
    """
    families = trials.groupby("family", sort=True)
    counts = pd.crosstab(trials["family"], trials["state"]).reindex(columns=ENDS, fill_value=0)
    rows = ranked(trials, direction)
    values = rows.groupby("family")["value"]
    top = best_of_each(trials, direction).set_index("family")
    table = pd.DataFrame(
        {
            "trials": families.size(),
            **{end: counts[end] for end in ENDS},
            "best": top["score"],
            "median": values.median(),
            "q1": values.quantile(0.25),
            "q3": values.quantile(0.75),
            "peak_lr": top["peak_lr"],
            "number": top["number"].astype("Int64"),
            "updates": families["updates"].sum(),
        }
    )
    table = table.rename_axis("family").sort_index().reset_index()
    return table.sort_values(
        "best", ascending=direction == "minimize", kind="stable", na_position="last"
    ).reset_index(drop=True)


def by_end(trials: pd.DataFrame) -> pd.DataFrame:
    """What each way to end cost: columns `end`, `trials`, `updates`, `seconds`, in ENDS' order."""
    costs = trials.groupby("state")[["updates", "seconds"]].sum()
    table = costs.assign(trials=trials["state"].value_counts()).reindex(ENDS).fillna(0)
    table = table.astype({"trials": int, "updates": int}).rename_axis("end").reset_index()
    return table[["end", "trials", "updates", "seconds"]]


def reasons(trials: pd.DataFrame) -> pd.DataFrame:
    """Why trials diverged or failed: columns `end`, `reason`, `trials`, most frequent first."""
    bad = trials[trials["state"].isin(("diverged", "failed"))].fillna({"reason": ""})
    counts = bad.groupby(["state", "reason"]).size().reset_index(name="trials")
    counts = counts.rename(columns={"state": "end"})
    return counts.sort_values("trials", ascending=False, kind="stable", ignore_index=True)


def beside(trial: "pd.Series[Any]", metric: str) -> float:
    """A metric at the trial's last validation, which gave it its value; NaN if not recorded."""
    curve = curve_of(trial, f"val_{metric}")
    return float(curve[-1]) if curve.size else float("nan")


def curve_of(trial: "pd.Series[Any]", column: str) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """A trial's list column as an array; empty when there is none."""
    values = trial.get(column)
    if not isinstance(values, (list, tuple, np.ndarray)):
        return np.empty(0)
    return np.asarray(values, dtype=np.float64)


def finals_of(finals: pd.DataFrame, row: Mapping[str, Any], horizon: int) -> pd.DataFrame:
    """A finalist's finals, one row a seed.

    Args:
        finals: see ``lrtune.search.final.read_finals``.
        row: its own of the verdict's ``families``.
        horizon: the verdict's.
    """
    own = finals["schedule"] == Schedule.from_dict(row["schedule"]).to_json()
    return finals[own & (finals["horizon"] == horizon)].drop_duplicates("seed", keep="last")
