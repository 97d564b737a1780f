"""Fewest updates: which family reaches a target soonest, on the validation curves of the finals."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lrtune.errors import InputError
from lrtune.verdict.sequential import sequential_test
from lrtune.verdict.summary import beside

ANCHOR = "constant"  # the family whose end is the target where none was named

Finals = Mapping[str, pd.DataFrame]  # of each family its own


def target_of(
    asked: tuple[str, float] | None, own: Finals, run: Mapping[str, Any]
) -> dict[str, Any] | None:
    """What is to be reached: the metric, its value, and whose end that is.

    Args:
        asked: a metric's name and a value; where None, what ANCHOR reaches on every seed.
        own: the finals.
        run: the run's settings.

    Returns:
        None where nothing was asked and ANCHOR has no finals, or lost one.

    Raises:
        InputError: a metric that the run does not have.
    """
    if asked is not None:
        check_target(asked, list(run["metrics"]))
        return {"metric": run["metrics"][asked[0]], "value": asked[1], "from": None}
    anchor, objective = own.get(ANCHOR), run["objective"]
    if anchor is None or anchor.empty or (anchor["state"] != "complete").any():
        return None
    ends = [beside(row, objective["name"]) for _, row in anchor.iterrows()]
    worst = max(ends) if objective["direction"] == "minimize" else min(ends)
    return {"metric": dict(objective), "value": worst, "from": ANCHOR}


def check_target(asked: tuple[str, float], metrics: list[str]) -> None:
    """Refuse a metric that is not measured."""
    if asked[0] not in metrics:
        raise InputError(f"goal: metric {asked[0]!r}: one of {', '.join(metrics)}")


def quickest(own: Finals, target: dict[str, Any] | None) -> dict[str, Any] | None:
    """Updates to the target, the fewest first; those that missed it on a seed are out of it."""
    if target is None:
        return None
    name, minimize = target["metric"]["name"], target["metric"]["direction"] == "minimize"
    reached = {
        family: [_reached(row, name, target["value"], minimize) for _, row in rows.iterrows()]
        for family, rows in own.items()
        if len(rows)
    }
    if not reached:
        return None
    # One look at all seeds that everybody has: no seed was added for this question.
    seen = min(map(len, reached.values()))
    cut = {family: updates[:seen] for family, updates in reached.items()}
    means = {family: np.mean(updates) for family, updates in cut.items()}
    order = sorted(cut, key=lambda family: (not np.isfinite(means[family]), means[family]))
    found = sequential_test(
        {family: cut[family] for family in order},
        minimize=True,
        first=seen,
        trainings=seen * len(cut),
        over=True,
    )
    rows = [
        {
            "family": family,
            "place": one.place,
            "reached": one.seeds - one.lost,
            "seeds": one.seeds,
            "updates": one.mean,
            "low": one.low,
            "high": one.high,
            "p": one.p,
        }
        for family, one in found.standings.items()
    ]
    return {**target, "families": rows, "tied": found.tied}


def _reached(row: "pd.Series[Any]", metric: str, value: float, minimize: bool) -> float:
    if row["state"] != "complete":
        return math.nan
    curve = np.asarray(row.get(f"val_{metric}", ()), np.float64)
    there = curve <= value if minimize else curve >= value
    return float(row["step"][int(there.argmax())]) if there.any() else math.nan
