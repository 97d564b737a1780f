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
from lrtune.verdict.finalists import BASELINES
from lrtune.verdict.kept import FORMAT
from lrtune.verdict.lr_sensitivity import response
from lrtune.verdict.plan import Finalist, Plan
from lrtune.verdict.sequential import ALPHA, FIRST, Result, Role, Standing, sequential_test
from lrtune.verdict.summary import beside
from lrtune.verdict.time_to_target import quickest, target_of

WORSE = 2.0  # standard deviations between seeds: by how much a score must be worse to be noticed


def standing(
    finals: pd.DataFrame,
    finalists: Sequence[Finalist],
    objective: Mapping[str, Any],
    seeds: Sequence[int],
    plan: Plan,
    over: bool = False,
) -> Result:
    """The test as it stands; its ``wanted`` says what to train next.

    Args:
        finals: see ``lrtune.search.confirmation.read_finals``; of one horizon.
        finalists: who takes part, what the search recommends first.
        objective: name and direction.
        seeds: in their order; those that a finalist has not been trained on end its scores.
        plan: how many, and what does not matter.
        over: whether no more is trained.
    """
    own = {one.family: _own(finals, one, seeds) for one in finalists}
    assert plan.trainings is not None
    return sequential_test(
        {name: _scores(rows, objective["name"]) for name, rows in own.items()},
        minimize=objective["direction"] == "minimize",
        trainings=plan.trainings,
        roles={one.family: _role(one) for one in finalists},
        blocks={name: _blocks(rows) for name, rows in own.items()},
        margin=plan.margin,
        first=max(2, min(FIRST, plan.trainings // max(1, len(finalists)))),
        width=plan.width,
        over=over,
        knobs={one.family: one.schedule.complexity for one in finalists},
    )


def _role(one: Finalist) -> Role:
    """What it is compared for."""
    return "baseline" if one.family in BASELINES else one.role


def _own(finals: pd.DataFrame, finalist: Finalist, seeds: Sequence[int]) -> pd.DataFrame:
    """Its finals in the order of the seeds, up to the first that is missing."""
    mine = finals[finals["schedule"] == finalist.schedule.to_json()]
    mine = mine.drop_duplicates("seed", keep="first").set_index("seed")
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
    over: bool = False,
) -> dict[str, Any]:
    """Everything that can be said, as ``verdict.json`` holds it.

    Args:
        trials: the search's table.
        finals: all of one horizon.
        finalists: who took part.
        run: the run's settings.
        seeds: of the finals, in their order.
        plan: how it was to be reached.
        over: whether no more is trained.
    """
    objective = run["objective"]
    result = standing(finals, finalists, objective, seeds, plan, over)
    chosen = {one.family: one for one in finalists}
    own = {family: _own(finals, one, seeds) for family, one in chosen.items()}
    horizon = int(finals["horizon"].iloc[0]) if len(finals) else run["horizon"]
    order = list(chosen)
    rows = [
        {"order": order.index(family), **_row(chosen[family], one, own[family], run, horizon)}
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
    seeds_of = {name: one.seeds for name, one in result.standings.items()}
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
                "recommended": result.recommended,
                "gains": _gains(result, chosen),
                "why": result.why,
                "seeds": max(seeds_of.values(), default=0),
                "margin": result.margin,
            },
            "families": rows,
            "absent": _absent(
                trials, searched - set(chosen), result.recommended, objective["direction"]
            ),
            "quickest": quickest(own, target),
            "amount": amount,
            "response": answers,
            "trained": int(finals["updates"].sum()) if len(finals) else 0,
            "peaks": _interval_of_peaks(run),
        }
    )
    return found


def _gains(result: Result, chosen: Mapping[str, Finalist]) -> list[dict[str, Any]]:
    """What the recommended schedule is better by than each baseline, on the same seeds."""
    found = []
    for name, one in result.standings.items():
        finalist = chosen[name]
        if name == result.recommended or one.place == "lost" or _role(finalist) == "leader":
            continue
        yours = finalist.role == "yours"
        found.append(
            {
                "over": name,
                "what": f"your {finalist.schedule.family}" if yours else f"a tuned {name}",
                "gain": one.gap,
                "low": one.gap_low,
                "high": one.gap_high,
                "p": one.p,
                "sure": one.gap > 0 and one.p < ALPHA,
            }
        )
    return sorted(found, key=lambda gain: not gain["over"].startswith("yours"))


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


def _absent(
    trials: pd.DataFrame, names: set[str], use: str | None, direction: str
) -> list[dict[str, Any]]:
    """Families that were searched and not compared, and what the search alone says of them.

    ``why`` is diverged, behind or close (to the recommended one, as far as is believed), or open.
    """
    sound = trials[~trials["state"].isin(("diverged", "failed"))]
    known = sound.reindex(columns=["family", "expected", "low", "high", "p_best"]).dropna()
    likely = known.sort_values("p_best", kind="stable").drop_duplicates("family", keep="last")
    rows = {str(row["family"]): row for _, row in likely.iterrows()}
    absent = []
    for name in sorted(names):
        if name not in set(sound["family"]):
            why = "diverged"
        elif use in rows and name in rows:
            why = _believed(rows[use], rows[name], direction)
        else:
            why = "open"
        absent.append({"family": name, "why": why})
    return absent


def _believed(use: "pd.Series[Any]", other: "pd.Series[Any]", direction: str) -> str:
    """Whether what is expected of the other is worse beyond doubt, or in doubt about the first."""
    worse = other["low"] > use["high"] if direction == "minimize" else other["high"] < use["low"]
    if worse:
        return "behind"
    return "close" if use["low"] <= other["expected"] <= use["high"] else "open"


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
