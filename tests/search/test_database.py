"""A study in a database that is locked, away or used by others for a while."""

import itertools
import logging
import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from idle import SPACE, SpoiltPool, assert_same, search_in, study_in
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState, create_trial
from sqlalchemy import exc

from lrtune import InputError
from lrtune.engine import Progress
from lrtune.search import Limits, Loop, Search, SearchState, load_study, open_study, records
from lrtune.search.database import open_database

BIN = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/study.db?timeout=0.1"


def test_a_locked_database_is_waited_for(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = open_study(url, "s", "minimize")
    trial = study.ask()
    with closing(sqlite3.connect(tmp_path / "study.db", check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        threading.Timer(1.0, other.rollback).start()
        with caplog.at_level(logging.WARNING):
            trial.report(0.5, 1)
            study.tell(trial, 0.4)
    lines = [record.getMessage().partition("study.db")[2] for record in caplog.records]
    assert [line.partition(": ")[2].partition(" (")[0] for line in lines] == [
        "no answer",
        "answers again",
    ]
    (stored,) = load_study(url, "s").trials
    assert stored.value == 0.4 and stored.intermediate_values == {1: 0.5}


def test_it_is_given_up_after_a_while(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LRTUNE_STORAGE_WAIT", "0.5")
    study = open_study(url, "s", "minimize")
    with closing(sqlite3.connect(tmp_path / "study.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        for _ in range(2):  # the second time nobody waits
            with pytest.raises(
                TimeoutError, match=r"no answer for 0\.5\ss .*the same command goes"
            ):
                study.ask()
    monkeypatch.setenv("LRTUNE_STORAGE_WAIT", "soon")
    with pytest.raises(InputError, match="LRTUNE_STORAGE_WAIT='soon': expected seconds"):
        open_study(url, "s", "minimize")


@pytest.mark.parametrize("method", ["create_new_trial", "set_trial_state_values"])
def test_what_was_written_before_the_answer_was_lost_is_not_written_twice(
    url: str, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    storage = open_database(url)
    study = optuna.create_study(storage=storage, study_name="s")
    inner, calls = storage._storage, []

    def lost(*args: object, **given: object) -> object:
        calls.append(args)
        found = getattr(type(inner), method)(inner, *args, **given)
        if len(calls) == 1:
            raise exc.OperationalError("COMMIT", None, Exception("connection lost"))
        return found

    monkeypatch.setattr(inner, method, lost)
    waiting = create_trial(state=TrialState.WAITING, user_attrs={"lrtune.start": {"index": 0}})
    study.add_trial(waiting)
    trial = study.ask()
    study.tell(trial, 0.5)
    assert [t.value for t in study.trials] == [0.5]
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)


def first_use(url: str) -> None:
    open_study(url, f"study {os.getpid()}", "minimize").ask()


def test_two_first_uses_at_once(url: str) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=first_use, args=[url]) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(optuna.get_all_study_names(url)) == 3


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """PostgreSQL on loopback: its URL, and the command that controls it."""
    pytest.importorskip("psycopg2")
    if not BIN.exists():
        pytest.skip("no PostgreSQL 15")
    folder, port = tmp_path / "server", 20000 + os.getpid() % 20000
    run_as = shutil.which("runuser", path="/usr/sbin:/sbin:/usr/bin:/bin")
    as_user = [str(run_as), "-u", "postgres", "--"] if os.getuid() == 0 else []
    if as_user:
        folder = Path("/tmp") / f"lrtune-postgres-{os.getpid()}"  # where another user may go
        folder.mkdir(mode=0o700)
        shutil.chown(folder, "postgres")
    control = [*as_user, str(BIN / "pg_ctl"), "-D", str(folder), "-w", "-l", f"{folder}/log"]
    control += ["-o", f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"]
    init = [*as_user, str(BIN / "initdb"), "-D", str(folder), "-U", "me", "--auth=trust"]
    subprocess.run(init, check=True, capture_output=True)
    subprocess.run([*control, "start"], check=True, stdout=subprocess.DEVNULL)
    yield f"postgresql+psycopg2://me:secret@127.0.0.1:{port}/postgres", control
    subprocess.run([*control, "stop", "-m", "immediate"], check=False, stdout=subprocess.DEVNULL)
    shutil.rmtree(folder)


def test_a_server_that_is_stopped_in_the_middle(server, tmp_path: Path) -> None:
    url, control = server
    expected = search_in(tmp_path / "alone", SpoiltPool(slots=2), 6)
    segments = itertools.count()

    def stop(progress: Progress) -> Progress:
        if next(segments) == 9:
            command = [*control, "stop", "-m", "immediate"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            given = {"args": [*control, "start"], "stdout": subprocess.DEVNULL}
            threading.Timer(2.0, subprocess.run, kwargs=given).start()
        return progress

    found = search_in(tmp_path / "server", SpoiltPool(stop, slots=2), 6, storage=url)
    assert next(segments) > 10
    assert_same(found, expected)


def test_a_trial_that_somebody_else_ended_is_taken_as_it_was_told(url: str, tmp_path: Path) -> None:
    told: list[str] = []

    def end(progress: Progress) -> Progress:
        study = load_study(url, "s")
        if progress.update > 100 and not any(t.state.is_finished() for t in study.trials):
            study.tell(0, 7.0)
        return progress

    study = study_in(tmp_path / "run", storage=url)
    state = SearchState(Limits(trials=3))
    search = Search(study, SPACE, SpoiltPool(end), state, owner="me", tell=told.append)
    Loop(search._pool, [search]).run()
    assert told == ["trial 0 was ended by somebody else: taken as it was told"]
    assert study.trials[0].value == 7.0
    assert len(records(study)) == 3  # without it
