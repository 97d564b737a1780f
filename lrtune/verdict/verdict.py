"""The verdict: which schedule wins on a task, and how sure that is.

It is a function of what was found: the finals (whole trainings on fresh seeds, all families on the
same ones, judged on the test split) and, for what only the search knows, its trials.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import BeforeValidator, Field

from lrtune.errors import InputError
from lrtune.verdict.sequential import (
    ALPHA,
    FIRST,
    Result,
    Standing,
    Why,
    sequential_test,
)
from lrtune.verdict.settings import (
    Document,
    File,
    Judge,
    Number,
    Objective,
    OptimizerFacts,
    RunSettings,
    TaskFacts,
)
from lrtune.verdict.summary import (
    LOST,
    Finalist,
    LrSensitivity,
    beside,
    lr_sensitivity,
)

WORSE = 2.0  # standard deviations between seeds: by how much a score must be worse to be noticed


@dataclass(frozen=True, slots=True)
class Plan:
    """How a verdict is reached.

    Attributes:
        trainings: of all schedules together, at most; where None, what the budget leaves.
        margin: a difference that does not matter, in the objective's unit; where None, a tenth of
            the standard deviation between seeds.
        width: trainings of a round at least: as many as run side by side.
    """

    trainings: int | None = None
    margin: float | None = None
    width: int = 1

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.margin is not None and not 0 <= self.margin < math.inf:
            raise InputError(f"margin={self.margin!r}: 0 or more, in the metric's unit")


class Gain(Document):
    """What the recommended schedule is better by than a baseline, on the same seeds."""

    over: str  # the baseline's name among the families
    what: str  # the baseline, for a person
    gain: Number  # in the metric's unit; negative where the recommended one is worse
    low: Number  # lower end of its 95 % interval; NaN with fewer than two seeds
    high: Number  # upper end
    p: Number  # see ``Standing``
    sure: bool  # whether the gain is shown


class Answer(Document):
    """What comes out of the comparison."""

    # Winner (one), tie (several that cannot be told apart), none (all lost seeds), or
    # unfinished (more seeds are to come).
    place: Literal["winner", "tie", "none", "unfinished"]
    families: list[str]  # the recommended one, and those that cannot be told apart from it
    recommended: str | None  # which to use; None where nothing has a score on every seed
    gains: list[Gain]  # over each baseline, the user's own first
    why: Why  # see ``Result``
    seeds: int  # of the family that has the most
    margin: Number  # a difference that does not matter, in the metric's unit


class FamilyResult(Finalist, Standing):
    """A finalist, and how it did."""

    order: int = 0  # its place among the finalists when they were compared
    resolved: dict[str, Any]  # the schedule at the horizon, in the field's own terms
    validation: Number  # mean of the finals' scores on validation; NaN where none is complete
    metrics: dict[str, Number]  # mean of each other metric, on the split that is judged
    reasons: list[str]  # why trainings were lost


class Absent(Document):
    """A family that was searched and not compared, and what the search alone says of it.

    ``why`` is diverged (no sound trial), behind or close (to the recommended one, as far as is
    believed), or open.
    """

    family: str
    why: Literal["diverged", "behind", "close", "open"]


class Verdict(File):
    """``verdict.json``: everything that can be said of a task at one horizon."""

    WHAT: ClassVar[str] = "a verdict"
    FORMAT: ClassVar[int] = 3

    format: int = FORMAT
    # The search that it rests on; also ``task``, ``objective``, ``judge`` (which weights of a
    # training count), ``optimizer``, ``versions`` and ``seed`` are the search's.
    study: str
    task: TaskFacts
    objective: Objective
    judge: Judge
    optimizer: OptimizerFacts
    versions: dict[str, str]
    seed: int
    horizon: int  # updates of each final
    trials: int  # of the search, when it was judged
    split: Literal["test", "val"]  # on which it was judged
    # How it was to be reached.
    plan: Annotated[Plan, BeforeValidator(lambda v: Plan(**v) if isinstance(v, dict) else v)]
    answer: Answer  # what comes out
    # The finalists, the recommended one first, then by gap; those that lost seeds last.
    families: list[FamilyResult]
    absent: list[Absent]  # families that were searched and not compared
    minimum_effect: Number  # how much worse a score must be to be noticed; NaN where nobody knows
    lr_sensitivity: list[LrSensitivity]  # of each finalist; empty without a minimum effect
    trained: int  # updates of all finals
    # Trainings that the plans had by which it was judged before.
    earlier: list[int] = Field(default_factory=list)

    @property
    def decided(self) -> bool:
        """Whether it names a winner, or several that cannot be told apart."""
        return self.answer.place in ("winner", "tie")

    @property
    def recommended(self) -> FamilyResult:
        """The family to use; there is one where it is ``decided``."""
        return next(row for row in self.families if row.family == self.answer.recommended)

    @property
    def finalists(self) -> list[Finalist]:
        """Who took part, in the order in which they were compared."""
        names = Finalist.model_fields
        rows = sorted(self.families, key=lambda row: row.order)
        return [Finalist(**{name: getattr(row, name) for name in names}) for row in rows]


def standing(
    finals: pd.DataFrame,  # see ``lrtune.search.confirmation.read_finals``; of one horizon
    finalists: Sequence[Finalist],  # what the search recommends first
    objective: Objective,
    seeds: Sequence[int],  # in their order; the first without a training ends a finalist's scores
    plan: Plan,
    over: bool = False,  # whether no more is trained
) -> Result:
    """The test as it stands; its ``wanted`` says what to train next."""
    own = {one.family: _own(finals, one, seeds) for one in finalists}
    assert plan.trainings is not None
    return sequential_test(
        {name: _scores(rows, objective.name) for name, rows in own.items()},
        minimize=objective.minimize,
        trainings=plan.trainings,
        roles={one.family: one.compared_as for one in finalists},
        blocks={name: _blocks(rows) for name, rows in own.items()},
        margin=plan.margin,
        first=max(2, min(FIRST, plan.trainings // max(1, len(finalists)))),
        width=plan.width,
        over=over,
        knobs={one.family: one.schedule.complexity for one in finalists},
    )


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
    run: RunSettings,
    seeds: Sequence[int],
    plan: Plan,
    over: bool = False,
) -> Verdict:
    """Everything that can be said; ``trials`` is the search's table, the rest as in standing."""
    objective, task = run.objective, run.task
    result = standing(finals, finalists, objective, seeds, plan, over)
    chosen = {one.family: one for one in finalists}
    own = {family: _own(finals, one, seeds) for family, one in chosen.items()}
    horizon = int(finals["horizon"].iloc[0]) if len(finals) else run.horizon
    order = list(chosen)
    others = [name for name in run.metrics if name != objective.name]
    tied = [result.standings[name].sd for name in result.tied]
    spread = [sd for sd in tied if math.isfinite(sd) and sd > 0]
    effect = WORSE * float(np.median(spread)) if spread else math.nan
    return Verdict(
        study=run.study,
        task=task,
        objective=objective,
        judge=run.judge,
        optimizer=run.optimizer,
        versions=run.versions,
        seed=run.seed,
        horizon=horizon,
        trials=len(trials),
        split="test" if task.test else "val",
        plan=plan,
        answer=Answer(
            place=_place(result),
            families=result.tied,
            recommended=result.recommended,
            gains=_gains(result, chosen),
            why=result.why,
            seeds=max((one.seeds for one in result.standings.values()), default=0),
            margin=result.margin,
        ),
        families=[
            FamilyResult(
                **dict(chosen[family]),
                order=order.index(family),
                resolved=chosen[family].schedule.resolve(horizon),
                **_measured(own[family], objective.name, others),
                **dict(one),
            )
            for family, one in result.standings.items()
        ],
        absent=_absent(trials, set(trials["family"]) - set(chosen), result.recommended, objective),
        minimum_effect=effect,
        lr_sensitivity=[
            lr_sensitivity(trials, family, objective, effect)
            for family in result.standings
            if spread
        ],
        trained=int(finals["updates"].sum()) if len(finals) else 0,
    )


