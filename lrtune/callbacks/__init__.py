"""Callbacks that put an Optuna trial's schedule into the training of a framework.

One file per framework, which is imported there and nowhere else: ``lrtune.callbacks.lightning`` and
``lrtune.callbacks.huggingface``, with a ``TrialCallback`` each. Here is what they share.
"""

from importlib import import_module
from typing import Any, NoReturn

import optuna
from optuna.study import StudyDirection

from lrtune.errors import InputError, MissingPackage, nearest
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


def framework(*names: str, install: str) -> Any:
    """The first module of these that is installed.

    Not by an import statement, for which mypy would read all of a framework.
    """
    for name in names:
        try:
            return import_module(name)
        except Exception as error:  # whatever a broken installation raises
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            if missing is not None and f"{name}.".startswith(f"{missing}."):
                continue
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise MissingPackage(
                f"{name} is installed but cannot be imported ({reason}): "
                f"pip install --force-reinstall {install}"
            ) from error
    package = names[0].partition(".")[0]
    raise MissingPackage(f"{package} is not installed: pip install {install}")
