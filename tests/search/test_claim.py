"""A study has one writer: of two that begin at once one, and of two sessions of a run the later."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from idle import SpoiltPool, assert_same, search_in, study_in

from lrtune import InputError
from lrtune.engine import Progress
from lrtune.errors import Superseded
from lrtune.search import load_study, open_study
from lrtune.search.batch import together
from lrtune.search.study import take

FORK = multiprocessing.get_context("fork")
STORAGES = ("journal", "sqlite", "postgresql")
Place = str | Path


@pytest.fixture(params=STORAGES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Where a study is kept."""
    if request.param == "journal":
        yield tmp_path / "journal.log"
    elif request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/study.db"
    else:
        yield request.getfixturevalue("postgres")[0]


def begin(
    place: Place,
    study: str,
    owner: str,
    start: Barrier,
    all_have: Barrier | None,
    said: SimpleQueue,
) -> None:
    """Take a study and begin its first trial, at once or when all have taken it."""
    start.wait()
    try:
        session = take(place, study, owner, "minimize")
        if all_have is not None:
            all_have.wait()
        session.study().ask()
        said.put(owner)
    except InputError as error:
        said.put(str(error))


def test_of_runs_that_begin_at_once_one_has_the_study(place: Place) -> None:
    for number in range(4):
        owners = {"a", "b", "c"}
        start, said = FORK.Barrier(3), FORK.SimpleQueue()
        all_have = FORK.Barrier(3) if number % 2 else None
        ends = [
            FORK.Process(target=begin, args=[place, f"s{number}", owner, start, all_have, said])
            for owner in owners
        ]
        for process in ends:
            process.start()
        sentences = {said.get() for _ in ends}
        for process in ends:
            process.join()
        assert [process.exitcode for process in ends] == [0, 0, 0]
        (first,) = sentences & owners
        (refusal,) = sentences - owners
        assert f"its study s{number} belongs to another run: " in refusal
        study = load_study(place, f"s{number}")
        assert study.user_attrs["lrtune.head"]["owner"] == first and len(study.trials) == 1


def test_a_study_without_trials_is_anybodys(place: Place) -> None:
    first = take(place, "s", "a", "minimize").study()
    second = take(place, "s", "b").study()
    with pytest.raises(InputError, match="its study s belongs to another run: "):
        first.ask()
    second.ask()
    with pytest.raises(InputError, match="its study s belongs to another run: "):
        take(place, "s", "a")
    assert len(second.trials) == 1


WRITES: dict[str, Callable[..., object]] = {
    "a report": lambda study, trial: trial.report(0.5, 2),
    "an end": lambda study, trial: study.tell(trial, 0.5),
    "a trial": lambda study, trial: study.ask(),
    "an attribute": lambda study, trial: study.set_user_attr("a", 1),
}


@pytest.mark.parametrize("write", WRITES)
def test_an_earlier_session_writes_nothing(place: Place, write: str) -> None:
    study = take(place, "s", "me", "minimize").study()
    trial = study.ask()
    trial.report(0.5, 1)
    take(place, "s", "me")
    for _ in range(2):
        with pytest.raises(Superseded, match="another session of this run has taken over: this "):
            WRITES[write](study, trial)
    (stored,) = load_study(place, "s").trials
    assert (stored.state.name, stored.intermediate_values) == ("RUNNING", {1: 0.5})
    assert "a" not in load_study(place, "s").user_attrs


def test_a_forked_copy_of_a_session_ends_before_it_writes(place: Place) -> None:
    session = take(place, "s", "me", "minimize")
    study = session.study()
    for act in (study.ask, session.storage.check):
        copy = FORK.Process(target=act)  # its code came back into the search
        copy.start()
        copy.join()
        assert copy.exitcode == 1
    study.ask()
    assert len(load_study(place, "s").trials) == 1


