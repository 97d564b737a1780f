"""Whose a study is: others may share its storage, and one run goes on with it."""

from pathlib import Path

import optuna

from lrtune.errors import InputError
from lrtune.format import hidden
from lrtune.search import open_study
from lrtune.tasks.metrics import Direction

OWNER = "lrtune.owner"  # study attribute: the run that it belongs to


def claim(storage: str | Path, name: str, direction: Direction, owner: str) -> None:
    """Make a new run's study; or take one that has no trials, which a run left that never began.

    Of two that begin at once the later has it; the other learns it from ``check_owner``.

    Raises:
        InputError: it is another run's, or the storage cannot be opened.
    """
    study = open_study(storage, name, direction)
    if study.get_trials(deepcopy=False):
        raise _of_another(storage, name)
    study.set_user_attr(OWNER, owner)


def check_owner(study: optuna.Study, storage: str | Path, owner: str) -> None:
    """Refuse a study that is another run's."""
    if study.user_attrs.get(OWNER) != owner:
        raise _of_another(storage, study.study_name)


def _of_another(storage: str | Path, name: str) -> InputError:
    way_out = (
        "restore its run.json, or remove the folder"
        if isinstance(storage, Path)
        else "give that run's --out to go on with it, or another --storage"
    )
    return InputError(
        f"storage {hidden(str(storage))}: its study {name} belongs to another run: {way_out}"
    )
