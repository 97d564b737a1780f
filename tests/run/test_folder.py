import json
import os
import shlex
import shutil
import signal
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from filelock import FileLock
from listeners import Told
from torch.nn import functional as F

import lrtune
from lrtune import Budget, Engine, InputError
from lrtune.engine import SerialPool
from lrtune.format import command_without_secrets, without_secrets
from lrtune.model.transfer import nothing, published
from lrtune.reports.page import write
from lrtune.run.folder import Run
from lrtune.run.run_json import settings_for
from lrtune.run.study_file import StudyFile
from lrtune.schedule import Schedule
from lrtune.search import SEARCHABLE, load_study
from lrtune.search.journal import unlock
from lrtune.tasks import Task
from lrtune.tasks.models import Normalize

THREADS = torch.get_num_threads()


def again(run: Path, folder: Path, **changes: object) -> Run:
    """The call that made ``run``, on a copy of it, with changes."""
    shutil.copytree(run, folder)
    return again_in(folder, **changes)


def again_in(folder: Path, trials: int = 8, **changes: object) -> Run:
    arguments = {"budget": Budget(trials=trials), "families": ["cosine", "constant"], **changes}
    return lrtune.tune(arguments.pop("task", None) or digits(), out=folder, **arguments)


def test_what_a_run_leaves(run: Path) -> None:
    trials = pd.read_parquet(run / "trials.parquet")
    assert list(trials["number"]) == list(range(8))
    assert "complete" in set(trials["state"]) <= {"complete", "pruned", "plateaued"}
    assert set(trials["family"]) == {"cosine", "constant"}
    settings = json.loads((run / "run.json").read_text())
    for row in trials.itertuples():
        assert len(row.step) == len(row.val_accuracy) == len(row.averaged)
        assert row.step[-1] == row.updates
        whole = row.step[-1] == settings["horizon"] and len(row.step) == settings["validations"]
        assert whole == (row.state == "complete")
        ended = row.val_cross_entropy[-1] if row.state == "complete" else np.nan
        np.testing.assert_equal(row.value, ended)
        used = Schedule.from_json(row.schedule).rates(settings["horizon"])
        np.testing.assert_array_equal(row.rate, used[np.array(row.step) - 1])
    low, high = settings["peak_lr"]
    assert trials["peak_lr"].between(low, high).all()
    assert settings["range_test"]["base_lr"] is not None
    assert "<html" in (run / "report.html").read_text()[:200]
    assert not list(run.glob("*.part")) and not list(run.glob(".*.json.*"))


def test_best_json_is_the_best_trial_and_trains_to_its_score(run: Path) -> None:
    trials = pd.read_parquet(run / "trials.parquet")
    best = trials.loc[trials["value"].idxmin()]
    schedule = lrtune.load(run / "best.json")
    assert schedule == Schedule.from_json(best["schedule"]) == lrtune.open(run).best()
    task = digits()
    engine = json.loads((run / "run.json").read_text())["engine"]
    assert engine["threads"] == torch.get_num_threads() == 1
    pool = SerialPool(task)
    pool.start(0, schedule.rates(task.horizon), seed=0)
    for _ in best["step"]:
        (progress,) = pool.advance()
    assert progress.metrics["cross_entropy"] == best["val_cross_entropy"][-1]


def test_a_run_that_is_complete_stays_as_it_is(run: Path, tmp_path: Path) -> None:
    found = again(run, tmp_path / "copy")
    before = (found.folder / "journal.log").read_bytes()  # its note says where the report is now
    assert len(again_in(found.folder).trials()) == 8
    journal = (found.folder / "journal.log").read_bytes()
    assert journal.startswith(before)
    (session,) = journal[len(before) :].splitlines()
    assert b"lrtune.head" in session


def test_a_larger_budget_adds_to_a_run(run: Path, tmp_path: Path) -> None:
    found = again(run, tmp_path / "copy", trials=10).trials()
    before = pd.read_parquet(run / "trials.parquet")
    assert len(found) == 10
    np.testing.assert_array_equal(found["value"][:8], before["value"])


