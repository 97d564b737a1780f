"""From a run's trials and finals to who takes part, and to the verdict; nothing is trained."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lrtune.notebook import Verdict
from lrtune.results.finalists import BASELINES, finalists
from lrtune.results.plan import Finalist, Plan
from lrtune.results.verdict import verdict
from lrtune.run import Run
from lrtune.schedule import Schedule
from lrtune.search.confirmation import final_seeds


def finalists_of(run: Run) -> list[Finalist]:
    """Who takes part, as the search stands: who may be the best, yours, and the baselines."""
    trials = run.trials()
    found = finalists(trials, run.settings["objective"])
    if not found:
        return []
    known = {one.family for one in found}
    missing = [name for name in BASELINES if name in run.space.families and name not in known]
    return [*found, *_yours(run), *(_baseline(run, trials, name) for name in missing)]


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


def judged(run: Run, plan: Plan, horizon: int, who: list[Finalist] | None = None) -> Verdict:
    """The verdict on the finals that there are; on those of today's finalists where None."""
    finals = run.finals()
    seeds = final_seeds(run.settings["seed"], plan.max_seeds)
    of_horizon = finals[finals["horizon"] == horizon]
    trials = run.trials()
    who = finalists_of(run) if who is None else who
    found = verdict(trials, of_horizon, who, run.settings, seeds, plan)
    return Verdict(found | {"earlier": _earlier(run.verdict(horizon), plan)})


def _earlier(before: Mapping[str, Any] | None, plan: Plan) -> list[int]:
    """At most how many seeds the plans had by which it was judged before: each had 5 % to err."""
    if before is None:
        return []
    known = set(before.get("earlier", []))
    if before["answer"]["place"] in ("winner", "tie"):
        known.add(before["plan"]["max_seeds"])
    return sorted(known - {plan.max_seeds})
