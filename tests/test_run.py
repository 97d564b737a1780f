import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock

import lrtune
from lrtune import InputError, Run
from lrtune.engine import SerialPool
from lrtune.schedule import Schedule


def again(run: Path, folder: Path, **changes: object) -> Run:
    """The call that made ``run``, on a copy of it, with changes."""
    shutil.copytree(run, folder)
    arguments = {"trials": 8, "families": ["cosine", "constant"], "out": folder, **changes}
    task = arguments.pop("task", None) or lrtune.load_task("digits", epochs=2)
    return lrtune.tune(task, **arguments)


def test_what_a_run_leaves(run: Path) -> None:
    trials = pd.read_parquet(run / "trials.parquet")
    assert list(trials["number"]) == list(range(8))
    assert set(trials["state"]) == {"complete"}
    assert set(trials["family"]) == {"cosine", "constant"}
    settings = json.loads((run / "run.json").read_text())
    assert (trials["updates"] == settings["horizon"]).all()
    for row in trials.itertuples():
        assert len(row.step) == settings["validations"] == len(row.val_accuracy)
        assert row.step[-1] == settings["horizon"]
        assert row.value == row.val_cross_entropy[-1]
        used = Schedule.from_json(row.schedule).rates(settings["horizon"])
        np.testing.assert_array_equal(row.rate, used[np.array(row.step) - 1])
    low, high = settings["peak_lr"]
    assert trials["peak_lr"].between(low, high).all()
    assert settings["range_test"]["base_lr"] is not None
    assert "<html" in (run / "report.html").read_text()[:200]
    assert not list(run.glob("*.part"))


def test_best_json_is_the_best_trial_and_trains_to_its_score(run: Path) -> None:
    trials = pd.read_parquet(run / "trials.parquet")
    best = trials.loc[trials["value"].idxmin()]
    schedule = lrtune.load(run / "best.json")
    assert schedule == Schedule.from_json(best["schedule"]) == Run(run).best()
    task = lrtune.load_task("digits", epochs=2)
    torch.set_num_threads(json.loads((run / "run.json").read_text())["threads"])
    pool = SerialPool(task)
    pool.admit(0, schedule.rates(task.horizon), seed=0)
    for _ in task.checkpoints:
        (progress,) = pool.advance()
    assert progress.metrics["cross_entropy"] == best["value"]


def test_a_run_that_is_complete_stays_as_it_is(run: Path, tmp_path: Path) -> None:
    before = (run / "journal.log").read_bytes()
    found = again(run, tmp_path / "copy")
    assert (found.folder / "journal.log").read_bytes() == before


def test_a_larger_budget_adds_to_a_run(run: Path, tmp_path: Path) -> None:
    found = again(run, tmp_path / "copy", trials=10).trials()
    before = pd.read_parquet(run / "trials.parquet")
    assert len(found) == 10
    assert list(found["value"][:8]) == list(before["value"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed=0, now seed=1"),
        ({"families": ["cosine"]}, "families"),
        ({"peak_lr": (0.1, 0.2)}, "peak_lr"),
        ({"warmup": (0.0, 0.1)}, "warmup"),
        ({"storage": "sqlite:///other.db"}, "storage"),
    ],
)
def test_another_search_is_refused_in_the_same_folder(
    run: Path, tmp_path: Path, change: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        again(run, tmp_path / "copy", **change)
    assert "--out" in str(error.value)
    kept = tmp_path / "copy" / "journal.log"
    assert kept.read_bytes() == (run / "journal.log").read_bytes()


def test_data_that_changed_is_refused(run: Path, tmp_path: Path) -> None:
    task = lrtune.load_task("digits", epochs=2)
    task.train.inputs[0, 0, 0, 0] += 1
    with pytest.raises(InputError, match="fingerprint"):
        again(run, tmp_path / "copy", task=task)


def test_two_searches_at_once(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run, folder)
    with FileLock(folder / "lock"), pytest.raises(InputError, match="another search"):
        lrtune.tune(lrtune.load_task("digits", epochs=2), trials=9, out=folder)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be a run's folder: Not a directory"):
        lrtune.tune("digits", trials=1, out=tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a run"),
        ("{", "cannot be read as a run's settings"),
        ("[]", "not a run's settings"),
        ('{"format": 99}', "format 99"),
        ('{"format": 1}', "task is missing"),
    ],
)
def test_a_damaged_run(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=message):
        Run(tmp_path)


def test_a_run_whose_every_trial_diverged(tmp_path: Path) -> None:
    task = lrtune.load_task("digits", epochs=1)
    found = lrtune.tune(
        task, trials=3, families=["constant"], peak_lr=(1e4, 1e5), out=tmp_path / "run"
    )
    assert set(found.trials()["state"]) == {"diverged"}
    assert found.best() is None
    assert not (found.folder / "best.json").exists()
    assert (found.folder / "report.html").exists()


def test_a_search_on_another_storage(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    task = lrtune.load_task("digits", epochs=1)
    arguments = {"families": ["linear"], "peak_lr": (0.01, 0.1), "storage": url}
    lrtune.tune(task, trials=2, out=tmp_path / "run", **arguments)
    found = lrtune.tune(task, trials=3, out=tmp_path / "run", **arguments)
    assert len(found.trials()) == 3
    assert not (tmp_path / "run" / "journal.log").exists()
