"""Checkpoints of a search: they save time, and change nothing that it finds."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from idle import (
    CHECKPOINT,
    SPACE,
    TRIALS,
    VALIDATIONS,
    EdgyPool,
    SpoiltPool,
    assert_same,
    checkpoint_every_segment,
    dies,
    flat,
    found_in,
    killed,
    search_in,
    study_in,
)
from optuna.pruners import MedianPruner
from overhead import idle_task

from lrtune.engine import FusedPool, Progress, SerialPool
from lrtune.engine.checkpoint import load
from lrtune.engine.stacked import Program
from lrtune.search import Budget, Loop, Search, keeper
from lrtune.search.journal import mend
from lrtune.tasks import Task, load_task

BUDGET = Budget(trials=TRIALS)


@pytest.fixture(autouse=True)
def every_segment(monkeypatch) -> None:
    monkeypatch.setattr(keeper, "due", keeper.due)  # put back at the end
    checkpoint_every_segment()


@pytest.mark.parametrize(
    ("slots", "at", "counts"),
    [
        (1, "entry", (48, 2, 5)),
        (3, "entry", (77, 78, 120)),
        (3, "checkpoint", (11, 1, 30)),
    ],
)
def test_a_killed_search_ends_as_an_unbroken_one(
    tmp_path: Path, slots: int, at: str, counts: tuple[int, ...]
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    expected = search_in(whole, EdgyPool(slots), BUDGET)
    for count in counts:
        killed(broken, slots, "SIGKILL", count, checkpoints=True, at=at)
        assert len(found_in(broken)) < TRIALS
        mend(broken / "journal.log", stale_seconds=0)
    pool = EdgyPool(slots)
    found = search_in(broken, pool, BUDGET, checkpoint=broken / CHECKPOINT)
    assert_same(found, expected)
    assert 0 < pool.restored <= slots
    assert not list(broken.glob(f"{CHECKPOINT}*"))


class CutShort(SpoiltPool):
    """Ctrl-C in its n-th segment."""

    def __init__(self, segments: int, slots: int = 1, spoil=lambda progress: progress) -> None:
        super().__init__(spoil, slots)
        self.left = segments

    def advance(self) -> list[Progress]:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().advance()


def cut_short(folder: Path, pool: CutShort, budget: Budget = BUDGET, pruner=None) -> None:
    with pytest.raises(KeyboardInterrupt):
        search_in(folder, pool, budget, pruner, checkpoint=folder / CHECKPOINT)


@pytest.mark.parametrize("slots", [1, 2])
def test_fewer_slots_than_before(tmp_path: Path, slots: int) -> None:
    cut_short(tmp_path, CutShort(22, slots=3))
    # And again before all three have a slot: those that wait are not forgotten.
    cut_short(tmp_path, CutShort(2, slots))
    pool = SpoiltPool(lambda progress: progress, slots)
    found = search_in(tmp_path, pool, BUDGET, checkpoint=tmp_path / CHECKPOINT)
    assert len(found) == TRIALS
    assert pool.restored == 3
    assert (found["updates"] == 400).all()


def test_a_closed_loop_goes_on_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    knobs = {"plateau.warmup": 0.0, "plateau.patience": 2, "plateau.cooldown": 1}
    for folder in (tmp_path, tmp_path / "whole"):
        study_in(folder).enqueue_trial({"family": "plateau", **knobs})
    expected = search_in(tmp_path / "whole", SpoiltPool(flat), Budget(trials=1))
    cut_short(tmp_path, CutShort(7, spoil=flat), Budget(trials=1))
    pool = SpoiltPool(flat)
    found = search_in(tmp_path, pool, Budget(trials=1), checkpoint=tmp_path / CHECKPOINT)
    assert pool.spared == 300
    assert len(set(expected["rate"][0])) > 1
    assert_same(found, expected)


def test_a_pruner_sees_all_of_the_curve(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()

    # Not halving: to it, a trial that was cut short is one more rival of its own repetition.
    def pruner() -> MedianPruner:
        return MedianPruner(n_startup_trials=2)

    expected = search_in(
        tmp_path / "whole", SpoiltPool(lambda progress: progress), BUDGET, pruner()
    )
    assert set(expected["state"]) == {"complete", "pruned"}
    for segments in (6, 9, 3):
        cut_short(tmp_path, CutShort(segments), pruner=pruner())
    pool = SpoiltPool(lambda progress: progress)
    kept = {"checkpoint": tmp_path / CHECKPOINT}
    assert_same(search_in(tmp_path, pool, BUDGET, pruner(), **kept), expected)
    assert pool.restored == 1


@pytest.mark.parametrize("damage", ["cut", "other rates", "does not fit"])
def test_a_checkpoint_of_no_use_is_told_and_costs_nothing_else(
    tmp_path: Path, damage: str, monkeypatch
) -> None:
    told: list[str] = []
    cut_short(tmp_path, CutShort(20))
    path = tmp_path / CHECKPOINT
    pool = SpoiltPool(lambda progress: progress)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    if damage == "other rates":
        original = keeper.load
        monkeypatch.setattr(
            keeper,
            "load",
            lambda path: {
                key: (replace(kept, rates=2 * kept.rates), note)
                for key, (kept, note) in original(path).items()
            },
        )
    if damage == "does not fit":
        monkeypatch.setattr(pool, "restore", lambda slot, kept: {}["weights/other"])
    found = search_in(tmp_path, pool, BUDGET, checkpoint=path, tell=told.append)
    assert len(told) == 1 and "from scratch" in told[0]
    assert len(found) == TRIALS and pool.restored == 0
    assert (found["updates"] == 400).all()
    assert not path.exists()


def test_a_full_disk_ends_the_checkpoints_and_not_the_search(tmp_path: Path, monkeypatch) -> None:
    told: list[str] = []

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keeper, "save", full)
    pool = SpoiltPool(lambda progress: progress)
    found = search_in(tmp_path, pool, BUDGET, checkpoint=tmp_path / CHECKPOINT, tell=told.append)
    assert len(found) == TRIALS
    assert len(told) == 1 and "No space left" in told[0]


def test_another_runs_checkpoint_is_left_alone(tmp_path: Path) -> None:
    cut_short(tmp_path, CutShort(20))
    (tmp_path / "other").mkdir()
    os.rename(tmp_path / CHECKPOINT, tmp_path / "other" / CHECKPOINT)
    study = study_in(tmp_path / "other")
    pool = CutShort(3)
    with pytest.raises(KeyboardInterrupt):
        Loop(pool, [Search(study, SPACE, pool, BUDGET, seed=5, owner="you")]).run()
    pool = SpoiltPool(lambda progress: progress)
    search = Search(study_in(tmp_path / "other"), SPACE, pool, BUDGET, seed=5, owner="you")
    Loop(pool, [search], checkpoint=tmp_path / "other" / CHECKPOINT).run()
    assert pool.restored == 0


def test_a_budget_that_shrinks_and_grows_again_loses_nothing(tmp_path: Path) -> None:
    cut_short(tmp_path, CutShort(2 * VALIDATIONS + 4))
    kept = {"checkpoint": tmp_path / CHECKPOINT}
    pool = SpoiltPool(lambda progress: progress)
    search_in(tmp_path, pool, Budget(trials=2), **kept)
    assert pool.restored == 0
    search_in(tmp_path, pool, Budget(trials=3), **kept)
    assert pool.restored == 1


@pytest.mark.parametrize(
    ("since", "cost", "expected"),
    [(29, 0, False), (31, 0, True), (31, 0.5, True), (31, 1.0, False), (51, 1.0, True)],
)
def test_when(since: float, cost: float, expected: bool, monkeypatch) -> None:
    monkeypatch.undo()
    assert keeper.due(since, cost) == expected


# A real trainer that is killed in the middle of a segment.
SECONDS_LONG = """
import os, signal, sys
sys.path[:0] = {path!r}
from pathlib import Path
import torch
from lrtune.engine import {make}
import idle, test_keeper

