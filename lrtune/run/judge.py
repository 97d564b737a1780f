"""From a run's trials and finals to who takes part, and to the verdict; nothing is trained."""

import math

import pandas as pd

from lrtune.reports.notebook import Verdict
from lrtune.run.folder import Run
from lrtune.schedule import Schedule
from lrtune.search.confirmation import final_seeds
from lrtune.verdict.finalists import BASELINES, Finalist, finalists
from lrtune.verdict.settings import Objective
from lrtune.verdict.verdict import Plan, verdict


def finalists_of(run: Run) -> list[Finalist]:
    """Who may take part as the search stands, in the order in which it matters.

    What the search recommends, the user's own, tuned baselines, and who else may be the best.
    """
    trials = run.trials()
    found = finalists(trials, Objective(**run.settings["objective"]))
    if not found:
        return []
    known = {one.family for one in found}
    missing = [name for name in BASELINES if name in run.space.families and name not in known]
    pick, *leaders = [*found, *(_baseline(run, trials, name) for name in missing)]
    baselines = [one for one in leaders if one.family in BASELINES]
    return [pick, *_yours(run), *baselines, *(one for one in leaders if one not in baselines)]


def _yours(run: Run) -> list[Finalist]:
    """The user's own schedules."""
    schedules = [Schedule.from_dict(kept) for kept in run.settings.get("baselines", [])]
    return [
        Finalist(
            family="yours" if number == 1 else f"yours {number}", schedule=schedule, role="yours"
        )
        for number, schedule in enumerate(schedules, 1)
    ]


def _baseline(run: Run, trials: pd.DataFrame, family: str) -> Finalist:
    schedule, params, trial = run.tuned(family)
    values = trials.loc[trials["number"] == trial, "value"].dropna()
    return Finalist(
        family=family,
        schedule=schedule,
        trial=trial,
        searched=math.nan if values.empty else float(values.iloc[0]),
        role="baseline",
        params=params,
    )


def judged(run: Run, plan: Plan, horizon: int, who: list[Finalist], over: bool = False) -> Verdict:
    """The verdict on the finals that there are, whether or not more are to come."""
    finals = run.finals()
    seeds = final_seeds(run.settings["seed"], plan.trainings or 0)
    of_horizon = finals[finals["horizon"] == horizon]
    trials = run.trials()
    found = verdict(trials, of_horizon, who, run.settings, seeds, plan, over)
    return Verdict(**{**dict(found), "earlier": _earlier(run.verdict(horizon), plan)})


def _earlier(before: Verdict | None, plan: Plan) -> list[int]:
    """How many trainings the plans had by which it was judged before: each had 5 % to err."""
    if before is None:
        return []
    own = before.plan.trainings
    known = {*before.earlier, *([own] if before.decided and own is not None else [])}
    return sorted(known - {plan.trainings})
