"""A search that is killed ends as an unbroken one, from a checkpoint or from scratch."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from idle import (
    CHECKPOINT,
    EVERYTHING,
    NoisyPool,
    SpoiltPool,
    assert_same,
    checkpoint_every_segment,
    dying,
    dying_at_entry,
    flat,
    killed,
    pruned_in,
    search_in,
    study_in,
)
from optuna.pruners import MedianPruner
from optuna.storages.journal import JournalFileBackend
from overhead import idle_task

from lrtune.engine import FusedPool, SerialPool
from lrtune.engine.checkpoint import load
from lrtune.engine.stacked import Program
from lrtune.search import Record, loop, records
from lrtune.search.journal import mend
from lrtune.search.loop import Interrupts
from lrtune.search.trials import TrialQueue
from lrtune.tasks import Task, load_task

TRIALS = 30


@pytest.fixture(autouse=True)
def every_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "due", loop.due)  # put back at the end
    checkpoint_every_segment()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory):
    """What an unbroken search finds with so many slots and groups: all ways to end, and audits."""

    @cache
    def searched(*pool: int) -> list[Record]:
        folder = tmp_path_factory.mktemp("whole")
        trials = pruned_in(folder, NoisyPool(*pool), stopping=EVERYTHING)
        states = {record.state for record in trials}
        assert states == {"complete", "pruned", "plateaued", "diverged"}
        assert any(record.audit is not None for record in trials)
        return trials

    return searched


def goes_on_alike(
    folder: Path, pool: NoisyPool, expected: list[Record], checkpoint: bool
) -> NoisyPool:
    trials = pruned_in(folder, pool, stopping=EVERYTHING, checkpoint=checkpoint)
    assert [record.number for record in trials] == list(range(TRIALS))
    assert_same(trials, expected)
    assert not list(folder.glob(f"{CHECKPOINT}*"))
    return pool


@pytest.mark.parametrize(
    ("pool", "checkpoint", "by", "at", "counts"),
    [
        ((1,), False, "SIGKILL", "entry", (41, 90)),
        ((3,), False, "SIGTERM", "entry", (100, 61)),
        ((1,), True, "SIGKILL", "entry", (48, 2, 5)),
        ((3,), True, "SIGKILL", "entry", (77, 78, 120)),
        ((3,), True, "SIGKILL", "checkpoint", (11, 1, 9)),
        ((5, 3), False, "SIGTERM", "entry", (100, 61)),
        ((5, 3), True, "SIGKILL", "entry", (77, 78, 120)),
        ((5, 3), True, "SIGKILL", "checkpoint", (11, 1, 9)),
    ],
)
def test_a_killed_process(
    tmp_path: Path, unbroken, pool: tuple, checkpoint: bool, by: str, at: str, counts: tuple
) -> None:
    for count in counts:
        killed(tmp_path, NoisyPool(*pool), by, count, at, checkpoint)
        mend(tmp_path / "journal.log", stale_seconds=0)
        assert len(records(study_in(tmp_path))) < TRIALS
    last = goes_on_alike(tmp_path, NoisyPool(*pool), unbroken(*pool), checkpoint)
    assert (0 < last.restored <= last.slots) == checkpoint


class Killed(BaseException):
    """Stands for SIGKILL, in this process."""


def killed_here(folder: Path, pool: NoisyPool, checkpoint: bool) -> None:
    with pytest.MonkeyPatch.context() as patched, pytest.raises(Killed):
        patched.setattr(TrialQueue, "close", lambda *_: None)
        pruned_in(folder, pool, stopping=EVERYTHING, checkpoint=checkpoint)
    mend(folder / "journal.log", stale_seconds=0)


@pytest.mark.parametrize(
    ("pool", "count"), [((1,), 58), ((1,), 199), ((3,), 111), ((3,), 199), ((5, 3), 111)]
)
def test_killed_between_two_entries(tmp_path: Path, unbroken, pool: tuple, count: int) -> None:
    """Between a report and what is decided on it, say."""

    def death() -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(JournalFileBackend, "append_logs", JournalFileBackend.append_logs)
        dying_at_entry(count, death)
        killed_here(tmp_path, NoisyPool(*pool), checkpoint=False)
    goes_on_alike(tmp_path, NoisyPool(*pool), unbroken(*pool), checkpoint=False)


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize(("pool", "segments"), [((3,), 12), ((3,), 33), ((6, 3), 37)])
def test_killed_while_it_trains(
    tmp_path: Path, unbroken, checkpoint: bool, pool: tuple, segments: int
) -> None:
    dying = NoisyPool(*pool)
    dying.dies_in, dying.death = segments, Killed()
    killed_here(tmp_path, dying, checkpoint)
    goes_on_alike(tmp_path, NoisyPool(*pool), unbroken(*pool), checkpoint)


@pytest.mark.parametrize("slots", [1, 3])
def test_a_storage_that_fails_between_record_and_end_loses_no_trial(
    tmp_path: Path, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = search_in(tmp_path / "whole", NoisyPool(slots), 9)
    tell, values = optuna.Study.tell, []

    def fails_once(study: optuna.Study, trial: object, *value: float, **state: object) -> object:
        if value and study.study_name == "s":  # samplers have studies too
            values.extend(value)
            if len(values) == 3:
                raise OSError("no space left")
        return tell(study, trial, *value, **state)

    with monkeypatch.context() as patched, pytest.raises(OSError, match="no space left"):
        patched.setattr(optuna.Study, "tell", fails_once)
        search_in(tmp_path, NoisyPool(slots), 9)
    before = records(study_in(tmp_path))
    assert len(before) < 9
    assert all((r.value is not None) == (r.state == "complete") for r in before)
    assert_same(search_in(tmp_path, NoisyPool(slots), 9), expected)


def cut_short(folder: Path, segments: int, trials: int = TRIALS, slots: int = 1, **how) -> None:
    """Ctrl-C in the n-th segment."""
    pool = SpoiltPool(how.pop("spoil", lambda progress: progress), slots)
    pool.dies_in = segments
    with pytest.raises(KeyboardInterrupt):
        search_in(folder, pool, trials, checkpoint=True, **how)


@pytest.mark.parametrize("slots", [1, 2])
def test_fewer_slots_than_before(tmp_path: Path, slots: int) -> None:
    cut_short(tmp_path, 22, slots=3)
    cut_short(tmp_path, 2, slots=slots)  # before all three have a slot: those that wait are kept
    pool = SpoiltPool(slots=slots)
    trials = search_in(tmp_path, pool, TRIALS, checkpoint=True)
    assert len(trials) == TRIALS and pool.restored == 3
    assert {record.updates for record in trials} == {400}


def test_a_closed_loop_goes_on_as_it_was(tmp_path: Path) -> None:
    knobs = {"plateau.warmup": 0.0, "plateau.patience": 2, "plateau.cooldown": 1}
    for folder in (tmp_path, tmp_path / "whole"):
        study_in(folder).enqueue_trial({"family": "plateau", **knobs})
    expected = search_in(tmp_path / "whole", SpoiltPool(flat), 1)
    cut_short(tmp_path, 7, 1, spoil=flat)
    pool = SpoiltPool(flat)
    trials = search_in(tmp_path, pool, 1, checkpoint=True)
    assert pool.spared == 300 and len(set(expected[0].curves.rate)) > 1
    assert_same(trials, expected)


def test_a_pruner_sees_all_of_the_curve(tmp_path: Path) -> None:
    # Not halving: to it, a trial that was cut short is one more rival of its own repetition.
    def how() -> dict[str, Any]:
        return {"pruner": MedianPruner(n_startup_trials=2)}

    expected = search_in(tmp_path / "whole", SpoiltPool(), TRIALS, **how())
    assert {record.state for record in expected} == {"complete", "pruned"}
    for segments in (6, 9, 3):
        cut_short(tmp_path, segments, **how())
    pool = SpoiltPool()
    assert_same(search_in(tmp_path, pool, TRIALS, checkpoint=True, **how()), expected)
    assert pool.restored == 1


@pytest.mark.parametrize("damage", ["cut", "other rates", "does not fit", "full disk"])
def test_a_checkpoint_of_no_use_is_told_and_costs_nothing_else(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    pool, path, original = SpoiltPool(), tmp_path / CHECKPOINT, loop.load

    def other_rates(path: Path) -> dict[str, Any]:
        kept = original(path).items()
        return {key: (replace(s, rates=2 * s.rates), note) for key, (s, note) in kept}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if damage == "full disk":
        monkeypatch.setattr(loop, "save", full)
    else:
        cut_short(tmp_path, 20)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    if damage == "other rates":
        monkeypatch.setattr(loop, "load", other_rates)
    if damage == "does not fit":
        monkeypatch.setattr(pool, "restore", lambda slot, kept: {}["weights/other"])
    trials = search_in(tmp_path, pool, TRIALS, checkpoint=True, tell=told.append)
    assert len(told) == 1
    assert ("No space left" if damage == "full disk" else "from scratch") in told[0]
    assert len(trials) == TRIALS and pool.restored == 0
    assert {record.updates for record in trials} == {400}
    assert not path.exists()


def test_another_runs_checkpoint_is_left_alone(tmp_path: Path) -> None:
    cut_short(tmp_path / "mine", 20)
    other = tmp_path / "other"
    cut_short(other, 3, owner="you")
    os.replace(tmp_path / "mine" / CHECKPOINT, other / CHECKPOINT)
    pool = SpoiltPool()
    search_in(other, pool, TRIALS, checkpoint=True, owner="you")
    assert pool.restored == 0


def test_when_a_checkpoint_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert loop.due(31, 0) and loop.due(31, 0.5) and loop.due(51, 1.0)
    assert not loop.due(29, 0) and not loop.due(31, 1.0)


# A real trainer that is killed in the middle of a segment.


def small_task() -> Task:
    """40 updates in 8 segments."""
    digits = load_task("digits", batch_size=32)
    return replace(digits, val=digits.val.part(0, 100), epochs=40 * 32 / 1149, validations=8)


POOLS = {"serial": (SerialPool, SerialPool, "_step"), "fused": (FusedPool, Program, "update")}


def real_child(folder: str, kind: str, slots: int, updates: int) -> None:
    torch.set_num_threads(1)
    make, owner, function = POOLS[kind]
    dying(owner, function, updates, lambda: os.kill(os.getpid(), signal.SIGKILL))
    checkpoint_every_segment()
    search_in(Path(folder), make(small_task(), slots), 3, checkpoint=True)


@pytest.mark.parametrize(
    ("kind", "slots", "updates", "left"),  # killed before that step; steps that are left
    [
        ("serial", 1, 40 + 23, 20 + 40),
        pytest.param("serial", 2, 2 * 20 + 3, 3 * 40 - 2 * 20, marks=pytest.mark.slow),
        ("fused", 2, 23, 20 + 40),
    ],
)
def test_a_trial_killed_within_a_segment_goes_on_from_the_last_one(
    tmp_path: Path, kind: str, slots: int, updates: int, left: int, monkeypatch
) -> None:
    torch.set_num_threads(1)
    make, owner, name = POOLS[kind]
    steps, step = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *a: (steps.append(1), step(*a))[1])
    expected = search_in(tmp_path / "whole", make(small_task(), slots), 3)
    assert len(steps) == (3 if kind == "serial" else 2) * 40
    folder = tmp_path / "broken"
    # Not by a fork: torch's backward has been used in this process.
    path = [str(Path(idle_task.__code__.co_filename).parent), str(Path(__file__).parent)]
    call = f"test_killed.real_child{(str(folder), kind, slots, updates)!r}"
    code = f"import sys; sys.path[:0] = {path!r}; import test_killed; {call}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    kept = load(folder / CHECKPOINT)
    assert [snapshot.update for snapshot, _ in kept.values()] == [20] * slots
    steps.clear()
    mend(folder / "journal.log", stale_seconds=0)
    trials = search_in(folder, make(small_task(), slots), 3, checkpoint=True)
    assert_same(trials, expected)
    assert len(steps) == left


# Signals.


def test_ctrl_c_waits_until_it_is_heard() -> None:
    stored = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        stored.append("all of it")
        with interrupts.heard():
            stored.append("never")
    assert stored == ["all of it"]


def test_ctrl_c_that_was_never_heard_is_not_lost() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupts():
        os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(ZeroDivisionError), Interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        1 / 0  # noqa: B018


def test_handlers_that_are_meant_to_be_or_cannot_be_put_back_are_left() -> None:
    before, other = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as the shell has it for `&`
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGINT)
            with interrupts.heard():
                assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) != other
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert signal.getsignal(signal.SIGTERM) == other
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(signal, "getsignal", lambda number: None)  # C code's
        with Interrupts():
            patched.undo()
            assert signal.getsignal(signal.SIGINT) == before
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 7), (signal.SIGTERM, 0)])
def test_a_worker_outlives_ctrl_c_and_ends_when_it_is_told(
    number: signal.Signals, code: int
) -> None:
    with Interrupts() as interrupts, interrupts.heard():
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writes, b"!")
            time.sleep(0.5)
            os._exit(7)
        os.read(reads, 1)  # a signal before the child is up would be lost
        os.kill(child, number)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code
