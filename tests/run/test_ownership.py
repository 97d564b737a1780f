"""A study belongs to one run, whatever a search left behind or another does at the same time."""

import shutil
from pathlib import Path

import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import create_trial

import lrtune
from lrtune import Budget, Engine, InputError
from lrtune.search.claim import HEAD
from lrtune.search.study import take

PEAKS = (0.01, 0.1)
SMALL = {"budget": Budget(trials=1), "families": ["constant"], "peak_lr": PEAKS}
SMALL |= {"engine": Engine("serial", slots=1)}


@pytest.mark.parametrize("database", [False, True])
def test_a_search_that_never_began_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: bool
) -> None:
    storage = f"sqlite:///{tmp_path}/study.db" if database else None
    arguments = {**SMALL, "out": tmp_path / "run", "storage": storage}

    def ctrl_c(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("lrtune.run.tune.peak_settings", ctrl_c)
        lrtune.tune(lrtune.load_task("digits", batch_size=32, epochs=1), **arguments)
    task = lrtune.load_task("digits", batch_size=32, epochs=1, metric="accuracy")
    run = lrtune.tune(task, **arguments)
    assert run.study().direction == StudyDirection.MAXIMIZE
    assert run.study().user_attrs[HEAD]["owner"] == run.settings.owner
    assert run.trials()["value"].between(0, 1).all()


def test_of_two_that_begin_at_once_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = lrtune.load_task("digits", batch_size=32, epochs=1)
    arguments = {**SMALL, "storage": f"sqlite:///{tmp_path}/study.db"}

    def meanwhile(*_: object, **__: object) -> tuple[object, None]:
        monkeypatch.undo()
        lrtune.tune(task, out=tmp_path / "other", **arguments)
        return PEAKS, None

    monkeypatch.setattr("lrtune.run.tune.peak_settings", meanwhile)
    for _ in range(2):  # the same call again does not go on with it either
        with pytest.raises(InputError, match=r"belongs to another run: give that run's --out"):
            lrtune.tune(task, out=tmp_path / "run", **arguments)
    assert len(lrtune.open(tmp_path / "other").trials()) == 1
    more = {**arguments, "budget": Budget(trials=2)}
    assert len(lrtune.tune(task, out=tmp_path / "other", **more).trials()) == 2


@pytest.mark.parametrize("lost", ["owner", "run.json"])
def test_a_journal_of_another_run(run: Path, tmp_path: Path, lost: str) -> None:
    folder = shutil.copytree(run, tmp_path / "copy")
    study = lrtune.open(folder).study()
    if lost == "owner":
        study.set_user_attr(HEAD, {"owner": "another", "generation": 1})
    else:
        (folder / "run.json").unlink()
    before = study.trials
    with pytest.raises(InputError, match=r"belongs to another run: restore its run\.json"):
        lrtune.tune(
            lrtune.load_task("digits", batch_size=32, epochs=2),
            budget=Budget(trials=9),
            families=["cosine", "constant"],
            out=folder,
        )
    assert study.trials == before


def test_trials_that_are_of_no_run_are_nobodys_to_take(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    optuna.create_study(study_name="s", storage=storage).add_trial(create_trial(value=1.0))
    with pytest.raises(InputError, match="study s belongs to another run"):
        take(storage, "s", "me", "minimize")
