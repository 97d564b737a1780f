"""The table work behind every figure and sentence: who is best, and how the peak rate matters.

`trials` is the search's table, one row per trial (`trials.parquet`). Only a complete trial has a
value that counts: another's last value comes from earlier in training and compares with nothing.
The best trial is the one whose schedule is expected to do best on another seed. It is seldom the
one with the best value of its own, which was also the luckiest. For the same reason, what is
believed of a schedule says which schedule of a family to train again in the finals, and which
families are worth it.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from lrtune.format import plural
from lrtune.schedule import Schedule
from lrtune.verdict.sequential import Array, Role
from lrtune.verdict.settings import (
    Document,
    LossFacts,
    Number,
    Objective,
    RunSettings,
    StoredSchedule,
)
from lrtune.verdict.tie_break import NEAR, simpler

PARTIAL = ("plateaued", "pruned")  # ended before the horizon, with a forecast or without
LOST = ("diverged", "failed")
ENDS = ("complete", *PARTIAL, *LOST)

# Against which any other family is read. Linear to zero (Bergsma 2025, arXiv 2502.15938) is one
# where it is likely or there is room for it: it must not take that of a likely winner.
ALWAYS = ("constant", "cosine")
BASELINES = (*ALWAYS, "linear")
LEAST = 0.02  # probability to be the best, of a family that is invited to the finals
FEWEST, MOST = 2, 6  # families that are invited
SEEDS = 6  # trainings of each there should be

PEAKS = 6  # trials with a value, for a parabola over the peak
DIFFERENT = 4  # peaks, by a hundredth: fewer do not hold a parabola
LEAST_SPREAD = 2.0  # factor between the lowest and the highest peak


def figures_in(cell: object) -> dict[str, Any]:
    """The figures in a cell of `evidence` or `audit`; none of an empty or damaged one.

    Example:
        >>> figures_in('{"update": 40}'), figures_in(None)
        ({'update': 40}, {})
    """
    try:
        figures = json.loads(cell) if isinstance(cell, str) else {}
    except ValueError:
        return {}
    return figures if isinstance(figures, dict) else {}


def forecasts(trials: pd.DataFrame) -> "pd.Series[float]":
    """What each trial of PARTIAL was forecast to end with; NaN of others and where nobody knows."""
    partial = trials["state"].isin(PARTIAL)
    cells = trials.get("evidence", pd.Series(None, trials.index, dtype=object)).where(partial)
    return cells.map(lambda cell: figures_in(cell).get("final")).astype(float)


def ranked(trials: pd.DataFrame, direction: str) -> pd.DataFrame:
    """The trials whose value counts, best first; equal ones in the order they were tried.

    Returns:
        These rows, with a column `score`, by which they are ordered: the final value expected of
        the trial's schedule, or its own value where nothing is expected.
    """
    counts = (trials["state"] == "complete") & np.isfinite(trials["value"].astype(float))
    return _by_score(trials[counts], direction)


def _by_score(trials: pd.DataFrame, direction: str) -> pd.DataFrame:
    value = trials["value"].astype(float)
    if "expected" in trials:
        expected = trials["expected"].astype(float)
        value = expected.where(np.isfinite(expected), value)
    rows = trials.assign(score=value).sort_values("number")
    return rows.sort_values("score", ascending=direction == "minimize", kind="stable")


def best(trials: pd.DataFrame, direction: str) -> "pd.Series[Any] | None":
    """The winning trial, or None when no trial has a value that counts.

    Example:
        >>> trials = pd.DataFrame({"number": [0, 1], "state": "complete", "value": [0.4, 0.3]})
        >>> int(best(trials, "minimize").number)
        1
    """
    rows = ranked(trials, direction)
    return None if rows.empty else rows.iloc[0]


def recommended(trials: pd.DataFrame, direction: str) -> "pd.Series[Any] | None":
    """The best trial, or where none was trained to its end the one with the best forecast.

    Its `state` says which of the two; of the second, `value` is the forecast. None of neither.
    """
    trial = best(trials, direction)
    if trial is not None:
        return trial
    finals = forecasts(trials)
    rows = trials.assign(value=finals)[np.isfinite(finals)].sort_values("number")
    rows = rows.sort_values("value", ascending=direction == "minimize", kind="stable")
    return None if rows.empty else rows.iloc[0]


def best_of_each(trials: pd.DataFrame, direction: str) -> pd.DataFrame:
    """The best trial of every family that has one, best family first."""
    return ranked(trials, direction).drop_duplicates("family")


def by_family(trials: pd.DataFrame, direction: str) -> pd.DataFrame:
    """One row per family, best first; families without a value last, by name.

    Returns:
        Columns `family`, `trials`, one count for each of ENDS, `best` (the score of the best
        trial), `median` of the values, `peak_lr` and `number` of the best trial, and `updates`
        spent.
    """
    families = trials.groupby("family", sort=True)
    counts = pd.crosstab(trials["family"], trials["state"]).reindex(columns=ENDS, fill_value=0)
    values = ranked(trials, direction).groupby("family")["value"]
    top = best_of_each(trials, direction).set_index("family")
    table = pd.DataFrame(
        {
            "trials": families.size(),
            **{end: counts[end] for end in ENDS},
            "best": top["score"],
            "median": values.median(),
            "peak_lr": top["peak_lr"],
            "number": top["number"].astype("Int64"),
            "updates": families["updates"].sum(),
        }
    )
    table = table.rename_axis("family").sort_index().reset_index()
    return table.sort_values(
        "best", ascending=direction == "minimize", kind="stable", na_position="last"
    ).reset_index(drop=True)


def by_end(trials: pd.DataFrame) -> pd.DataFrame:
    """What each way to end cost: columns `end`, `trials`, `updates`, `seconds`, in ENDS' order."""
    costs = trials.groupby("state")[["updates", "seconds"]].sum()
    table = costs.assign(trials=trials["state"].value_counts()).reindex(ENDS).fillna(0)
    table = table.astype({"trials": int, "updates": int}).rename_axis("end").reset_index()
    return table[["end", "trials", "updates", "seconds"]]