torch.set_num_threads(1)
owner, name = test_keeper.STEPS[{make}]
left, step = {updates}, getattr(owner, name)

def counted(*given):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*given)

setattr(owner, name, counted)
idle.checkpoint_every_segment()
folder = Path({folder!r})
pool = {make}(test_keeper.small_task(), {slots})
idle.search_in(folder, pool, idle.Budget(trials=3), checkpoint=folder / idle.CHECKPOINT)
"""


def small_task() -> Task:
    """40 updates in 8 segments."""
    digits = load_task("digits", batch_size=32)
    return replace(digits, val=digits.val.part(0, 100), epochs=40 * 32 / 1149, validations=8)


# What trains: of one trial after the other, of all at once.
STEPS: dict[Any, tuple[Any, str]] = {
    SerialPool: (SerialPool, "_step"),
    FusedPool: (Program, "update"),
}


@pytest.mark.parametrize(
    ("make", "slots", "updates", "left"),  # killed before that step; steps that are left
    [
        (SerialPool, 1, 40 + 23, 20 + 40),
        (SerialPool, 2, 2 * 20 + 3, 3 * 40 - 2 * 20),
        (FusedPool, 2, 23, 20 + 40),
    ],
)
def test_a_trial_killed_within_a_segment_goes_on_from_the_last_one(
    tmp_path: Path, make: Any, slots: int, updates: int, left: int, monkeypatch
) -> None:
    torch.set_num_threads(1)
    (tmp_path / "whole").mkdir()
    (tmp_path / "broken").mkdir()
    owner, name = STEPS[make]
    steps, step = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *a: (steps.append(1), step(*a))[1])
    budget = Budget(trials=3)
    expected = search_in(tmp_path / "whole", make(small_task(), slots), budget)
    assert len(steps) == (3 if make is SerialPool else 2) * 40

    folder = tmp_path / "broken"
    code = SECONDS_LONG.format(
        path=[str(Path(__file__).parent), str(Path(idle_task.__code__.co_filename).parent)],
        make=make.__name__,
        updates=updates,
        folder=str(folder),
        slots=slots,
    )
    dies(code, "SIGKILL")
    kept = load(folder / CHECKPOINT)
    assert [snapshot.update for snapshot, _ in kept.values()] == [20] * slots
    steps.clear()
    mend(folder / "journal.log", stale_seconds=0)
    pool = make(small_task(), slots)
    found = search_in(folder, pool, budget, checkpoint=folder / CHECKPOINT)
    assert_same(found, expected)
    assert len(steps) == left
