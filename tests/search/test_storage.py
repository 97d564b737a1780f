"""Studies in a storage."""

import math
import os
from contextvars import Context
from datetime import datetime
from pathlib import Path

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState

from lrtune import InputError
from lrtune.search import load_study, open_study
from lrtune.search.batch import together
from lrtune.search.storage import RECORD, as_they_ended

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


def test_a_uri_of_sqlite_is_a_file_too(tmp_path: Path) -> None:
    storage = f"sqlite:///file:{tmp_path}/study.db?uri=true"
    open_study(storage, "s", "minimize")
    assert load_study(storage, "s").study_name == "s"


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


@pytest.mark.parametrize("kind", STORAGES)
def test_what_is_said_together_comes_to_what_is_said_alone(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two who share a storage agree, whatever one of them writes while the other holds it back."""
    written: list[int] = []
    append = JournalFileBackend.append_logs
    monkeypatch.setattr(
        JournalFileBackend, "append_logs", lambda *a: (written.append(len(a[1])), append(*a))
    )
    place = STORAGES[kind](tmp_path)
    study, other = (open_study(place, "s", "minimize") for _ in range(2))
    first, second, third = study.ask(), study.ask(), other.ask()
    written.clear()
    elsewhere = Context().run  # as in another process: what it says is written at once
    with together():
        first.report(0.5, 1)
        elsewhere(third.report, 0.7, 1)
        first.set_user_attr("list", (1, 2))
        study.tell(first, 0.5)
        second.report(math.nan, 1)
        assert study.trials[0].state == TrialState.COMPLETE  # it knows what it said
        assert study.trials[0].user_attrs == {"list": [1, 2]}
        if kind == "journal":
            assert written == [1] and other.trials[0].state == TrialState.RUNNING
        fourth = study.ask()  # whose number is the next of all
        elsewhere(other.tell, third, 0.7)
        second.report(0.4, 2)
    fourth.report(0.9, 1)
    assert fourth.number == 3
    if kind == "journal":
        assert written == [1, 5, 1, 1, 1]
    told = [study.trials, other.trials, load_study(place, "s").trials]
    seen = [[(t.state, t.values, t.intermediate_values, t.user_attrs) for t in ts] for ts in told]
    assert repr(seen[0]) == repr(seen[1]) == repr(seen[2])
    assert [t.state.name for t in told[0]] == ["COMPLETE", "RUNNING", "COMPLETE", "RUNNING"]
    assert [*map(repr, told[0][1].intermediate_values.values())] == ["nan", "0.4"]


def test_what_could_not_be_written_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    study = open_study(tmp_path / "journal.log", "s", "minimize")
    trial = study.ask()
    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr(JournalFileBackend, "append_logs", full)
        with together():
            trial.report(0.5, 1)
    study.tell(trial, 0.4)
    (stored,) = load_study(tmp_path / "journal.log", "s").trials
    assert (stored.intermediate_values, stored.value) == ({1: 0.5}, 0.4)


def test_clocks_that_jump_do_not_change_the_order_in_which_trials_ended() -> None:
    def trial(number: int, hour: int, **attrs: object) -> optuna.trial.FrozenTrial:
        found = optuna.trial.create_trial(value=0.5, user_attrs=attrs)
        found.number, found.datetime_complete = number, datetime(2026, 10, 25, hour)
        return found

    ours = [trial(n, hour, **{RECORD: {"ended": n}}) for n, hour in enumerate([2, 1, 3])]
    theirs = [trial(3, 5), trial(4, 4)]  # not by a search of ours: their clocks are all there is
    assert [t.number for t in as_they_ended([*theirs, *reversed(ours)])] == [0, 1, 2, 4, 3]
