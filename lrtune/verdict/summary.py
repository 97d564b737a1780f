"""The table work behind every figure and sentence: who is best, family by family.

`trials` is the search's table, one row a trial (`trials.parquet`). Only a complete trial has a
value that counts: another's last value comes from earlier in training and compares with nothing.
The best trial is the one whose schedule is expected to do best on another seed. It is seldom the
one with the best value of its own, which was also the luckiest.
"""

import json
from typing import Any

import numpy as np
import pandas as pd

from lrtune.schedule import Schedule

PARTIAL = ("plateaued", "pruned")  # ended before the horizon, with a forecast or without
ENDS = ("complete", *PARTIAL, "diverged", "failed")


def figures_in(cell: object) -> dict[str, Any]:
    """The figures in a cell of `evidence` or `audit`; none of an empty or damaged one.

    Example:
        >>> figures_in('{"update": 40}'), figures_in(None)
        ({'update': 40}, {})
    """
    try:
        found = json.loads(cell) if isinstance(cell, str) else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def forecasts(trials: pd.DataFrame) -> "pd.Series[float]":
    """What each trial of PARTIAL was forecast to end with; NaN of others and where nobody knows."""
    partial = trials["state"].isin(PARTIAL)
    cells = trials.get("evidence", pd.Series(None, trials.index, dtype=object)).where(partial)
    return cells.map(lambda cell: figures_in(cell).get("final")).astype(float)


def ranked(trials: pd.DataFrame, direction: str) -> pd.DataFrame:
    """The trials whose value counts, best first; equal ones in the order they were tried.

    Returns:
        These rows, with a column `score`, by which they are ordered: the final value expected of
        the trial's schedule, or its own value where nothing is expected.
    """
    counts = (trials["state"] == "complete") & np.isfinite(trials["value"].astype(float))
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


def recommended(trials: pd.DataFrame, direction: str) -> "pd.Series[Any] | None":
    """The best trial, or where none was trained to its end the one with the best forecast.

    Its `state` says which of the two; of the second, `value` is the forecast.
    """
    row = best(trials, direction)
    if row is not None:
        return row
    finals = forecasts(trials)
    rows = trials.assign(value=finals)[np.isfinite(finals)].sort_values("number")
    rows = rows.sort_values("value", ascending=direction == "minimize", kind="stable")
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
    """A metric of the weights that are judged; of a trial without a value, of the last ones.

    Args:
        trial: a row of the search's table, or of the finals'.
        metric: its name; where it was not recorded, NaN is returned.
    """
    curve, at = curve_of(trial, f"val_{metric}"), trial.get("judged_at", np.nan)
    if not curve.size:
        return float("nan")
    return float(curve[-1] if pd.isna(at) else curve[curve_of(trial, "step") == at][0])


def curve_of(trial: "pd.Series[Any]", column: str) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """A trial's list column as an array; empty when there is none."""
    values = trial.get(column)
    if not isinstance(values, (list, tuple, np.ndarray)):
        return np.empty(0)
    return np.asarray(values, dtype=np.float64)


def finals_of(finals: pd.DataFrame, schedule: Schedule, horizon: int) -> pd.DataFrame:
    """The finals of a schedule, one row a seed.

    Args:
        finals: see ``lrtune.search.confirmation.read_finals``.
        schedule: a finalist's.
        horizon: the verdict's.
    """
    own = finals["schedule"] == schedule.to_json()
    return finals[own & (finals["horizon"] == horizon)].drop_duplicates("seed", keep="last")