def test_the_engine_is_the_runs_unless_another_is_asked_for(run: Path, tmp_path: Path) -> None:
    told = Told()
    before = lrtune.open(run).choice
    same = {"engine": Engine(before.name, before.slots), "listener": told}
    assert again(run, tmp_path / "same", **same).choice == before
    assert not [line for line in told.lines if line.startswith("engine")]
    other = {"engine": Engine("fused", slots=2), "listener": told}
    after = again(run, tmp_path / "other", **other).choice
    assert (after.name, after.slots) == ("fused", 2)
    assert [line for line in told.lines if line.startswith("engine: fused 2 at once")]


def digits(**changes: object) -> Task:
    """The task of ``run``, with changes."""
    return replace(lrtune.load_task("digits", batch_size=32, epochs=2), **changes)


def decayed() -> Task:
    return lrtune.load_task("digits", batch_size=32, epochs=2, optimizer="sgd:weight_decay=0.1")


def other_data() -> Task:
    task = digits()
    task.train.inputs[0, 0, 0, 0] += 1
    return task


SMOOTHED = partial(F.cross_entropy, label_smoothing=0.1)
SCALED = Normalize(torch.zeros(1), torch.ones(1))
CHANGES = {  # what is said of another search in the same folder
    "seed=0, now seed=1": {"seed": 1},
    "families": {"families": ["cosine"]},
    "peak_lr": {"peak_lr": (0.1, 0.2)},
    "judge='last', now judge='best'": {"judge": "best"},
    f"was searched with transfer='{published().fingerprint}'": {"transfer": nothing()},
    r"optimizer\.weight_decay=0(\.0)?, now .*decay=0\.1": {"task": decayed},
    r"the data has changed since \(fingerprint .*, now .*\)": {"task": other_data},
    r"task\.precision='by device', now": {"task": lambda: digits(precision="bfloat16")},
    r"task\.groups='decay_matrices', now": {"task": lambda: digits(groups=None)},
    r"task\.loss=.*0\.1": {"task": lambda: digits(loss=SMOOTHED)},
    r"task\.prepare=": {"task": lambda: digits(prepare=SCALED)},
}


@pytest.mark.parametrize("message", CHANGES)
def test_another_search_is_refused_in_the_same_folder(
    run: Path, tmp_path: Path, message: str
) -> None:
    change = {n: make() if n == "task" else make for n, make in CHANGES[message].items()}
    with pytest.raises(InputError, match=message) as error:
        again(run, tmp_path / "copy", **change)
    assert "--out" in str(error.value)
    kept = tmp_path / "copy" / "journal.log"
    assert kept.read_bytes() == (run / "journal.log").read_bytes()


def test_groups_that_cannot_be_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="digits: groups: ValueError: optimizer got an empty"):
        lrtune.tune(digits(groups=lambda model: []), out=tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_folder_that_another_search_has_or_that_cannot_be(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "copy"))
    with FileLock(folder / "lock"), pytest.raises(InputError, match="another lrtune"):
        again_in(folder, trials=9)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be a run's folder: Not a directory"):
        lrtune.tune(digits(), out=tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (None, None, "not a run"),
        ('"format": 3', '"format": 2', "a run's settings of format 2: this lrtune reads format 3"),
        ('"study": ', '"title": ', "damaged: study is missing"),
        ('"slots": 1', '"slots": 0', "damaged: engine.slots: expected greater than or equal to 1"),
        ('"slots": 1', '"slots": "1"', "damaged: engine.slots: expected a valid integer"),
    ],
)
def test_a_damaged_run(
    run: Path, tmp_path: Path, old: str | None, new: str | None, message: str
) -> None:
    if old is not None and new is not None:
        text = (run / "run.json").read_text()
        assert old in text
        (tmp_path / "run.json").write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message):
        lrtune.open(tmp_path)


def test_a_run_whose_every_trial_diverged(tmp_path: Path) -> None:
    quick = {"budget": Budget(trials=3), "families": ["constant"], "peak_lr": (1e4, 1e5)}
    found = lrtune.tune(digits(epochs=1), out=tmp_path / "run", **quick)
    assert set(found.trials()["state"]) == {"diverged"}
    assert found.best() is None
    assert not (found.folder / "best.json").exists()
    assert (found.folder / "report.html").exists()


