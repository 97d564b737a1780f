"""A study in a database that is locked, away or used by others for a while."""

import itertools
import logging
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import optuna
import pytest
from idle import SPACE, SpoiltPool, assert_same, search_in, study_in
from sqlalchemy import Engine, event
from sqlalchemy.engine.default import DefaultDialect

from lrtune import InputError
from lrtune.engine import Progress
from lrtune.search import Limits, Loop, Search, SearchState, load_study, open_study, records
from lrtune.search.batch import together
from lrtune.search.claimed_database import ClaimedDatabase
from lrtune.search.loop import Interrupts
from lrtune.search.study import take


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


def test_what_was_written_before_the_answer_was_lost_is_not_written_twice(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = search_in(tmp_path / "alone", SpoiltPool(slots=2), 6)
    commits, commit = itertools.count(), DefaultDialect.do_commit

    def lost(dialect: DefaultDialect, connection: Any) -> None:
        commit(dialect, connection)
        if (count := next(commits)) > 20 and count % 3 == 2:  # once it is open
            raise sqlite3.OperationalError("connection lost")

    with monkeypatch.context() as patched:
        patched.setattr(DefaultDialect, "do_commit", lost)
        found = search_in(tmp_path / "lost", SpoiltPool(slots=2), 6, storage=url)
    assert next(commits) > 50
    assert_same(found, expected)
    assert len(load_study(url, "s").trials) == 6


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


@pytest.mark.parametrize("moment", ["between segments", "in a batch"])
def test_a_server_that_is_stopped_in_the_middle(
    postgres, tmp_path: Path, caplog: pytest.LogCaptureFixture, moment: str
) -> None:
    url, control = postgres
    expected = search_in(tmp_path / "alone", SpoiltPool(slots=2), 6)
    moments = itertools.count()

    def stop(*_: object) -> None:
        if next(moments) == 9:
            command = [*control, "stop", "-m", "immediate"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            given = {"args": [*control, "start"], "stdout": subprocess.DEVNULL}
            threading.Timer(2.0, subprocess.run, kwargs=given).start()

    def spoil(progress: Progress) -> Progress:
        if moment == "between segments":
            stop()
        return progress

    def within(*arguments: Any) -> None:
        if "INSERT INTO trial_intermediate_values" in arguments[2]:
            stop()

    if moment == "in a batch":
        event.listen(Engine, "before_cursor_execute", within)
    try:
        found = search_in(tmp_path / "server", SpoiltPool(spoil, slots=2), 6, storage=url)
    finally:
        if moment == "in a batch":
            event.remove(Engine, "before_cursor_execute", within)
    assert next(moments) > 10
    assert_same(found, expected)
    lines = [record.getMessage() for record in caplog.records]
    assert ["no answer" in line for line in lines] == [True, False] and "again" in lines[1]


@contextmanager
def statements() -> Iterator[list[str]]:
    """All that is sent to databases."""
    sent: list[str] = []

    def note(*arguments: Any) -> None:
        sent.append(arguments[2])

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def test_what_a_report_costs_does_not_depend_on_how_many_trials_run(url: str) -> None:
    """Nor does a batch of reports; and what is read for decisions costs nothing."""
    counted = []
    for running in (4, 64):
        study = take(url, f"{running} trials", "me", "minimize").study()
        trials = [study.ask() for _ in range(running)]
        with statements() as alone:
            trials[0].report(0.5, 1)
        with statements() as batch, together():
            for trial in trials:
                trial.report(0.4, 2)
                trial.set_user_attr("seen", True)
        with statements() as read:
            study.get_trials(deepcopy=False)
            trials[0].should_prune()
        with statements() as told:
            study.tell(trials[0], 0.5)
        with statements() as asked:
            study.ask()
        counted.append([len(sent) for sent in (alone, batch, read, told, asked)])
    assert counted[0] == counted[1]
    assert counted[0][:4] == [3, 4, 0, 3]


@pytest.mark.parametrize("late", [False, True])
def test_a_trial_that_somebody_else_ended_is_taken_as_it_was_told(
    url: str, tmp_path: Path, late: bool
) -> None:
    told: list[str] = []
    after = SpoiltPool().task.horizon - 1 if late else 100

    def end(progress: Progress) -> Progress:
        study = load_study(url, "s")
        if progress.update > after and not any(t.state.is_finished() for t in study.trials):
            study.tell(0, 7.0)
        return progress

    study = study_in(tmp_path / "run", storage=url)
    state = SearchState(Limits(trials=3))
    search = Search(study, SPACE, SpoiltPool(end), state, owner="me", tell=told.append)
    Loop(search._pool, [search]).run()
    assert told == ["trial 0 was ended by somebody else: taken as it was told"]
    assert study.trials[0].value == 7.0
    assert len(records(study)) == 3  # without it
    assert_same(records(load_study(url, "s")), records(study))


def test_a_new_trial_is_not_that_which_somebody_else_queues_at_the_same_time(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = take(url, "s", "me", "minimize").study()
    theirs, catch_up = open_study(url, "s", "minimize"), ClaimedDatabase._catch_up

    def late(database: ClaimedDatabase) -> None:
        theirs.enqueue_trial({})
        catch_up(database)

    theirs.enqueue_trial({})
    monkeypatch.setattr(ClaimedDatabase, "_catch_up", late)
    assert study._storage.create_new_trial(study._study_id) == 1
    states = [trial.state.name for trial in load_study(url, "s").trials]
    assert states == ["WAITING", "RUNNING", "WAITING"]


def test_a_study_that_was_deleted(url: str) -> None:
    study = take(url, "s", "me", "minimize").study()
    optuna.delete_study(study_name="s", storage=url)
    with pytest.raises(InputError, match="its study s is gone"):
        study.ask()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("ignored", [False, True])
def test_a_signal_ends_the_wait_for_a_database_unless_it_is_ignored(
    url: str, tmp_path: Path, number: signal.Signals, ignored: bool
) -> None:
    study = open_study(url, "s", "minimize")
    before = signal.signal(number, signal.SIG_IGN if ignored else signal.default_int_handler)
    expected = nullcontext() if ignored else pytest.raises(KeyboardInterrupt)
    waits, heard = logging.Handler(), threading.Event()

    def interrupt() -> None:
        while not heard.wait(0.05):
            os.kill(os.getpid(), number)
            if ignored:
                other.rollback()

    signals = threading.Thread(target=interrupt)
    waits.emit = lambda line: "no answer" in line.getMessage() and signals.start()
    try:
        with closing(sqlite3.connect(tmp_path / "study.db", check_same_thread=False)) as other:
            other.execute("BEGIN EXCLUSIVE")
            logging.getLogger("lrtune").addHandler(waits)
            with expected, Interrupts():
                try:
                    study.set_user_attr("seen", 1)
                finally:
                    heard.set()
                    signals.join()
    finally:
        logging.getLogger("lrtune").removeHandler(waits)
        signal.signal(number, before)