def test_nor_what_it_had_not_written_yet(place: Place) -> None:
    study = take(place, "s", "me", "minimize").study()
    trial = study.ask()
    with pytest.raises(Superseded), together():
        trial.report(0.5, 1)
        take(place, "s", "me")
    assert load_study(place, "s").trials[0].intermediate_values == {}


def test_nor_a_file_in_the_folder(place: Place, tmp_path: Path) -> None:
    from lrtune.files import replace

    session = take(place, "s", "me", "minimize")
    with session.under_way():
        replace(tmp_path / "run.json", b"ours")
        take(place, "s", "me")
        with pytest.raises(Superseded):
            replace(tmp_path / "run.json", b"again")
    assert [path.read_bytes() for path in tmp_path.glob("*run.json*")] == [b"ours"]


def test_a_session_that_stood_still_while_another_went_on(place: Place, tmp_path: Path) -> None:
    """On any machine: nothing is told twice, and the answer is as if there had been one."""
    expected = search_in(tmp_path / "alone", SpoiltPool(slots=2), 8)
    segments = iter(range(1000))

    def stand_still(progress: Progress) -> Progress:
        if next(segments) == 20:
            os.kill(os.getpid(), signal.SIGSTOP)
        return progress

    def search(said: SimpleQueue) -> None:
        try:
            search_in(tmp_path / "run", SpoiltPool(stand_still, slots=2), 8, storage=place)
        except Superseded as error:
            said.put(str(error))

    said = FORK.SimpleQueue()
    earlier = FORK.Process(target=search, args=[said])
    earlier.start()
    assert os.WIFSTOPPED(os.waitpid(earlier.pid, os.WUNTRACED)[1])
    assert_same(search_in(tmp_path / "run", SpoiltPool(slots=2), 8, storage=place), expected)
    before = repr(load_study(place, "s").trials)
    os.kill(earlier.pid, signal.SIGCONT)
    assert "another session of this run has taken over" in said.get()
    earlier.join()
    assert repr(load_study(place, "s").trials) == before


def test_what_the_dashboard_queues_is_tried_next(place: Place) -> None:
    study = take(place, "s", "me", "minimize").study()
    study.ask()
    theirs = open_study(place, "s", "minimize")
    theirs.enqueue_trial({"x": 0.25})
    trial = study.ask()
    assert (trial.number, trial.suggest_float("x", 0, 1)) == (1, 0.25)
    theirs.enqueue_trial({"x": 0.75})
    study.enqueue_trial({"x": 0.5})
    assert [study.ask().suggest_float("x", 0, 1) for _ in range(2)] == [0.75, 0.5]
    told = [trial.params for trial in load_study(place, "s").trials]
    assert told == [{}, {"x": 0.25}, {"x": 0.75}, {"x": 0.5}]


def test_it_reads_what_it_wrote(place: Place, tmp_path: Path) -> None:
    """All kinds of numbers and attributes, some of them twice."""
    study = study_in(tmp_path / "run", storage=place)
    study.enqueue_trial({"x": 0.25}, user_attrs={"a": (1, "ä")})
    trial = study.ask()
    trial.suggest_float("x", 0, 1), trial.suggest_categorical("kind", ["a", None, 3])
    for step, value in enumerate([0.5, float("inf"), -float("inf"), float("nan")]):
        trial.report(value, step)
    with together():
        for value in ({"b": [1, None]}, "last"):
            trial.set_user_attr("a", value)
    trial.set_constraint("c", 2.0)
    study.tell(trial, 0.125)
    study.set_user_attr("seen", 1)
    study.set_user_attr("seen", 2)
    (own,), (stored,) = study.trials, load_study(place, "s").trials
    for name in ("params", "distributions", "user_attrs", "system_attrs", "values", "state"):
        assert getattr(own, name) == getattr(stored, name)
    assert repr(own.intermediate_values) == repr(stored.intermediate_values)
    assert abs(own.datetime_start - stored.datetime_start).total_seconds() < 60
    assert load_study(place, "s").user_attrs["seen"] == study.user_attrs["seen"] == 2
