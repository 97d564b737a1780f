"""Who is trained again in the finals: each family's best configuration, once more put to the test.

The best of many trials on one seed owes much to luck: on scikit-learn's digits the search's best
validation loss of 0.10 was 0.19 on fresh seeds (``bias`` in ``studies/results/digits-mlp.json``).
So each family's first few meet in qualifiers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from lrtune.files import plain
from lrtune.results.plan import Finalist
from lrtune.results.summary import PARTIAL, by_value, curve_of, forecasts, ranked
from lrtune.schedule import Schedule

ANCHORS = ("constant", "cosine")  # against which any other family is read
CEILING = "spline"  # may have any shape
QUALIFYING = 3  # configurations of a family that meet in the qualifiers
QUALIFYING_SEEDS = 3


def candidates(
    trials: pd.DataFrame, racing: Sequence[str], objective: Mapping[str, Any]
) -> list[Finalist]:
    """Up to QUALIFYING configurations of each family, the most promising families and ones first.

    A trial that was pruned or has plateaued counts by its forecast; without one, it comes last,
    by its last value. A family whose every trial diverged or failed sends none. Who has dropped out
    of the race, but has a more promising trial than some family still in it, is recalled: the race
    says who gets more trials.

    Args:
        trials: the search's table.
        racing: families that have not dropped out; the anchors and the ceiling come anyway.
        objective: name and direction.
    """
    order = _promising(trials, objective)
    families = list(order["family"].unique())
    last = max((families.index(one) for one in racing if one in families), default=-1)
    invited = [*families[: last + 1], *ANCHORS, CEILING]
    order = order[order["family"].isin(invited)].drop_duplicates("schedule")
    places = {family: place for place, family in enumerate(order["family"].unique())}
    chosen = order.groupby("family", sort=False).head(QUALIFYING)
    chosen = chosen.iloc[np.argsort(chosen["family"].map(places), kind="stable")]
    return [_finalist(trial, racing) for _, trial in chosen.iterrows()]


def qualified(
    candidates: Sequence[Finalist],
    qualifiers: pd.DataFrame,
    objective: Mapping[str, Any],
    seeds: Sequence[int],
) -> list[Finalist]:
    """Of each family the one that did best in the qualifiers, the next one as its reserve.

    What looked best in the search was also the luckiest there. A family with a single candidate,
    or whose qualifiers are not all done, sends the one that the search puts first, without reserve.
    None that was lost in the qualifiers is a reserve.

    Args:
        candidates: of all families.
        qualifiers: trainings on fresh seeds, judged on validation.
        objective: name and direction.
        seeds: that each candidate is to be trained on.
    """
    sign = 1 if objective["direction"] == "minimize" else -1
    found = []
    for family in dict.fromkeys(one.family for one in candidates):
        own = [one for one in candidates if one.family == family]
        means = [mean_of(one, qualifiers, objective, seeds) for one in own]
        if any(mean is None for mean in means):
            found.append(own[0])
            continue
        scores = [np.nan_to_num(sign * mean, nan=np.inf) for mean in means if mean is not None]
        order = np.argsort(scores, kind="stable")
        sound = [own[place] for place in order[1:] if np.isfinite(scores[place])]
        found.append(replace(own[order[0]], reserve=sound[0] if sound else None))
    return found


def mean_of(
    one: Finalist, qualifiers: pd.DataFrame, objective: Mapping[str, Any], seeds: Sequence[int]
) -> float | None:
    """Its mean over the seeds, NaN if one was lost; None where one is yet to be trained."""
    mine = qualifiers[qualifiers["schedule"] == one.schedule.to_json()]
    mine = mine[mine["seed"].isin(seeds)].drop_duplicates("seed")
    if len(mine) < len(seeds):
        return None
    name = f"final_{objective['name']}"
    return float(mine[name].mean(skipna=False)) if name in mine else float("nan")


def _finalist(trial: "pd.Series[Any]", racing: Sequence[str]) -> Finalist:
    family = str(trial["family"])
    named = {**dict.fromkeys(ANCHORS, "anchor"), CEILING: "ceiling"}
    role = "racing" if family in racing else named.get(family, "recalled")
    value = float(trial["value"]) if np.isfinite(trial["value"]) else None
    drawn = trial[trial.index.str.startswith(f"{family}.")].dropna()
    params = {str(name).removeprefix(f"{family}."): plain(one) for name, one in drawn.items()}
    schedule = Schedule.from_json(trial["schedule"])
    return Finalist(family, schedule, int(trial["number"]), value, role, params)


def _promising(trials: pd.DataFrame, objective: Mapping[str, Any]) -> pd.DataFrame:
    """The trials that had a value or would have, the best first; last those that only began."""
    direction, finals = objective["direction"], forecasts(trials)
    known = pd.concat([ranked(trials, direction), trials.assign(value=finals)[np.isfinite(finals)]])
    begun = trials[trials["state"].isin(PARTIAL) & ~np.isfinite(finals)]
    lasts = [_last(trial, objective["name"]) for _, trial in begun.iterrows()]
    order = [by_value(known, direction), by_value(begun.assign(value=lasts), direction)]
    return trials.loc[pd.concat(order).index]


def _last(trial: "pd.Series[Any]", metric: str) -> float:
    curve = curve_of(trial, f"val_{metric}")
    return float(curve[-1]) if curve.size else float("nan")
