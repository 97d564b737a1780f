"""Who is trained again in the finals: the families that may be the best, as the search believes.

The best value of many trials on one seed owes much to luck. What is believed of a schedule comes
from all trials together and leaves the luck of its seed out: so it says which schedule of a family
to train again, and which families are worth it.
"""

import math
from typing import Any

import pandas as pd
from pydantic import Field

from lrtune.files import plain
from lrtune.schedule import Schedule
from lrtune.verdict.sequential import Role
from lrtune.verdict.settings import Document, Number, Objective, StoredSchedule
from lrtune.verdict.summary import ranked, scores

BASELINES = ("constant", "cosine")  # against which any other family is read
LEAST = 0.02  # probability to be the best, of a family that is invited
FEWEST, MOST = 2, 6  # families that are invited
SEEDS = 6  # trainings of each there should be


class Finalist(Document):
    """A family's best configuration, as the search found it.

    Attributes:
        family: its name; of the user's own schedules "yours", "yours 2" and so on.
        schedule: what is trained.
        trial: which of the search's it was; None where it was not tried there.
        searched: its validation score there; NaN where it was not trained to its end.
        role: leader (may be the best), baseline or yours: why it is here.
        params: the parameters that the search drew for it, without the family's prefix.
    """

    family: str
    schedule: StoredSchedule
    trial: int | None = None
    searched: Number = math.nan
    role: Role = "leader"
    params: dict[str, Any] = Field(default_factory=dict)


def finalists(trials: pd.DataFrame, objective: Objective) -> list[Finalist]:
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
    direction = objective.direction
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
    drawn = trial[trial.index.str.startswith(f"{family}.")].dropna()
    return Finalist(
        family=family,
        schedule=Schedule.from_json(trial["schedule"]),
        trial=int(trial["number"]),
        searched=float(trial["value"]),
        params={
            str(name).removeprefix(f"{family}."): plain(value) for name, value in drawn.items()
        },
    )
