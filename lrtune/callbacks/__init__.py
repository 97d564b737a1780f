"""Callbacks that put an Optuna trial's schedule into the training of a framework.

One file per framework, which is imported there and nowhere else: ``lrtune.callbacks.lightning`` and
``lrtune.callbacks.huggingface``, with a ``TrialCallback`` each. Here is what they share.
"""

from typing import NoReturn

import optuna
from optuna.study import StudyDirection

from lrtune.errors import InputError, nearest
from lrtune.schedule import Schedule
from lrtune.schedule.reactive import Mode
from lrtune.search.space import schedule_of


def schedule_and_mode(trial: optuna.Trial) -> tuple[Schedule, Mode]:
    """The schedule of a trial, and where its metric is best."""
    schedule = schedule_of(trial)
    if schedule is None:
        raise InputError(
            f"trial {trial.number} has no schedule: call lrtune.suggest(trial) before the callback "
            "is made"
        )
    minimize = trial.study.direction == StudyDirection.MINIMIZE
    return schedule, "min" if minimize else "max"


def unknown_metric(name: str, names: list[str]) -> NoReturn:
    """Raise the InputError for a metric that no validation gave."""
    raise InputError(
        f"metric {name!r}: the validation gave {', '.join(names) or 'none'}{nearest(name, names)}"
    )