def test_a_search_on_another_storage(tmp_path: Path) -> None:
    arguments = {"families": ["linear"], "peak_lr": (0.01, 0.1)}
    arguments |= {"storage": f"sqlite:///{tmp_path}/study.db"}
    for trials in (2, 3):
        budget, task = Budget(trials=trials), digits(epochs=1)
        found = lrtune.tune(task, budget=budget, out=tmp_path / "run", **arguments)
        assert len(found.trials()) == trials
    assert not (tmp_path / "run" / "journal.log").exists()
    with pytest.raises(InputError, match="belongs to another run"):
        lrtune.tune(task, out=tmp_path / "other", **arguments)
    assert len(found.trials()) == 3


URLS = {
    "mysql://me:se'cret $1@host/db": "mysql://me@host/db",
    "mysql://me:s@cret@host:3306/db": "mysql://me@host:3306/db",
    "mysql://me@host/db?password=secret&ssl=1": "mysql://me@host/db?ssl=1",
    "mysql://me@host/db?ssl=1&PWD=secret&x=1": "mysql://me@host/db?ssl=1&x=1",
    "postgresql://me@h/db?sslpassword=secret": "postgresql://me@h/db",
    "postgresql://me@h/db?passfile=/home/me/.pgpass": "postgresql://me@h/db?passfile=/home/me/.pgpass",
    "mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dsecret": "mssql+pyodbc:///",
    "mysql:/me:secret@host/db": "mysql:/me@host/db",
    "mysql://me:secret": "mysql://me",
    "mysql://me@host/db?api_key=secret&ssl_key=a.pem": "mysql://me@host/db?ssl_key=a.pem",
    "mysql://[::1]:3306/db": "mysql://[::1]:3306/db",
    "sqlite:////tmp/a:b@c.db": "sqlite:////tmp/a:b@c.db",
    "sqlite:///a:b@c.db": "sqlite:///a:b@c.db",
    "journal://a:b": "journal://a:b",
    "mysql://host:3306/db": "mysql://host:3306/db",
}


@pytest.mark.parametrize("url", URLS)
def test_passwords_are_hidden_in_urls_and_commands(url: str) -> None:
    assert without_secrets(url) == URLS[url]
    words = ["lrtune", "search", "digits", f"--storage={url}"]
    shown = command_without_secrets(shlex.join(words))
    assert shlex.split(shown)[-1] == f"--storage={URLS[url]}"
    no_command = command_without_secrets("it's --storage mysql://me:secret@host/db")
    assert "secret" not in no_command
    plain = "lrtune search digits  --epochs 2 | tee log"
    assert command_without_secrets(plain) == plain