def by_host(trials: pd.DataFrame, finals: pd.DataFrame | None, run: RunSettings) -> pd.DataFrame:
    """What each host trained: columns `host`, `trials`, `finals`, `shared`, `lost`.

    A training that went on elsewhere counts for each of its hosts; `shared` are those of
    both kinds that another host trained a part of. `lost` is its last loss, None where it has none.
    """
    counts = {host: [0, 0, 0] for host in run.hosts}
    for kind, table in enumerate([trials] if finals is None else [trials, finals]):
        for hosts in table.get("hosts", ()):
            names = {*hosts} if isinstance(hosts, list | np.ndarray) else set[str]()
            for host in names:
                count = counts.setdefault(host, [0, 0, 0])
                count[kind] += 1
                count[2] += len(names) > 1
    lost = {loss.host: loss for loss in run.losses}
    rows = [(host, *count, lost.get(host)) for host, count in counts.items()]
    return pd.DataFrame(rows, columns=["host", "trials", "finals", "shared", "lost"])


def hosts_in_words(run: RunSettings) -> str:
    """How many hosts trained, and which were lost; empty where one process did."""
    if not run.hosts:
        return ""
    return "; ".join([plural(len(run.hosts), "host", "hosts"), *last_loss(run.losses)])


def last_loss(losses: Sequence[LossFacts]) -> list[str]:
    """The last host that was lost, and how many were before; nothing where none was."""
    before = f" ({plural(len(losses) - 1, 'loss', 'losses')} before)" if losses[1:] else ""
    return [f"{losses[-1]}{before}"] if losses else []


def reasons(trials: pd.DataFrame) -> pd.DataFrame:
    """Why trials diverged or failed: columns `end`, `reason`, `trials`, most frequent first."""
    bad = trials[trials["state"].isin(LOST)].fillna({"reason": ""})
    counts = bad.groupby(["state", "reason"]).size().reset_index(name="trials")
    counts = counts.rename(columns={"state": "end"})
    return counts.sort_values("trials", ascending=False, kind="stable", ignore_index=True)


def beside(trial: "pd.Series[Any]", metric: str) -> float:
    """A metric of the weights that are judged; of a trial without a value, of the last ones.

    Of a row of the search's table, or of the finals'; NaN where the metric was not recorded.
    """
    curve, at = curve_of(trial, f"val_{metric}"), trial.get("judged_at", np.nan)
    if not curve.size:
        return math.nan
    return float(curve[-1] if pd.isna(at) else curve[curve_of(trial, "step") == at][0])


def curve_of(trial: "pd.Series[Any]", column: str) -> Array:
    """A trial's list column as an array; empty when there is none."""
    values = trial.get(column)
    if not isinstance(values, (list, tuple, np.ndarray)):
        return np.empty(0)
    return np.asarray(values, dtype=np.float64)


def finals_of(finals: pd.DataFrame, schedule: Schedule, horizon: int) -> pd.DataFrame:
    """The finals of a schedule, one row per seed, of ``search.confirmation.read_finals``."""
    own = finals["schedule"] == schedule.to_json()
    return finals[own & (finals["horizon"] == horizon)].drop_duplicates("seed", keep="last")


class Finalist(Document):
    """A family's best configuration, as the search found it."""

    family: str  # its name; of the user's own schedules "yours", "yours 2" and so on
    schedule: StoredSchedule  # what is trained
    trial: int | None = None  # which of the search's it was; None where it was not tried as it is
    # Its validation score there; NaN where it was not trained to its end.
    searched: Number = math.nan
    role: Role = "leader"  # leader (may be the best), baseline or yours: why it is here

    @property
    def compared_as(self) -> Role:
        """What for: a baseline, found by the search or made for it, is of the task's settings."""
        plain = self.schedule.family in BASELINES and not self.schedule.settings
        return "baseline" if self.role == "leader" and plain else self.role

    def trained_as(self, schedule: Schedule) -> "Finalist":
        """With this schedule in place of its own, which was not tried unless it is the same."""
        if schedule == self.schedule:
            return self
        untried = {"schedule": schedule, "trial": None, "searched": math.nan}
        return self.model_copy(update=untried)


