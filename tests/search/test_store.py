"""Studies in a storage."""

from pathlib import Path

import pytest
from optuna.study import StudyDirection

from lrtune import InputError
from lrtune.search import load_study, open_study

STORAGES = {
    "journal": lambda folder: folder / "journal.log",
    "database": lambda folder: f"sqlite:///{folder}/study.db",
}


@pytest.mark.parametrize("kind", STORAGES)
def test_a_study_of_the_other_direction_makes_room_only_if_it_is_empty(
    tmp_path: Path, kind: str
) -> None:
    storage = STORAGES[kind](tmp_path)
    open_study(storage, "s", "minimize")
    study = open_study(storage, "s", "maximize")
    assert study.direction == StudyDirection.MAXIMIZE
    study.ask()
    assert len(open_study(storage, "s", "maximize").trials) == 1
    with pytest.raises(InputError, match="study 's' has trials of a search that was not to min"):
        open_study(storage, "s", "minimize")
    assert load_study(storage, "s").direction == StudyDirection.MAXIMIZE
