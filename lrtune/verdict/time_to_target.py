"""Fewest updates: which family reaches a target soonest, on the validation curves of the finals."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lrtune.errors import InputError
from lrtune.verdict.sequential import Place, sequential_test
from lrtune.verdict.settings import Document, Number, Objective
from lrtune.verdict.summary import beside

BASELINE = "constant"  # the family whose end is the target where none was named

Finals = Mapping[str, pd.DataFrame]  # of each family its own


class Target(Document):
    """What is to be reached.

    Attributes:
        metric: of the validation curves.
        value: to be reached.
        baseline: the family that ends there; None where the value was asked for.
    """

    metric: Objective
    value: Number
    baseline: str | None = None


class FamilyTime(Document):
    """How soon a family reaches the target.

    Attributes:
        family: its name.
        place: winner, tied, behind, or lost: it missed the target on a seed.
        reached: on how many seeds it reached the target.
        seeds: of how many.
        updates: their mean over the seeds that reached it; NaN where none did.
        low: lower end of the mean's 95 % interval.
        high: upper end.
        p: see ``Standing``.
    """

    family: str
    place: Place
    reached: int
    seeds: int
    updates: Number
    low: Number
    high: Number
    p: Number


class TimeToTarget(Target):
    """Updates to the target by family, the fewest first, and who shares the first place."""

    families: list[FamilyTime]
    tied: list[str]


def target_of(
    asked: tuple[str, float] | None,
    own: Finals,
    objective: Objective,
    metrics: Mapping[str, Objective],
) -> Target | None:
    """What is to be reached.

    Args:
        asked: a metric's name and a value; where None, what BASELINE reaches on every seed.
        own: the finals.
        objective: of the search.
        metrics: all that are measured, by name.

    Returns:
        None where nothing was asked and BASELINE has no finals, or lost one.

    Raises:
        InputError: a metric that the run does not have.
    """
    if asked is not None:
        check_target(asked, list(metrics))
        return Target(metric=metrics[asked[0]], value=asked[1])
    baseline = own.get(BASELINE)
    if baseline is None or baseline.empty or (baseline["state"] != "complete").any():
        return None
    ends = [beside(row, objective.name) for _, row in baseline.iterrows()]
    worst = max(ends) if objective.minimize else min(ends)
    return Target(metric=objective, value=worst, baseline=BASELINE)


def check_target(asked: tuple[str, float], metrics: list[str]) -> None:
    """Refuse a metric that is not measured."""
    if asked[0] not in metrics:
        raise InputError(f"goal: metric {asked[0]!r}: one of {', '.join(metrics)}")


def time_to_target(own: Finals, target: Target | None) -> TimeToTarget | None:
    """Updates to the target, the fewest first; those that missed it on a seed are out of it."""
    if target is None:
        return None
    reached = {
        family: [_reached(row, target) for _, row in rows.iterrows()]
        for family, rows in own.items()
        if len(rows)
    }
    if not reached:
        return None
    # One look at all seeds that everybody has: no seed was added for this question.
    seen = min(map(len, reached.values()))
    cut = {family: updates[:seen] for family, updates in reached.items()}
    means = {family: np.mean(updates) for family, updates in cut.items()}
    order = sorted(cut, key=lambda family: (not np.isfinite(means[family]), means[family]))
    result = sequential_test(
        {family: cut[family] for family in order},
        minimize=True,
        first=seen,
        trainings=seen * len(cut),
        over=True,
    )
    families = [
        FamilyTime(
            family=family,
            place=one.place,
            reached=one.seeds - one.lost,
            seeds=one.seeds,
            updates=one.mean,
            low=one.low,
            high=one.high,
            p=one.p,
        )
        for family, one in result.standings.items()
    ]
    return TimeToTarget(**dict(target), families=families, tied=result.tied)


def _reached(row: "pd.Series[Any]", target: Target) -> float:
    if row["state"] != "complete":
        return math.nan
    curve = np.asarray(row.get(f"val_{target.metric.name}", ()), np.float64)
    there = curve <= target.value if target.metric.minimize else curve >= target.value
    return float(row["step"][int(there.argmax())]) if there.any() else math.nan
