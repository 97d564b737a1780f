"""Searches over hosts whose head stands still while another one goes on, or whose database does."""

import signal
import subprocess
from pathlib import Path

import pytest

import lrtune
from lrtune.search.claim import HEAD
from tests.cluster.commands import LOCKSTEP, Command, done, same
from tests.cluster.rays import Rays, until

pytestmark = pytest.mark.slow


@pytest.fixture
def words(request: pytest.FixtureRequest, tmp_path: Path) -> list[object]:
    """Of a command whose study is in the journal, or in a database."""
    storage = []
    if request.param == "postgresql":
        storage = ["--storage", request.getfixturevalue("postgres")[0]]
    return ["--out", tmp_path / "run", *storage]


@pytest.mark.parametrize("words", ["journal", "postgresql"], indirect=True)
def test_an_old_head_stops_where_a_new_one_took_over(
    rays: Rays, alone: Path, tmp_path: Path, words: list[object]
):
    run, old = tmp_path / "run", Command(rays, LOCKSTEP, *words)
    old.until(3)
    old.process.send_signal(signal.SIGSTOP)
    (run / "lock").unlink()  # as on another machine, which does not see it
    done(rays, LOCKSTEP, *words)
    assert rays.hosts  # those of the old one
    before, study = files(run), repr(lrtune.open(run).study().trials)
    old.process.send_signal(signal.SIGCONT)
    assert old.end() == 1, old.text()
    sentence = old.err[-1]
    assert sentence.startswith("lrtune: storage ") and "has taken over: this one stops" in sentence
    assert "Traceback" not in "".join(old.err)
    assert (files(run), repr(lrtune.open(run).study().trials)) == (before, study)
    assert lrtune.open(run).study().user_attrs[HEAD]["generation"] == 2
    same(run, alone)
    until(lambda: not rays.hosts)


def files(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.glob("[!.]*") if path.is_file()}


@pytest.mark.parametrize("words", ["postgresql"], indirect=True)
def test_a_database_that_is_away_is_waited_for(
    rays: Rays, postgres, alone: Path, tmp_path: Path, words: list[object]
):
    _, control = postgres
    command = Command(rays, LOCKSTEP, *words)
    command.until(3)
    subprocess.run([*control, "stop", "-m", "immediate"], check=True, stdout=subprocess.DEVNULL)
    try:
        until(lambda: "no answer" in "".join(command.err), 120, command.text)
        over = command.ended
    finally:
        subprocess.run([*control, "start"], check=True, stdout=subprocess.DEVNULL)
    assert command.end() == 0, command.text()
    assert over < 12
    said = [line for line in command.err if "answer" in line]
    assert ["no answer" in line for line in said] == [True, False] and "again" in said[1]
    same(tmp_path / "run", alone)
