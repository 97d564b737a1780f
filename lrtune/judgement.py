"""From a run's trials and finals to who takes part, and to the verdict; nothing is trained."""

import math
from collections.abc import Mapping
from typing import Any

from lrtune.notebook import Verdict
from lrtune.results.finalists import QUALIFYING_SEEDS, candidates, mean_of, qualified
from lrtune.results.plan import Finalist, Plan
from lrtune.results.verdict import verdict
from lrtune.run import Run
from lrtune.schedule import Schedule
from lrtune.search.finals import final_seeds, qualifying_seeds
from lrtune.search.history import racing
from lrtune.search.space import FAMILY, SPLINE, Space, as_spline


def finalists_of(run: Run) -> list[Finalist]:
    """Who takes part, as search and qualifiers stand."""
    objective = run.settings["objective"]
    return qualified(candidates_of(run), run.qualifiers(), objective, qualifying_of(run))


def candidates_of(run: Run) -> list[Finalist]:
    """The first few of each family, who meet in the qualifiers; and the spline most like the best.

    Without that one the free form would be a ceiling below which others may lie.
    """
    objective = run.settings["objective"]
    found = candidates(run.trials(), racing(run.study(), run.space), objective)
    splines = [one for one in found if one.family == SPLINE]
    named = [one for one in found if one.family != SPLINE and not one.schedule.closed_loop]
    if not (splines and named):
        return found
    like = _spline_like(named[0].schedule, splines[0].role, run.space)
    return found if like.schedule in [one.schedule for one in splines] else [*found, like]


def _spline_like(schedule: Schedule, role: str, space: Space) -> Finalist:
    drawn = as_spline(schedule, space.distributions(SPLINE))
    params = {name.removeprefix(f"{SPLINE}."): value for name, value in drawn.items()}
    return Finalist(SPLINE, space.schedule({FAMILY: SPLINE, **drawn}), None, None, role, params)


def qualifying_of(run: Run) -> list[int]:
    """The seeds of the qualifiers."""
    return qualifying_seeds(run.settings["seed"], QUALIFYING_SEEDS)


def judged(run: Run, plan: Plan, horizon: int, finalists: list[Finalist] | None = None) -> Verdict:
    """The verdict on the finals that there are; on those of today's finalists where None."""
    finals = run.finals()
    seeds = final_seeds(run.settings["seed"], plan.max_seeds)
    of_horizon = finals[finals["horizon"] == horizon]
    who = finalists_of(run) if finalists is None else finalists
    found = verdict(run.trials(), of_horizon, who, run.settings, seeds, plan)
    before = _earlier(run.verdict(horizon), plan)
    return Verdict(found | {"bias": _bias(run), "earlier": before})


def _earlier(before: Mapping[str, Any] | None, plan: Plan) -> list[int]:
    """At most how many seeds the plans had by which it was judged before: each had 5 % to err."""
    if before is None:
        return []
    known = set(before.get("earlier", []))
    if before["answer"]["place"] in ("winner", "tie"):
        known.add(before["plan"]["max_seeds"])
    return sorted(known - {plan.max_seeds})


def _bias(run: Run) -> dict[str, Any] | None:
    """The search's best trial, and what it came to in the qualifiers."""
    objective, seeds = run.settings["objective"], qualifying_of(run)
    known = [one for one in candidates_of(run) if one.value is not None]
    if not known:
        return None
    sign = 1 if objective["direction"] == "minimize" else -1
    first = min(known, key=lambda one: sign * (one.value or 0.0))
    again = mean_of(first, run.qualifiers(), objective, seeds)
    if again is None or not math.isfinite(again):
        return None
    return {
        "family": first.family,
        "trial": first.trial,
        "searched": first.value,
        "again": again,
        "seeds": len(seeds),
    }
