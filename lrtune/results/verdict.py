"""The verdict: which schedule wins on a task, and how sure that is.

It is a function of what was found: the finals (whole trainings on fresh seeds, all families on the
same ones, judged on the test split) and, for what only the search knows, its trials.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from lrtune.files import plain
from lrtune.results.contest import contest
from lrtune.results.finalists import BASELINES
from lrtune.results.kept import FORMAT
from lrtune.results.outcome import Result, Standing
from lrtune.results.paired import Sample, interval, paired_p
from lrtune.results.plan import Finalist, Plan
from lrtune.results.quickest import quickest, target_of
from lrtune.results.response import response
from lrtune.results.summary import beside

NEAR = 0.25  # standard deviations between seeds: who is this close to the best mean is as good
WORSE = 2.0  # standard deviations between seeds: by how much a score must be worse to be noticed


def standing(
    finals: pd.DataFrame,
    finalists: Sequence[Finalist],
    objective: Mapping[str, Any],
    seeds: Sequence[int],
    plan: Plan,
) -> Result:
    """The contest of the families as it stands; its ``wanted`` says what to train next.

    Args:
        finals: see ``lrtune.search.final.read_finals``; of one horizon.
        finalists: who takes part.
        objective: name and direction.
        seeds: in their order; those that a finalist has not been trained on end its scores.
        plan: how many, and what does not matter.
    """
    own = {one.family: _own(finals, one, seeds) for one in finalists}
    return contest(
        {name: _scores(rows, objective["name"]) for name, rows in own.items()},
        minimize=objective["direction"] == "minimize",
        blocks={name: _blocks(rows) for name, rows in own.items()},
        first=plan.seeds,
        most=plan.max_seeds,
        indifference=plan.indifference,
    )


def _own(finals: pd.DataFrame, finalist: Finalist, seeds: Sequence[int]) -> pd.DataFrame:
    """Its finals in the order of the seeds, up to the first that is missing."""
    mine = finals[finals["schedule"] == finalist.schedule.to_json()]
    mine = mine.drop_duplicates("seed", keep="last").set_index("seed")
    done = [seed in mine.index for seed in seeds]
    known = list(seeds)[: done.index(False)] if False in done else list(seeds)
    return mine.loc[known]


def _scores(own: pd.DataFrame, metric: str) -> list[float]:
    name = f"final_{metric}"
    return own[name].astype(float).tolist() if name in own else [math.nan] * len(own)


def _blocks(own: pd.DataFrame) -> list[list[float]]:
    """Of each final the objective on the parts of the split; empty where that is not known."""
    cells = own["blocks"] if "blocks" in own else [None] * len(own)
    return [cell if isinstance(cell, list) else [] for cell in cells]


def verdict(
    trials: pd.DataFrame,
    finals: pd.DataFrame,
    finalists: Sequence[Finalist],
    run: Mapping[str, Any],
    seeds: Sequence[int],
    plan: Plan,
) -> dict[str, Any]:
    """Everything that can be said, as ``verdict.json`` holds it.

    Args:
        trials: the search's table.
        finals: all of one horizon.
        finalists: who took part.
        run: the run's settings.
        seeds: of the finals, in their order.
        plan: how it was to be reached.
    """
    objective = run["objective"]
    result = standing(finals, finalists, objective, seeds, plan)
    chosen = {one.family: one for one in finalists}
    own = {family: _own(finals, one, seeds) for family, one in chosen.items()}
    horizon = int(finals["horizon"].iloc[0]) if len(finals) else run["horizon"]
    rows = [
        _row(chosen[family], one, own[family], run, horizon)
        for family, one in result.standings.items()
    ]
    searched = set(trials["family"])
    kept = ("study", "task", "unit", "objective", "judge", "optimizer", "versions", "seed")
    target = target_of(plan.target, own, run)
    amount = _amount(result)
    answers: list[dict[str, Any]] = [
        asdict(response(trials, name, objective, amount)) if amount else {"family": name}
        for name in result.standings
    ]
    use = _recommended(result, chosen, {row["family"]: row.get("factor") for row in answers})
    found: dict[str, Any] = plain(
        {
            "format": FORMAT,
            **{name: run[name] for name in kept},
            "horizon": horizon,
            "searched_horizon": run["horizon"],
            "trials": len(trials),
            "split": "test" if run["task"]["test"] else "val",
            "plan": asdict(plan),
            "answer": {
                "place": _place(result),
                "families": result.tied,
                "recommended": use,
                "gains": [] if use is None else _gains(own, chosen, use, objective),
                "why": result.why,
                "seeds": result.seeds,
                "indifference": result.indifference,
                "needed": result.needed,
                "settling": result.settling,
            },
            "families": rows,
            "absent": _absent(trials, searched - set(chosen)),
            "quickest": quickest(own, target),
            "amount": amount,
            "response": answers,
            "trained": int(finals["updates"].sum()) if len(finals) else 0,
            "peaks": _interval_of_peaks(run),
        }
    )
    return found


def _recommended(
    result: Result, chosen: Mapping[str, Finalist], tolerance: Mapping[str, float | None]
) -> str | None:
    """Of a tie the simplest: fewest knobs, then the one whose peak may be off by the most.

    Whoever is further behind the best mean than NEAR is left out: that it is tied may be for want
    of seeds alone.
    """
    if not result.tied:
        return None
    sds = [result.standings[name].sd for name in result.tied]
    near = NEAR * float(np.median(sds)) if np.isfinite(sds).all() else 0.0
    best, *others = result.tied
    close = [best, *(name for name in others if result.standings[name].gap <= near)]

    def complexity(name: str) -> tuple[float, float, float]:
        schedule = chosen[name].schedule
        knobs = len(schedule.knobs) + bool(schedule.warmup)
        return knobs, -(tolerance.get(name) or 1.0), result.standings[name].gap

    return min(close, key=complexity)


def _gains(
    own: Mapping[str, pd.DataFrame],
    chosen: Mapping[str, Finalist],
    use: str,
    objective: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """What the recommended schedule is better by than each baseline, on the same seeds."""
    sign = 1.0 if objective["direction"] == "minimize" else -1.0
    samples = {
        name: Sample.of(_scores(rows, objective["name"]), _blocks(rows), sign)
        for name, rows in own.items()
    }
    found = []
    for name, one in chosen.items():
        if name == use or not (name in BASELINES or one.role == "yours"):
            continue
        both = min(len(samples[name]), len(samples[use]))
        apart = samples[name].first(both) - samples[use].first(both)
        if not both or not np.isfinite(apart.values).all():
            continue
        low, high = interval(apart)
        p = paired_p(apart) if both > 1 else math.nan
        what = f"your {one.schedule.family}" if one.role == "yours" else f"a tuned {name}"
        gain = {"over": name, "what": what, "gain": apart.mean, "low": low, "high": high, "p": p}
        found.append(gain)
    return found


def _place(result: Result) -> str:
    if result.why in ("lost", "more"):
        return {"lost": "none", "more": "unfinished"}[result.why]
    return "winner" if len(result.tied) == 1 else "tie"


def _row(
    finalist: Finalist, one: Standing, own: pd.DataFrame, run: Mapping[str, Any], horizon: int
) -> dict[str, Any]:
    """A family: what the search said of it, and what the finals say."""
    name = run["objective"]["name"]
    whole = own[own["state"] == "complete"]
    ends = [beside(row, name) for _, row in whole.iterrows()]
    measured = [m for m in run["metrics"] if m != name and f"final_{m}" in whole]
    others = {m: _mean(whole[f"final_{m}"]) for m in measured}
    return {
        "family": finalist.family,
        "role": finalist.role,
        "schedule": finalist.schedule.to_dict(),
        "resolved": finalist.schedule.resolve(horizon),
        "params": dict(finalist.params),
        "trial": finalist.trial,
        "searched": finalist.value,
        "validation": _mean(ends),
        "metrics": others,
        "reasons": own.loc[own["state"] != "complete", "reason"].unique().tolist()
        if len(own)
        else [],
        **asdict(one),
    }


def _mean(values: Any) -> float:
    seen = np.asarray(values, np.float64)
    return float(seen.mean()) if seen.size else math.nan


def _absent(trials: pd.DataFrame, names: set[str]) -> list[dict[str, Any]]:
    """Families that were searched and are not among the finalists, and why."""
    absent = []
    for name in sorted(names):
        states = trials.loc[trials["family"] == name, "state"]
        lost = len(states) and states.isin(("diverged", "failed")).all()
        absent.append({"family": name, "why": "diverged" if lost else "unlikely"})
    return absent


def _amount(result: Result) -> float | None:
    """What a score must be worse by to be noticed."""
    tied = [result.standings[name].sd for name in result.tied]
    known = [sd for sd in tied if math.isfinite(sd) and sd > 0]
    return WORSE * float(np.median(known)) if known else None


def _interval_of_peaks(run: Mapping[str, Any]) -> dict[str, Any]:
    """What was searched, and whether a range test said so."""
    test = run.get("range_test") or {}
    return {
        "searched": run["peak_lr"],
        "base_lr": test.get("base_lr"),
        "max_lr": test.get("max_lr"),
    }