def finalists(trials: pd.DataFrame, objective: Objective) -> list[Finalist]:
    """One schedule of each family that may be the best, the most likely family first.

    It is the complete trial of which most is expected; of a family that has none, the trial that
    was ended early of which most is expected. A family whose every trial diverged or failed sends
    none.
    """
    sound = trials[~trials["state"].isin(LOST)]
    whole = ranked(sound, objective.direction)
    others = _by_score(sound.drop(whole.index), objective.direction)
    first = pd.concat([whole, others]).drop_duplicates("family").set_index("family", drop=False)
    chances = trials.groupby("family")["p_best"].sum().reindex(first.index)
    order = chances.sort_values(ascending=False, kind="stable")
    likely = max(FEWEST, min(MOST, int((order >= LEAST).sum())))
    return [_finalist(first.loc[family]) for family in order.index[:likely]]


def simplest_first(everyone: Sequence[Finalist], expected: Array) -> list[Finalist]:
    """The simplest of those expected to be about as good as the best, then the others as they are.

    ``expected``: how bad each will be, in standard deviations between seeds.
    """
    behind = {
        one.family: float(e) for one, e in zip(everyone, expected - expected.min(), strict=True)
    }
    best = min(behind, key=behind.__getitem__)
    knobs = {one.family: one.schedule.complexity for one in everyone}
    pick = next(iter(simpler(best, behind, knobs, NEAR)), best)
    return sorted(everyone, key=lambda one: one.family != pick)


def room_for(trainings: float, yours: int) -> int:
    """How many schedules so many trainings can compare, the user's own among them."""
    return max(2 + yours, int(trainings // SEEDS))


def _finalist(trial: "pd.Series[Any]") -> Finalist:
    return Finalist(
        family=str(trial["family"]),
        schedule=Schedule.from_json(trial["schedule"]),
        trial=int(trial["number"]),
        searched=float(trial["value"]),
    )


class LrSensitivity(Document):
    """How a family's score depends on its peak rate: a parabola over the logarithm of the peak."""

    family: str  # whose trials
    trials: int  # how many had a value, those that ended early with their forecast
    # Where the score is best; NaN where no optimum is seen within the trials.
    peak_lr: Number = math.nan
    # By which the peak may be off, either way, before the score is noticeably worse; no more
    # than was tried.
    factor: Number = math.nan
    factor_low: Number = math.nan  # what it is at least, with 95 % confidence
    why: str = ""  # why there is no optimum; empty where there is one


def lr_sensitivity(
    trials: pd.DataFrame, family: str, objective: Objective, effect: float
) -> LrSensitivity:
    """Fit one family; ``effect`` is how much worse is worse, in the metric's unit, above 0."""
    own = trials[trials["family"] == family]
    final = own["value"].where(own["state"] == "complete", forecasts(own)).to_numpy(float)
    known = np.isfinite(final)
    peaks, values = own["peak_lr"].to_numpy(float)[known], final[known]

    def unknown(why: str) -> LrSensitivity:
        return LrSensitivity(family=family, trials=len(peaks), why=why)

    if len(peaks) < PEAKS:
        return unknown(f"{len(peaks)} trials have a value: too few")
    if peaks.max() < LEAST_SPREAD * peaks.min():
        return unknown("all its peaks were about the same")
    different = len(np.unique(np.log(peaks).round(2)))
    if different < DIFFERENT:
        return unknown(f"{different} different peaks: too few")
    if objective.minimize and bool((values > 0).all()):
        # A loss far off must not outweigh those near the optimum.
        scores, reach = np.log(values), float(np.log1p(effect / values.min()))
    else:
        scores, reach = (values if objective.minimize else -values), effect
    x = np.log(peaks)
    centre = float(x.mean())
    parabola, covariance = np.polyfit(x - centre, scores, 2, cov=True)
    optimum = centre - parabola[1] / (2 * parabola[0]) if parabola[0] > 0 else np.inf
    if not x.min() <= optimum <= x.max():
        return unknown("no optimum within the peaks that were tried")
    steepest = parabola[0] + student.ppf(0.95, len(x) - 3) * math.sqrt(covariance[0, 0])
    peak = math.exp(optimum)
    # Beyond the peaks that were tried, nothing was seen.
    seen = max(peaks.max() / peak, peak / peaks.min())
    factor, least = (math.exp(math.sqrt(reach / bend)) for bend in (parabola[0], steepest))
    return LrSensitivity(
        family=family,
        trials=len(x),
        peak_lr=peak,
        factor=min(factor, seen),
        factor_low=min(least, seen),
    )
