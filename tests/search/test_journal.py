"""What a journal is read as."""

from itertools import product
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from lrtune.search.journal import ClaimedJournal

ALL = [None, *([state] for state in TrialState), [TrialState.WAITING, TrialState.RUNNING]]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "journal.log")


def as_optuna_reads(path: str) -> JournalStorage:
    return JournalStorage(JournalFileBackend(path))


def test_its_trials_are_at_any_moment_those_that_optuna_reads(path: str) -> None:
    kept, beside = ClaimedJournal(path), ClaimedJournal(path)
    ours = optuna.create_study(storage=kept, study_name="s")
    theirs = optuna.load_study(storage=as_optuna_reads(path), study_name="s")
    other = optuna.create_study(storage=beside, study_name="other")

    def compare() -> None:
        fresh = as_optuna_reads(path)
        for storage, study, states in product((kept, beside), (0, 1), ALL):
            found = storage.get_all_trials(study, deepcopy=False, states=states)
            assert found == fresh.get_all_trials(study, states=states)

    compare()
    theirs.enqueue_trial({"x": 0.1})
    ours.enqueue_trial({"x": 0.2})
    compare()
    trials = [study.ask() for study in (ours, theirs, other, ours)]
    compare()
    for trial in trials:
        trial.suggest_float("x", 0, 1)
        trial.report(0.5, 1)
        trial.set_user_attr("lrtune.record", {"curves": {"step": [1, 2], "loss": [0.5, 0.25]}})
        compare()
    theirs.add_trial(optuna.trial.create_trial(value=1.0))
    for study, trial in zip((theirs, theirs, other, ours), trials, strict=True):
        study.tell(trial.number, 0.5)
        compare()


def test_what_it_gave_is_the_askers(path: str) -> None:
    study = optuna.create_study(storage=ClaimedJournal(path))
    study.ask()
    study.get_trials(deepcopy=False).clear()
    study.get_trials()[0].user_attrs["mine"] = 1
    assert [trial.user_attrs for trial in study.get_trials()] == [{}]


def test_a_study_that_was_deleted_is_gone(path: str) -> None:
    study = optuna.create_study(storage=ClaimedJournal(path), study_name="s")
    study.ask()
    assert study.trials
    optuna.delete_study(storage=as_optuna_reads(path), study_name="s")
    with pytest.raises(KeyError):
        study.get_trials()


def test_a_refused_entry_hides_none_after_it(path: str) -> None:
    study = optuna.create_study(storage=ClaimedJournal(path), study_name="s")
    theirs = optuna.load_study(storage=as_optuna_reads(path), study_name="s")
    trial = study.ask()
    theirs.tell(trial.number, 1.0)
    theirs.ask()
    with pytest.raises(UpdateFinishedTrialError):
        trial.report(0.5, 1)
    theirs.ask()
    assert study.trials == as_optuna_reads(path).get_all_trials(0)


@pytest.mark.parametrize("cut", [1, 20])
def test_a_line_is_read_once_it_is_whole(path: str, cut: int) -> None:
    kept = ClaimedJournal(path)
    optuna.create_study(storage=kept, study_name="s")
    written = Path(path).read_bytes()
    as_optuna_reads(path).create_new_trial(0)
    line = Path(path).read_bytes()[len(written) :]
    Path(path).write_bytes(written + line[:-cut])
    assert not kept.get_all_trials(0)
    with open(path, "ab") as file:
        file.write(line[-cut:])
    assert kept.get_all_trials(0) == as_optuna_reads(path).get_all_trials(0) != []


def test_a_damaged_line_is_refused_once_others_follow(path: str) -> None:
    kept = ClaimedJournal(path)
    optuna.create_study(storage=kept, study_name="s")
    with open(path, "ab") as file:
        file.write(b"{damaged\n")
    assert not kept.get_all_trials(0)
    with open(path, "ab") as file:
        file.write(b'{"op_code":4}\n')
    with pytest.raises(ValueError, match="Expecting property name"):
        kept.get_all_trials(0)
