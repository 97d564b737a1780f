"""Groups that are served as they come: nothing waits, nothing is trained twice or lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from idle import (
    EVERYTHING,
    AsTheyCome,
    ComingPool,
    NoisyPool,
    SpoiltPool,
    checkpoint_every_segment,
    pruned_in,
    search_in,
    study_in,
)
from test_confirmation import COSINE, PLATEAU, SeededPool, job_of, jobs, trained

from lrtune.search import Record, Search, frame, loop, records
from lrtune.search.storage import START, index_of
from lrtune.search.trials import CLOCK, TrialQueue

TRIALS = 24
FOREVER = float("inf")


@pytest.fixture(autouse=True)
def every_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "due", loop.due)  # put back at the end
    checkpoint_every_segment()


def numbers(trials: list[Record]) -> list[int]:
    return [record.number for record in trials]


def searched(folder: Path, pool: SpoiltPool, **how: Any) -> list[Record]:
    return pruned_in(folder, pool, TRIALS, stopping=EVERYTHING, checkpoint=True, **how)


def test_a_fast_group_trains_more(tmp_path: Path) -> None:
    pool = ComingPool(slots=6, groups=3)
    trials = searched(tmp_path, pool)
    assert numbers(trials) == [*range(TRIALS)] and pool.launched == []
    assert {record.state for record in trials} >= {"complete", "pruned", "diverged"}
    first, second, third = map(pool.collected.count, range(3))
    assert first > second > third
    assert pool.looks == len(pool.collected)


@pytest.mark.parametrize("dies_in", [3, 25])
@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("makes", [(ComingPool, ComingPool), (NoisyPool, ComingPool, NoisyPool)])
def test_whatever_a_session_left_goes_on_at_once(
    tmp_path: Path,
    makes: tuple[Callable[[int, int], NoisyPool], ...],
    dies_in: int,
    killed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for make in makes[:-1]:
        pool = make(6, 3)
        pool.dies_in = dies_in
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            if killed:
                patched.setattr(TrialQueue, "close", lambda *_: None)
            searched(tmp_path, pool)
    pool = makes[-1](5, 1)
    pool.dies_in = 2
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path, pool)
    left = TRIALS - len(records(study_in(tmp_path)))
    assert len(pool._updates) == min(5, left)  # nothing waits for its time
    assert numbers(searched(tmp_path, makes[-1](6, 2))) == [*range(TRIALS)]


def test_what_a_trial_survived_is_what_the_storage_says(tmp_path: Path) -> None:
    pool = ComingPool(slots=4, groups=2)
    pool.dies_in = 11
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path, pool)
    trials = study_in(tmp_path).trials
    seen = {index_of(trial): trial.last_step for trial in trials if trial.state.name == "FAIL"}
    starts = [trial.user_attrs[START] for trial in trials if trial.state.name == "WAITING"]
    assert {start["index"]: start["survived"] for start in starts} == seen and len(seen) == 4
    assert not any(CLOCK in start for start in starts)


def test_a_lost_host_is_replaced_and_both_are_named(tmp_path: Path) -> None:
    pool = ComingPool(slots=4, groups=2, lost={1: (4.5, 9.0)})
    trials = search_in(tmp_path, pool, 8, checkpoint=True)
    assert numbers(trials) == [*range(8)] and {record.updates for record in trials} == {400}
    assert [record.hosts for record in trials[:4]] == [["host-0"]] * 2 + [["host-1", "host-1b"]] * 2
    assert [*frame(trials)["hosts"]] == [record.hosts for record in trials]


def test_the_end_of_the_budget_does_not_wait_for_a_lost_host(tmp_path: Path) -> None:
    pool = ComingPool(slots=4, groups=2, lost={1: (4.5, FOREVER)})
    assert search_in(tmp_path, pool, 8, checkpoint=True, spent=lambda: pool.now > 12) != []
    assert pool.launched == [1]
    pool = ComingPool(slots=4, groups=2)
    trials = search_in(tmp_path, pool, 8, checkpoint=True)
    assert numbers(trials) == [*range(8)] and {record.updates for record in trials} == {400}
    assert pool.restored == 4 and pool.spared > 4 * 50  # the lost ones from the checkpoint before


def test_a_search_waits_for_its_first_host(tmp_path: Path) -> None:
    pool = ComingPool(slots=2, groups=1, lost={0: (0.0, 5.0)})
    assert len(search_in(tmp_path, pool, 3)) == 3 and pool.looks == 1 + len(pool.collected)


def test_groups_with_nothing_to_train_cost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, asked, opened = ComingPool(slots=200, groups=100), [], []
    ask, open_ = Search.next, pool.open
    monkeypatch.setattr(Search, "next", lambda *given: (asked.append(1), ask(*given))[1])
    monkeypatch.setattr(pool, "open", lambda group: (opened.append(1), open_(group))[1])
    assert len(search_in(tmp_path, pool, 6)) == 6
    assert len(asked) <= 2 * 6 + 1  # once a trial, and once after each
    assert len(opened) <= 100 + 3 * len(pool.collected)


def test_finals_are_trained_once_each_and_say_where() -> None:
    class Coming(AsTheyCome, SeededPool):
        pass

    todo = jobs(COSINE, PLATEAU, seeds=4)
    finals = trained(Coming(4, 2, lost={1: (3.5, 6.0)}), todo)
    assert {job_of(final) for final in finals} == {*todo} and len(finals) == len(todo)
    assert {tuple(final.hosts) for final in finals} >= {("host-0",), ("host-1", "host-1b")}
