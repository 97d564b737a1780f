"""Who is trained again in the finals: the families that may be the best, as the search believes.

The best value of many trials on one seed owes much to luck. What is believed of a schedule comes
from all trials together and leaves the luck of its seed out: so it says which schedule of a family
to train again, and which families are worth it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lrtune.files import plain
from lrtune.schedule import Schedule
from lrtune.verdict.plan import Finalist
from lrtune.verdict.summary import ranked, scores

BASELINES = ("constant", "cosine")  # against which any other family is read
LEAST = 0.02  # probability to be the best, of a family that is invited
FEWEST, MOST = 2, 6  # families that are invited
SEEDS = 6  # trainings of each there should be


def finalists(trials: pd.DataFrame, objective: Mapping[str, Any]) -> list[Finalist]:
    """One schedule of each family that may be the best.

    It is the complete trial of which most is expected; of a family that has none, the trial that
    was ended early of which most is expected. A family whose every trial diverged or failed sends
    none.

    Args:
        trials: the search's table.
        objective: name and direction.

    Returns:
        The family first that is most likely to be the best.
    """
    direction = objective["direction"]
    sound = trials[~trials["state"].isin(("diverged", "failed"))]
    whole = ranked(sound, direction)
    others = sound.drop(whole.index).assign(score=scores).sort_values("number")
    others = others.sort_values("score", ascending=direction == "minimize", kind="stable")
    first = pd.concat([whole, others]).drop_duplicates("family").set_index("family", drop=False)
    chances = trials.groupby("family")["p_best"].sum().reindex(first.index)
    order = chances.sort_values(ascending=False, kind="stable")
    likely = max(FEWEST, min(MOST, int((order >= LEAST).sum())))
    return [_finalist(first.loc[family]) for family in order.index[:likely]]


def room_for(trainings: float, yours: int) -> int:
    """How many schedules so many trainings can compare, the user's own among them."""
    return max(2 + yours, int(trainings // SEEDS))


def _finalist(trial: "pd.Series[Any]") -> Finalist:
    family = str(trial["family"])
    value = float(trial["value"]) if np.isfinite(trial["value"]) else None
    drawn = trial[trial.index.str.startswith(f"{family}.")].dropna()
    params = {str(name).removeprefix(f"{family}."): plain(one) for name, one in drawn.items()}
    schedule = Schedule.from_json(trial["schedule"])
    return Finalist(family, schedule, int(trial["number"]), value, "leader", params)