def test_errors_name_a_storage_without_its_password(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "mysql+nosuch://me:secret@host/db"
    with pytest.raises(InputError, match=r"storage mysql\+nosuch://me@host/db") as told:
        load_study(url, "study")
    assert "secret" not in str(told.value)
    with pytest.raises(InputError, match="me@") as told:
        again(run, tmp_path / "copy", storage=url)
    assert "secret" not in str(told.value)
    memory = optuna.storages.InMemoryStorage()
    monkeypatch.setattr("lrtune.search.study.open_storage", lambda _: memory)
    with pytest.raises(InputError, match="has no study") as told:
        load_study(url, "study")
    assert "secret" not in str(told.value)


def test_a_metric_that_is_nan_at_the_end_costs_nothing(tmp_path: Path) -> None:
    task = digits(epochs=1)
    nan = lrtune.Metric("nan", lambda outputs, targets: float("nan"), "maximize")
    task = replace(task, metrics=(*task.metrics, nan))
    arguments = {"families": ["constant"], "peak_lr": (0.01, 0.1), "budget": Budget(trials=1)}
    found = lrtune.tune(task, out=tmp_path, **arguments)
    best = json.loads((tmp_path / "best.json").read_text())
    assert best["found"]["metrics"]["nan"] is None
    assert found.best() is not None and (tmp_path / "report.html").exists()


def torn_before_the_end(content: bytes) -> bytes:
    """Half of a line, and then two whole ones, as when a disk was full for another program."""
    *before, torn, one, two = content.splitlines(keepends=True)
    return b"".join([*before, torn[: len(torn) // 2], one, two])


@pytest.mark.parametrize("damage", [lambda content: content[:-20], torn_before_the_end])
def test_a_journal_that_a_full_disk_has_torn(run: Path, tmp_path: Path, damage) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "copy"))
    torn = damage((folder / "journal.log").read_bytes())
    (folder / "journal.log").write_bytes(torn)
    told = Told()
    found = again_in(folder, listener=told).trials()
    before = pd.read_parquet(run / "trials.parquet")
    np.testing.assert_array_equal(found["value"], before["value"])
    assert any("damaged" in line for line in told.lines)
    (kept,) = folder.glob("journal.log.damaged-*")
    assert kept.read_bytes() == torn


def test_a_journal_that_is_none(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "copy")
    (tmp_path / "copy" / "journal.log").write_text("hello\n")
    with pytest.raises(InputError, match="not an Optuna journal"):
        again_in(tmp_path / "copy")


def test_a_journal_that_is_lost_is_not_made_anew(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "copy")
    (folder / "journal.log").unlink()
    for use in (lambda: lrtune.open(folder).write(), lambda: again_in(folder)):
        with pytest.raises(InputError, match="restore it"):
            use()
    assert not (folder / "journal.log").exists()
    assert len(pd.read_parquet(folder / "trials.parquet")) == 8


@pytest.mark.parametrize("age", [0, 1e9, -1e9])
def test_a_lock_left_by_a_killed_process(age: float, run: Path, tmp_path: Path) -> None:
    """Even a moment ago, or before the clock was put back; Optuna waits for half a minute."""
    folder = shutil.copytree(run, tmp_path / "copy")
    lock, made = folder / "journal.log.lock", time.time() - age
    lock.symlink_to("nowhere")
    os.utime(lock, (made, made), follow_symlinks=False)
    began = time.monotonic()
    unlock(folder / "journal.log", stale_seconds=0.2)
    assert not lock.is_symlink() and time.monotonic() - began < 5


def test_a_lock_of_who_is_at_work_stays(tmp_path: Path) -> None:
    journal, lock = tmp_path / "journal.log", tmp_path / "journal.log.lock"
    lock.symlink_to("nowhere")

    def taken_again() -> None:
        other = tmp_path / "other"
        other.symlink_to("nowhere")
        os.utime(other, (time.time(), time.time() + 1), follow_symlinks=False)
        other.replace(lock)

    timer = threading.Timer(0.3, taken_again)
    timer.start()
    unlock(journal, stale_seconds=20.0)
    timer.join()
    assert lock.is_symlink()


def test_what_a_kill_left_half_written_is_removed(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "copy")
    names = [".a.json.0123456789abcdef", ".a.json", ".b.json.0123456789abcdef"]
    for name in names:
        (folder / name).write_text("half")
    for name in names[:2]:
        os.utime(folder / name, (1, 1))
    again_in(folder, trials=8)
    assert [(folder / name).exists() for name in names] == [False, True, True]


def test_ctrl_c_while_results_are_written_comes_after_them(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside of a destructor Python would only print it."""
    folder = shutil.copytree(run, tmp_path / "copy")
    (folder / "report.html").unlink()

    class Interrupted:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    def interrupted(*given: object) -> object:
        Interrupted()
        return write(*given)

    monkeypatch.setattr("lrtune.run.folder.write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lrtune.open(folder).write()
    assert (folder / "report.html").exists()


def test_tuning_leaves_torch_as_it_was(run: Path, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    again(run, tmp_path / "copy", trials=9)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == THREADS


@pytest.mark.parametrize(
    ("metric", "families", "study"),
    [
        ("cross_entropy", SEARCHABLE, "digits-mlp-sgd-36"),
        ("accuracy", SEARCHABLE, "digits-mlp-sgd-36-accuracy"),
        ("macro_f1", ("cosine", "wsd"), "digits-mlp-sgd-36-macro_f1-cosine-wsd"),
        (None, ("cosine", "wsd", "step", "rex"), "digits-mlp-sgd-36-4-families-226f8c"),
    ],
)
def test_another_question_has_a_folder_of_its_own(
    metric: str | None, families: tuple[str, ...], study: str
) -> None:
    task = lrtune.load_task(
        "digits", batch_size=32, epochs=1, **({} if metric is None else {"metric": metric})
    )
    found = settings_for(task, StudyFile(task="digits", families=list(families)), "cpu")
    assert found.study == study
