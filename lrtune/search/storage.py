"""Storage: trials as Records, and how a study keeps them."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from lrtune.engine import Progress
from lrtune.errors import InputError, as_utf8, described
from lrtune.files import plain
from lrtune.schedule import Schedule
from lrtune.search.space import FAMILY, SCHEDULE

START = "lrtune.start"  # trial attribute: {"index", "slot", "owner"}, in lockstep "clock"
AVERAGED = "lrtune.averaged"  # trial attribute: whether values of averaged weights were reported
AUDIT = "lrtune.audit"  # trial attribute: the forecast that would have ended it
RECORD = "lrtune.record"  # trial attribute: what Optuna itself has no place for
RESOLVED = "resolved"  # trial attribute: the schedule's settings, for people to read

# Of a Record, kept in RECORD beside its curves.
KEPT = (
    *("state", "reason", "resolved", "updates", "seconds", "seed", "evidence", "audit"),
    *("judged_at", "ended", "hosts"),
)

End = Literal["complete", "pruned", "plateaued", "diverged", "failed"]
Judge = Literal["last", "best"]  # by the weights at the end, or by those that validated best
JUDGES: tuple[Judge, ...] = get_args(Judge)


def judge_of(name: str) -> Judge:
    """Which weights of a training count, by name; an InputError where it is none of JUDGES."""
    if name not in JUDGES:
        raise InputError(f"judge={name!r}: one of {', '.join(JUDGES)}")
    return JUDGES[JUDGES.index(name)]


def better(value: float, averaged: float, minimize: bool) -> float:
    """The better of a value and that of the averaged weights, which may be NaN."""
    if not math.isfinite(averaged):
        return value
    return min(value, averaged) if minimize else max(value, averaged)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a training ended, why, and the figures behind that."""

    state: End
    reason: str
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Curves:
    """What was seen at each validation, one entry each."""

    step: list[int] = field(default_factory=list)  # updates done
    loss: list[float] = field(default_factory=list)  # validation loss
    train_loss: list[float] = field(default_factory=list)  # mean since the last validation
    rate: list[float] = field(default_factory=list)  # rate of the last update
    metrics: dict[str, list[float]] = field(default_factory=dict)  # on the validation split
    averaged: list[float] = field(default_factory=list)  # the objective of the averaged weights

    def add(self, progress: Progress, rates: NDArray[np.float64]) -> None:
        """Append a validation of a training with these rates."""
        self.step.append(progress.update)
        self.loss.append(progress.loss)
        self.train_loss.append(float(progress.losses.mean()))
        self.rate.append(float(rates[progress.update - 1]))
        for name, value in progress.metrics.items():
            self.metrics.setdefault(name, []).append(value)
        self.averaged.append(progress.averaged)

    def judged(self, metric: str, minimize: bool, judge: Judge) -> int:
        """The update whose weights a training is judged by so far: the first of equals."""
        if judge == "last":
            return self.step[-1]
        values = self.metrics[metric]
        return self.step[values.index(min(values) if minimize else max(values))]

    def at(self, update: int) -> dict[str, float]:
        """The metrics of the validation after this update."""
        place = self.step.index(update)
        return {name: values[place] for name, values in self.metrics.items()}

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold them: NaN is null."""
        return {
            "step": [*map(int, self.step)],
            "loss": _without_nan(self.loss),
            "train_loss": _without_nan(self.train_loss),
            "rate": _without_nan(self.rate),
            "metrics": {name: _without_nan(values) for name, values in self.metrics.items()},
            "averaged": _without_nan(self.averaged),
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "Curves":
        """What JSON kept of them."""
        metrics = {name: _with_nan(values) for name, values in kept["metrics"].items()}
        own = {name: _with_nan(kept[name]) for name in ("loss", "train_loss", "averaged")}
        return cls(step=kept["step"], rate=kept["rate"], metrics=metrics, **own)


def _without_nan(values: list[float]) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values]


def _with_nan(values: list[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


@dataclass(frozen=True, slots=True)
class Record:
    """One trial as stored."""

    number: int  # which of the search's trials; a trial repeated after a kill keeps its number
    optuna_number: int  # in the Optuna study
    schedule: Schedule
    params: dict[str, Any]  # Optuna's, from which the schedule came
    state: End
    reason: str  # why it ended so
    value: float | None  # the objective on validation; None unless complete
    curves: Curves
    resolved: dict[str, Any]  # the schedule's settings in the field's terms, for this horizon
    updates: int  # done
    seconds: float  # of training and validation
    seed: int  # of everything random that it met
    judged_at: int | None = None  # the update whose weights ``value`` is of
    ended: int = 0  # trials of the search that had ended before; clocks may jump
    hosts: list[str] = field(default_factory=list)  # that trained it, in order; none: this machine
    # Of a trial that was pruned or has plateaued, the figures of its forecast: see Decision.
    evidence: dict[str, Any] = field(default_factory=dict)
    # Of one that was to be pruned and trained on, to check: ``update`` and figures of the forecast.
    audit: dict[str, Any] | None = None


def unique_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Trials in the order of their index; of one that was killed and repeated, the repetition."""
    latest = {
        (index_of(trial), trial.user_attrs.get(START, {}).get("owner")): trial
        for trial in study.get_trials(deepcopy=False)
    }
    return sorted(latest.values(), key=index_of)


