"""From a run's trials and finals to who takes part, and to the verdict; nothing is trained."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lrtune.reports.notebook import Verdict
from lrtune.run.folder import Run
from lrtune.schedule import Schedule
from lrtune.search.confirmation import final_seeds
from lrtune.verdict.finalists import BASELINES, finalists
from lrtune.verdict.plan import Finalist, Plan
from lrtune.verdict.verdict import verdict


def finalists_of(run: Run) -> list[Finalist]:
    """Who may take part as the search stands, in the order in which it matters.

    What the search recommends, the user's own, tuned baselines, and who else may be the best.
    """
    trials = run.trials()
    found = finalists(trials, run.settings["objective"])
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
        Finalist("yours" if number == 1 else f"yours {number}", one, None, None, "yours")
        for number, one in enumerate(schedules, 1)
    ]


def _baseline(run: Run, trials: pd.DataFrame, family: str) -> Finalist:
    schedule, params, trial = run.tuned(family)
    values = trials.loc[trials["number"] == trial, "value"].dropna()
    value = None if values.empty else float(values.iloc[0])
    return Finalist(family, schedule, trial, value, "baseline", params)


def judged(run: Run, plan: Plan, horizon: int, who: list[Finalist], over: bool = False) -> Verdict:
    """The verdict on the finals that there are, whether or not more are to come."""
    finals = run.finals()
    seeds = final_seeds(run.settings["seed"], plan.trainings or 0)
    of_horizon = finals[finals["horizon"] == horizon]
    trials = run.trials()
    found = verdict(trials, of_horizon, who, run.settings, seeds, plan, over)
    return Verdict(found | {"earlier": _earlier(run.verdict(horizon), plan)})


def _earlier(before: Mapping[str, Any] | None, plan: Plan) -> list[int]:
    """How many trainings the plans had by which it was judged before: each had 5 % to err."""
    if before is None:
        return []
    known = set(before.get("earlier", []))
    if before["answer"]["place"] in ("winner", "tie"):
        known.add(before["plan"]["trainings"])
    return sorted(known - {plan.trainings})
