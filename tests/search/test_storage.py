"""Studies in a storage."""

import os
from pathlib import Path

import optuna
import pytest
from optuna.study import StudyDirection

from lrtune import InputError
from lrtune.search import load_study, open_study

STORAGES = {
    "journal": lambda folder: folder / "journal.log",
    "database": lambda folder: f"sqlite:///{folder}/study.db",
}


@pytest.mark.parametrize("kind", STORAGES)
def test_a_study_of_the_other_direction_stays_as_it_is(tmp_path: Path, kind: str) -> None:
    storage = STORAGES[kind](tmp_path)
    study = open_study(storage, "s", "minimize")
    study.set_user_attr("lrtune.owner", "another")  # which is about to begin
    with pytest.raises(InputError, match="study 's' is of a search that was not to maximize: give"):
        open_study(storage, "s", "maximize")
    study = load_study(storage, "s")
    assert study.direction == StudyDirection.MINIMIZE
    assert study.user_attrs == {"lrtune.owner": "another"}


@pytest.mark.parametrize("storage", ["nosuch://x", f"sqlite:///{os.devnull}/x.db"])
def test_a_storage_that_cannot_be_opened(storage: str) -> None:
    with pytest.raises(InputError, match=f"storage {storage}: "):
        open_study(storage, "s", "minimize")


def test_optuna_is_as_loud_afterwards_as_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = optuna.logging.get_verbosity()
    optuna.logging.enable_propagation()
    try:
        for loud in (optuna.logging.INFO, optuna.logging.ERROR):
            optuna.logging.set_verbosity(loud)
            open_study(tmp_path / f"{loud}.log", "s", "minimize")
            assert optuna.logging.get_verbosity() == loud
    finally:
        optuna.logging.set_verbosity(before)
        optuna.logging.disable_propagation()
    assert not caplog.records