def index_of(trial: FrozenTrial) -> int:
    """Which of the search's trials this is; elsewhere, its number in the study."""
    return int(trial.user_attrs.get(START, {}).get("index", trial.number))


def as_they_ended(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Finished trials in the order in which they ended; those of others by their clocks."""

    def place(trial: FrozenTrial) -> tuple[Any, ...]:
        ended = trial.user_attrs.get(RECORD, {}).get("ended")
        known = ended is not None
        return not known, ended if known else trial.datetime_complete, trial.number

    return sorted(trials, key=place)


def was_cut_short(trial: FrozenTrial) -> bool:
    """Whether it failed because its process ended; then it is repeated, and counts for nothing."""
    state = trial.user_attrs.get(RECORD, {}).get("state")
    return trial.state == TrialState.FAIL and state != "failed"


def save_record(trial: optuna.Trial, record: Record) -> None:
    """Attach to a running trial what Optuna has no place for; before ``tell``, never after."""
    kept = {name: getattr(record, name) for name in KEPT}
    trial.set_user_attr(RECORD, {**plain(kept), "curves": record.curves.to_json()})
    # Without the horizon and words, which are among the parameters: the dashboard folds no line.
    resolved = record.resolved.items()
    shown = {n: v for n, v in resolved if n != "total_iters" and not isinstance(v, str)}
    trial.set_user_attr(RESOLVED, ", ".join(f"{k} {_short(v)}" for k, v in shown.items()))


def _short(value: Any) -> str:
    """A setting at four digits; of several, all."""
    if isinstance(value, list):
        return f"[{', '.join(_short(entry) for entry in value)}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def records(study: optuna.Study) -> list[Record]:
    """Every trial that is over, in the order of their numbers."""
    # One may have a record and not be over: a kill, or a storage that failed, came between.
    return [
        _record(trial)
        for trial in unique_trials(study)
        if trial.state.is_finished() and RECORD in trial.user_attrs and not was_cut_short(trial)
    ]


def _record(trial: FrozenTrial) -> Record:
    try:
        kept = trial.user_attrs[RECORD]
        return Record(
            number=index_of(trial),
            optuna_number=trial.number,
            schedule=Schedule.from_json(trial.user_attrs[SCHEDULE]),
            params=trial.params,
            value=trial.values[0] if trial.state == TrialState.COMPLETE else None,
            curves=Curves.from_json(kept["curves"]),
            **{name: kept[name] for name in KEPT},
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"trial {trial.number} of the study: its record is damaged ({described(error)}): "
            "bring the storage back from a copy"
        ) from error


@dataclass(frozen=True, slots=True)
class Belief:
    """The model's estimate of what a trial's schedule comes to, the luck of its seed left out."""

    expected: float = math.nan
    low: float = math.nan  # 5 % quantile
    high: float = math.nan  # 95 % quantile
    p_best: float = math.nan  # probability that no other schedule tried is better


TEXTS = ("family", "state", "reason", "schedule", "resolved", "evidence", "audit")
CURVES = ("step", "loss", "train_loss", "rate", "averaged")
NUMBERS = (
    *("number", "optuna_number", "value", "peak_lr", "warmup", "updates", "seconds", "seed"),
    *("judged_at", *Belief.__slots__),
)


def frame(trials: Iterable[Record], beliefs: Mapping[int, Belief] | None = None) -> pd.DataFrame:
    """One row per trial, ``beliefs`` by number in the study: what ``trials.parquet`` holds."""
    beliefs = beliefs or {}
    rows = [_row(record) | asdict(beliefs.get(record.optuna_number, Belief())) for record in trials]
    if rows:
        return pd.DataFrame(rows)
    return pd.DataFrame(columns=[*TEXTS, *CURVES, "hosts", *NUMBERS]).astype(
        dict.fromkeys(NUMBERS, float)
    )


def _row(record: Record) -> dict[str, Any]:
    curves, schedule = record.curves, record.schedule
    knobs = {name: value for name, value in record.params.items() if name != FAMILY}
    return {
        "number": record.number,
        "optuna_number": record.optuna_number,
        "family": schedule.family,
        "state": record.state,
        "reason": as_utf8(record.reason),
        "value": math.nan if record.value is None else record.value,
        "peak_lr": schedule.peak_lr,
        "warmup": schedule.warmup,
        "schedule": schedule.to_json(),
        "resolved": json.dumps(record.resolved),
        **{name: getattr(curves, name) for name in CURVES},
        **{f"val_{name}": curve for name, curve in curves.metrics.items()},
        **{name: getattr(record, name) for name in ("updates", "seconds", "seed", "hosts")},
        "evidence": json.dumps(record.evidence),
        "audit": None if record.audit is None else json.dumps(record.audit),
        "judged_at": math.nan if record.judged_at is None else record.judged_at,
        **knobs,
    }