def _place(result: Result) -> Literal["winner", "tie", "none", "unfinished"]:
    if result.why == "lost":
        return "none"
    if result.why == "more":
        return "unfinished"
    return "winner" if len(result.tied) == 1 else "tie"


def _gains(result: Result, chosen: Mapping[str, Finalist]) -> list[Gain]:
    """What the recommended schedule is better by than each baseline."""
    gains = []
    tuned = any(finalist.schedule.settings for finalist in chosen.values())
    settings = " with the task's own settings" if tuned else ""
    for name, one in result.standings.items():
        finalist = chosen[name]
        if name == result.recommended or one.place == "lost" or finalist.compared_as == "leader":
            continue
        mine, family = finalist.role == "yours", finalist.schedule.family
        gain = Gain(
            over=name,
            what=f"your {family}" if mine else f"a tuned {family}{settings}",
            gain=one.gap,
            low=one.gap_low,
            high=one.gap_high,
            p=one.p,
            sure=one.gap > 0 and one.p < ALPHA,
        )
        gains.append(gain)
    return sorted(gains, key=lambda gain: not gain.over.startswith("yours"))


def _measured(own: pd.DataFrame, objective: str, others: Sequence[str]) -> dict[str, Any]:
    """What the finals of a family say beside the scores that are compared."""
    whole = own[own["state"] == "complete"]
    lost = own.loc[own["state"] != "complete"]
    return {
        "validation": _mean([beside(row, objective) for _, row in whole.iterrows()]),
        "metrics": {m: _mean(whole[f"final_{m}"]) for m in others if f"final_{m}" in whole},
        "reasons": lost["reason"].unique().tolist() if len(own) else [],
    }


def _mean(values: Any) -> float:
    seen = np.asarray(values, np.float64)
    return float(seen.mean()) if seen.size else math.nan


def _absent(
    trials: pd.DataFrame, names: set[str], use: str | None, objective: Objective
) -> list[Absent]:
    """Families that were searched and not compared."""
    sound = trials[~trials["state"].isin(LOST)]
    known = sound.reindex(columns=["family", "expected", "low", "high", "p_best"]).dropna()
    likely = known.sort_values("p_best", kind="stable").drop_duplicates("family", keep="last")
    rows = {str(row["family"]): row for _, row in likely.iterrows()}

    def why(name: str) -> Literal["diverged", "behind", "close", "open"]:
        if name not in set(sound["family"]):
            return "diverged"
        if use not in rows or name not in rows:
            return "open"
        first, other = rows[use], rows[name]
        if objective.minimize and other["low"] > first["high"]:
            return "behind"
        if not objective.minimize and other["high"] < first["low"]:
            return "behind"
        return "close" if first["low"] <= other["expected"] <= first["high"] else "open"

    return [Absent(family=name, why=why(name)) for name in sorted(names)]
