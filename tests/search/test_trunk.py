"""Forks: what trials of one peak share is trained once, and each is what it would have been."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from idle import (
    CHECKPOINT,
    FLATS,
    EdgyPool,
    SpoiltPool,
    assert_same,
    checkpoint_every_segment,
    found_in,
    killed,
    search_in,
    study_in,
)
from overhead import idle_task

from lrtune.engine import Progress, SerialPool
from lrtune.schedule import Schedule
from lrtune.search import Budget, Search, keeper, trunk
from lrtune.search.journal import mend
from lrtune.search.peak import BRANCHES, Peak, Peaks
from lrtune.tasks import load_task

TRIALS = 48
BUDGET = Budget(trials=TRIALS)
HORIZON = idle_task().horizon


def plain(slots: int = 1) -> SpoiltPool:
    return SpoiltPool(lambda progress: progress, slots)


def peaks(*tried: tuple[float, float]) -> Peaks:
    found = Peaks()
    for index, (score, rate) in enumerate(tried):
        found.add(score, index, Peak(rate, 0.1))
    return found


WORSE = [(9.0, 1e-3)] * 5


@pytest.mark.parametrize(
    ("tried", "expected"),
    [
        ([], None),
        ([(1.0, 0.1), (2.0, 0.2), (3.0, 0.15), *WORSE[:4]], None),  # seven are too few
        ([(1.0, 0.1), (2.0, 0.2), (3.0, 0.15), *WORSE], 0.1),
        ([(3.0, 0.1), (1.0, 0.2), (2.0, 0.15), *WORSE], 0.2),
        ([(1.0, 0.1), (2.0, 0.21), (3.0, 0.15), *WORSE], None),  # the best are not of one mind
        ([(1.0, 0.1), (1.0, 0.2), (1.0, 0.15), *WORSE], 0.1),  # of equals, the first
    ],
)
def test_when_a_peak_is_settled(tried: list[tuple[float, float]], expected: float | None) -> None:
    settled = peaks(*tried).settled
    assert (settled.peak_lr if settled else None) == expected


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> dict[int, pd.DataFrame]:
    return {
        slots: search_in(tmp_path_factory.mktemp("a"), EdgyPool(slots), BUDGET, space=FLATS)
        for slots in (1, 3)
    }


@pytest.mark.parametrize("slots", [1, 3])
def test_the_trunk_is_trained_once_and_each_fork_is_the_whole_trial(
    unbroken: dict[int, pd.DataFrame], slots: int
) -> None:
    found = unbroken[slots]
    forks = found[found["forked"] > 0]
    assert len(forks) > 5
    assert set(forks["family"]) <= set(BRANCHES)
    assert len(forks[["peak_lr", "warmup"]].drop_duplicates()) <= 2
    for fork in forks.itertuples():
        assert fork.state == "complete"
        assert fork.updates + fork.forked == HORIZON
        pool = plain()
        rates = Schedule.from_json(fork.schedule).rates(HORIZON)
        pool.admit(0, rates, 5)
        losses = [pool.advance()[0].loss for _ in fork.step]
        assert fork.loss == losses
        assert fork.rate == list(rates[np.array(fork.step) - 1])


@pytest.mark.parametrize(
    ("slots", "checkpoints", "counts"),
    [(1, False, (520, 60)), (3, False, (470, 60, 7)), (3, True, (500, 40))],
)
def test_a_killed_search_forks_as_an_unbroken_one(
    tmp_path: Path,
    unbroken: dict[int, pd.DataFrame],
    slots: int,
    checkpoints: bool,
    counts: tuple[int, ...],
    monkeypatch,
) -> None:
    for count in counts:
        killed(tmp_path, slots, "SIGKILL", count, checkpoints, "entry", "FLATS", TRIALS)
        mend(tmp_path / "journal.log", stale_seconds=0)
    before = found_in(tmp_path)
    assert 0 < (before["forked"] > 0).sum() < (unbroken[slots]["forked"] > 0).sum()
    if checkpoints:
        monkeypatch.setattr(keeper, "due", keeper.due)
        checkpoint_every_segment()
    kept = {"checkpoint": tmp_path / CHECKPOINT} if checkpoints else {}
    assert_same(search_in(tmp_path, EdgyPool(slots), BUDGET, space=FLATS, **kept), unbroken[slots])


def test_the_budget_is_what_was_trained(tmp_path: Path) -> None:
    search = Search(
        study_in(tmp_path, space=FLATS), FLATS, plain(3), Budget(updates=30 * HORIZON), seed=5
    )
    board = search.run()
    found = found_in(tmp_path)
    assert board.updates == found["updates"].sum() >= 30 * HORIZON
    assert found["updates"].sum() < 31 * HORIZON
    assert len(found) > 30
    assert board.share == 1


def test_what_is_shared_is_trained_again_only_where_a_trial_may_fork(tmp_path: Path) -> None:
    class Counting(SpoiltPool):
        advanced = 0

        def advance(self) -> list[Progress]:
            self.advanced += 1
            return super().advance()

    (tmp_path / "whole").mkdir()
    whole = search_in(tmp_path / "whole", plain(), BUDGET, space=FLATS)
    last = int(whole.index[whole["forked"] > 0][-1])
    found = search_in(tmp_path, plain(), Budget(trials=last), space=FLATS)
    pool = Counting(lambda progress: progress)
    search_in(tmp_path, pool, Budget(trials=last), space=FLATS)
    assert pool.advanced == 0
    more = search_in(tmp_path, pool, Budget(trials=last + 1), space=FLATS)
    assert more["forked"].iloc[-1] > 0
    own = sum(step > more["forked"].iloc[-1] for step in more["step"].iloc[-1])
    trunk_length = max(found["forked"])
    assert pool.advanced >= own + sum(step <= trunk_length for step in more["step"].iloc[-1])


def test_memory_is_bounded(tmp_path: Path, monkeypatch) -> None:
    size = 12  # bytes of an idle snapshot
    monkeypatch.setattr(trunk, "ROOM", 4 * size)
    found = search_in(tmp_path, plain(), BUDGET, space=FLATS)
    steps = found["step"][0]
    assert set(found["forked"]) - {0} <= set(steps[1::2])
    assert (found["forked"] > 0).any()
    (tmp_path / "none").mkdir()
    monkeypatch.setattr(trunk, "ROOM", 1)
    assert (search_in(tmp_path / "none", plain(), BUDGET, space=FLATS)["forked"] == 0).all()


def test_a_real_fork_is_the_trial_trained_from_scratch(tmp_path: Path, monkeypatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(sys.modules["lrtune.search.peak"], "ENOUGH", 3)
    monkeypatch.setattr(sys.modules["lrtune.search.peak"], "WITHIN", 1e9)
    digits = load_task("digits")
    task = replace(digits, val=digits.val.part(0, 100), epochs=40 * 32 / 1149, validations=8)
    steps, step = [], SerialPool._step
    monkeypatch.setattr(SerialPool, "_step", lambda *a: (steps.append(1), step(*a))[1])
    found = search_in(tmp_path, SerialPool(task, 2), Budget(trials=14), space=FLATS)
    assert found["updates"].sum() == len(steps)
    forks = found[found["forked"] > 0]
    assert len(forks) > 2
    for fork in forks.itertuples():
        pool = SerialPool(task)
        pool.admit(0, Schedule.from_json(fork.schedule).rates(task.horizon), seed=5)
        reached = [pool.advance()[0] for _ in fork.step]
        assert [progress.update for progress in reached] == fork.step
        assert [progress.loss for progress in reached] == fork.loss
        assert [progress.losses.mean() for progress in reached] == fork.train_loss
        assert [progress.metrics["accuracy"] for progress in reached] == fork.val_accuracy
