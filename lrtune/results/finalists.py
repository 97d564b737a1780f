"""Who is trained again in the finals: each family's best configuration."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lrtune.results.early import figures_in
from lrtune.results.summary import curve_of, ranked
from lrtune.results.verdict import Finalist, plain
from lrtune.schedule import Schedule

ANCHORS = ("constant", "cosine")  # against which any other family is read
CEILING = "spline"  # may have any shape


def pick(trials: pd.DataFrame, racing: Sequence[str], objective: dict[str, str]) -> list[Finalist]:
    """The finalists of a search, best first.

    A family of which no trial was trained to its end sends the one with the best forecast, or the
    best last value; one whose every trial diverged or failed sends none.

    Args:
        trials: the search's table.
        racing: families that have not dropped out; the anchors and the ceiling come anyway.
        objective: name and direction.
    """
    direction = objective["direction"]
    whole = ranked(trials, direction)
    hopes = _hopes(trials, whole["family"].unique().tolist(), objective)
    best = pd.concat([whole.drop_duplicates("family"), hopes])
    found = []
    for _, trial in best.iterrows():
        family = str(trial["family"])
        role = "anchor" if family in ANCHORS else "ceiling"
        if family in racing:
            role = "racing"
        elif family not in (*ANCHORS, CEILING):
            continue
        value = float(trial["value"]) if np.isfinite(trial["value"]) else None
        schedule = Schedule.from_json(trial["schedule"])
        drawn = trial[trial.index.str.startswith(f"{family}.")].dropna()
        params = {str(name).removeprefix(f"{family}."): plain(one) for name, one in drawn.items()}
        found.append(Finalist(family, schedule, int(trial["number"]), value, role, params))
    return found


def _hopes(trials: pd.DataFrame, known: list[str], objective: dict[str, str]) -> pd.DataFrame:
    """Of each other family the pruned trial that promised most."""
    pruned = trials[(trials["state"] == "pruned") & ~trials["family"].isin(known)]
    hopes = [_hope(trial, objective["name"]) for _, trial in pruned.iterrows()]
    ascending = objective["direction"] == "minimize"
    order = pruned.assign(hope=hopes).sort_values("hope", ascending=ascending, kind="stable")
    return order.drop_duplicates("family").drop(columns="hope")


def _hope(trial: "pd.Series[Any]", metric: str) -> float:
    forecast = figures_in(trial["evidence"]).get("final")
    if forecast is not None:
        return float(forecast)
    curve = curve_of(trial, f"val_{metric}")
    return float(curve[-1]) if curve.size else float("nan")
