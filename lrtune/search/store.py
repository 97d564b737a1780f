"""Storage: open one, and trials as Optuna keeps them to Records and back."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from lrtune.errors import InputError, as_utf8
from lrtune.files import plain
from lrtune.format import hidden
from lrtune.schedule import Schedule
from lrtune.search.record import Curves, Record
from lrtune.search.space import FAMILY, SCHEDULE
from lrtune.tasks.metrics import Direction

START = "lrtune.start"  # trial attribute: {"index", "slot", "clock", "owner"}
AVERAGED = "lrtune.averaged"  # trial attribute: whether values of averaged weights were reported
AUDIT = "lrtune.audit"  # trial attribute: the forecast that would have ended it
RECORD = "lrtune.record"  # trial attribute: what Optuna itself has no place for
RESOLVED = "resolved"  # trial attribute: the schedule's settings, for people to read

KEPT = (
    "state",
    "reason",
    "resolved",
    "updates",
    "seconds",
    "seed",
    "evidence",
    "audit",
    "judged_at",
)  # of a Record, and its curves


def load_study(storage: str | Path, name: str) -> optuna.Study:
    """Open a study that exists, to read it; nothing is written.

    Raises:
        InputError: there is none, or the storage cannot be opened.
    """
    lost = InputError(
        f"storage {hidden(str(storage))}: has no study {name!r}: restore it, or remove the run's "
        "folder"
    )
    if isinstance(storage, Path) and not storage.is_file():
        raise lost
    try:
        return optuna.load_study(storage=open_storage(storage), study_name=name)
    except KeyError as error:
        raise lost from error
    except Exception as error:  # every backend has errors of its own
        raise _unusable(storage, error) from error


def open_study(storage: str | Path, name: str, direction: Direction, **kept: Any) -> optuna.Study:
    """Open or create a study; an existing one is left as it is.

    Args:
        storage: a journal file's path, or any storage URL of Optuna's.
        name: the study's.
        direction: of the objective.
        kept: sampler and pruner, which Optuna does not store.

    Raises:
        InputError: the storage cannot be opened, or its study has the other direction.
    """
    try:
        with quiet_optuna():
            study = optuna.create_study(
                storage=open_storage(storage),
                study_name=name,
                direction=direction,
                load_if_exists=True,
                **kept,
            )
        # Even without trials it may be another run's, which is about to begin.
        if [found.name.lower() for found in study.directions] != [direction]:
            raise InputError(
                f"its study {name!r} is of a search that was not to {direction}: "
                "give another --out, or another --storage"
            )
    except Exception as error:  # every backend has errors of its own
        raise _unusable(storage, error) from error
    return study


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Optuna's own lines ("A new study created ...") are not shown; its verbosity is as before."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _unusable(storage: str | Path, error: Exception) -> InputError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    url = str(storage)
    return InputError(f"storage {url}: {first}".replace(url, hidden(url)))


def open_storage(storage: str | Path) -> BaseStorage:
    """Open a journal file by its path, or a database by its URL."""
    if isinstance(storage, Path):
        # Absolute, because Optuna's lock is a link to this path as it is written here.
        return JournalStorage(JournalFileBackend(str(storage.resolve())))
    if storage in ("sqlite://", "sqlite:///") or ":memory:" in storage:
        raise InputError("a database in memory is lost at the end: give a file or a server")
    return RDBStorage(storage)


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


def was_cut_short(trial: FrozenTrial) -> bool:
    """Whether it failed because its process ended; then it is repeated, and counts for nothing."""
    return (
        trial.state == TrialState.FAIL and trial.user_attrs.get(RECORD, {}).get("state") != "failed"
    )


def save_record(trial: optuna.Trial, record: Record) -> None:
    """Attach to a running trial what Optuna has no place for; before ``tell``, never after."""
    kept = {name: getattr(record, name) for name in KEPT}
    kept["curves"] = {field.name: getattr(record.curves, field.name) for field in fields(Curves)}
    trial.set_user_attr(RECORD, plain(kept))
    # Without what the horizon says: the dashboard does not fold the line.
    shown = {name: value for name, value in record.resolved.items() if name != "total_iters"}
    said = (f"{name} {_short(value)}" for name, value in shown.items())
    trial.set_user_attr(RESOLVED, ", ".join(said))


def _short(value: Any) -> str:
    """A setting at four digits; of several, all.

    Example:
        >>> _short([0.123456, 1.0])
        '[0.1235, 1]'
    """
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


def _curve(values: list[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _curves(kept: dict[str, Any]) -> Curves:
    metrics = {name: _curve(values) for name, values in kept["metrics"].items()}
    loss, train_loss = _curve(kept["loss"]), _curve(kept["train_loss"])
    averaged = _curve(kept["averaged"])
    return Curves(kept["step"], loss, train_loss, kept["rate"], metrics, averaged)


def _record(trial: FrozenTrial) -> Record:
    kept = trial.user_attrs[RECORD]
    return Record(
        number=index_of(trial),
        optuna_number=trial.number,
        schedule=Schedule.from_json(trial.user_attrs[SCHEDULE]),
        params=trial.params,
        value=trial.values[0] if trial.state == TrialState.COMPLETE else None,
        curves=_curves(kept["curves"]),
        **{name: kept[name] for name in KEPT},
    )


@dataclass(frozen=True, slots=True)
class Belief:
    """Of the final value of a trial's schedule, with the luck of its seed left out.

    Attributes:
        expected: the mean.
        low: 5 % quantile.
        high: 95 % quantile.
        p_best: probability that no other schedule tried is better.
    """

    expected: float
    low: float
    high: float
    p_best: float


UNKNOWN = Belief(math.nan, math.nan, math.nan, math.nan)

# Of every frame; then those of the task's metrics and of the families' knobs.
COLUMNS: tuple[str, ...] = (
    "number",
    "optuna_number",
    "family",
    "state",
    "reason",
    "value",
    "peak_lr",
    "warmup",
)
COLUMNS += ("schedule", "resolved", "step", "loss", "train_loss", "rate", "updates", "seconds")
COLUMNS += (
    "averaged",
    "seed",
    "evidence",
    "audit",
    "judged_at",
    "expected",
    "low",
    "high",
    "p_best",
)
BELIEVED = ("expected", "low", "high", "p_best")
NUMBERS = ("value", "judged_at", "peak_lr", "warmup", "updates", "seconds", *BELIEVED)


def frame(found: Iterable[Record], known: Mapping[int, Belief] | None = None) -> pd.DataFrame:
    """One row a trial: what ``trials.parquet`` holds and the report reads.

    Args:
        found: the trials.
        known: what is believed of them, by number in the study.
    """
    known = known or {}
    rows = [_row(record) | asdict(known.get(record.optuna_number, UNKNOWN)) for record in found]
    if rows:
        return pd.DataFrame(rows)
    return pd.DataFrame(columns=COLUMNS).astype({name: float for name in NUMBERS})


def _row(record: Record) -> dict[str, Any]:
    curves = record.curves
    knobs = {name: value for name, value in record.params.items() if name != FAMILY}
    return {
        "number": record.number,
        "optuna_number": record.optuna_number,
        "family": record.schedule.family,
        "state": record.state,
        "reason": as_utf8(record.reason),
        "value": float("nan") if record.value is None else record.value,
        "peak_lr": record.schedule.peak_lr,
        "warmup": record.schedule.warmup,
        "schedule": record.schedule.to_json(),
        "resolved": json.dumps(record.resolved),
        "step": curves.step,
        "loss": curves.loss,
        "train_loss": curves.train_loss,
        "rate": curves.rate,
        "averaged": curves.averaged,
        **{f"val_{name}": curve for name, curve in curves.metrics.items()},
        "updates": record.updates,
        "seconds": record.seconds,
        "seed": record.seed,
        "evidence": json.dumps(record.evidence),
        "audit": None if record.audit is None else json.dumps(record.audit),
        "judged_at": math.nan if record.judged_at is None else record.judged_at,
        **knobs,
    }
