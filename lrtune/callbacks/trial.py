"""What the callbacks share: the schedule that a trial carries, and a validation told to it."""

from typing import NoReturn

import optuna
from optuna.study import StudyDirection

from lrtune.errors import InputError, nearest
from lrtune.schedule import Schedule
from lrtune.schedule.reactive import Mode
from lrtune.search.pruner import report
from lrtune.search.study_model import schedule_of


def drawn(trial: optuna.Trial) -> tuple[Schedule, Mode]:
    """The schedule of a trial, and where its metric is best.

    Raises:
        InputError: the trial has none.
    """
    schedule = schedule_of(trial)
    if schedule is None:
        raise InputError(
            f"trial {trial.number} has no schedule: call lrtune.suggest(trial) before the callback "
            "is made"
        )
    minimize = trial.study.direction == StudyDirection.MINIMIZE
    return schedule, "min" if minimize else "max"


def told(trial: optuna.Trial, value: float, step: int, averaged: float | None) -> bool:
    """Report a validation; whether the trial is to end."""
    report(trial, value, step, averaged=averaged)
    return trial.should_prune()


def unknown_metric(name: str, names: list[str]) -> NoReturn:
    """Raise the InputError for a metric that no validation gave."""
    raise InputError(
        f"metric {name!r}: the validation gave {', '.join(names) or 'none'}{nearest(name, names)}"
    )
