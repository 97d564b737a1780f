"""Confirmation: each job once, on its own seed, whatever happens meanwhile."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from idle import VALIDATIONS, SpoiltPool
from overfit import SCHEDULES, overfit

from lrtune.engine import FusedPool, Progress, SerialPool
from lrtune.engine.pool import Snapshot
from lrtune.errors import InputError
from lrtune.schedule import Schedule
from lrtune.search import Loop, loop
from lrtune.search.confirmation import (
    Confirmation,
    Final,
    Job,
    append_final,
    final_seeds,
    read_finals,
)
from lrtune.tasks import load_task

COSINE = Schedule("cosine", peak_lr=0.05)
PLATEAU = Schedule("plateau", peak_lr=0.05, knobs={"patience": 1, "factor": 0.5, "threshold": 0.9})
HOT = Schedule("constant", peak_lr=0.9)
MAKES = pytest.mark.parametrize("make", [SerialPool, FusedPool])


class SeededPool(SpoiltPool):
    """Scores differ by seed; a peak of 0.9 diverges."""

    def __init__(self, slots: int, dies_in: float = np.inf, groups: int = 1) -> None:
        super().__init__(slots=slots, groups=groups)
        self.task = replace(self.task, average=None)
        self.seeds: dict[int, int] = {}
        self.admitted: list[tuple[float, int]] = []
        self.dies_in = dies_in

    def start(self, slot: int, rates: np.ndarray, seed: int, *_: object) -> Progress:
        self.seeds[slot] = seed
        self.admitted.append((float(rates.max()), seed))
        return super().start(slot, rates, seed)

    def snapshot(self, slot: int) -> Snapshot:
        return replace(super().snapshot(slot), seed=self.seeds[slot])

    def restore(self, slot: int, snapshot: Snapshot) -> None:
        self.seeds[slot] = snapshot.seed
        super().restore(slot, snapshot)

    def evaluate(self, slot: int) -> Progress:
        assert self._updates[slot] == self.task.horizon
        score = float(self._rates[slot].mean()) + self.seeds[slot] / 1000
        return Progress(slot, 400, score, {"cross_entropy": score, "accuracy": 1 - score})


def jobs(*schedules: Schedule, seeds: int = 3) -> list[Job]:
    return [Job(schedule, seed) for seed in range(seeds) for schedule in schedules]


def job_of(final: Final) -> Job:
    return Job(final.schedule, final.seed)


def trained(
    pool: SeededPool,
    todo: list[Job],
    ended: list[Final] | None = None,
    judge: str = "last",
    **kept: object,
) -> list[Final]:
    """Those of these jobs that ended, in the order in which they did."""
    finals: list[Final] = [] if ended is None else ended

    def wanted() -> list[Job]:
        return [job for job in todo if job not in map(job_of, finals)]

    Loop(pool, [Confirmation(pool, wanted, finals.append, judge=judge)], **kept).run()
    return finals


def by_job(finals: list[Final]) -> list[Final]:
    return sorted(finals, key=lambda final: (final.schedule.family, final.seed))


@pytest.mark.parametrize("slots", [1, 2, 7])
def test_every_job_once_whatever_the_slots(slots: int) -> None:
    todo = jobs(COSINE, PLATEAU, HOT)
    finals = by_job(trained(SeededPool(slots), todo))
    assert {job_of(final) for final in finals} == {*todo} and len(finals) == len(todo)
    for final in finals:
        if final.schedule == HOT:
            assert (final.state, final.metrics) == ("diverged", {})
            assert final.updates < final.horizon and "untrained" in final.reason
            continue
        rates = final.curves.rate
        assert final.state == "complete" and final.split == "val"
        assert len(rates) == VALIDATIONS and final.updates == final.horizon == 400
        if final.schedule == PLATEAU:  # follows the validation of its own training
            assert len(set(rates)) > 1  # no gain is as large as the threshold: it falls
            assert rates == trained(SeededPool(1), jobs(PLATEAU, seeds=1))[0].curves.rate
        else:
            score = COSINE.rates(400).mean() + final.seed / 1000
            assert final.metrics["cross_entropy"] == pytest.approx(score)


@pytest.fixture
def every_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "due", lambda since, cost: True)


@pytest.mark.parametrize("after", [2, 6, 13])
def test_what_was_under_way_goes_on(after: int, tmp_path: Path, every_segment: None) -> None:
    todo, path, ended = jobs(COSINE, PLATEAU), tmp_path / "checkpoint", list[Final]()
    with pytest.raises(KeyboardInterrupt):
        trained(SeededPool(2, after), todo, ended, checkpoint=path)
    rest = [job for job in todo if job not in map(job_of, ended)]
    pool = SeededPool(2)
    ended += trained(pool, rest, checkpoint=path)
    for final, expected in zip(by_job(ended), by_job(trained(SeededPool(2), todo)), strict=True):
        assert (job_of(final), final.metrics) == (job_of(expected), expected.metrics)
        assert final.curves.rate == expected.curves.rate
    assert len(pool.admitted) == len(rest) - 2 and not path.exists()


def test_out_of_memory_a_checkpoint_stays_for_where_there_is_room(
    tmp_path: Path, every_segment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    pool, kept = SeededPool(2), {"checkpoint": tmp_path / "checkpoint"}
    with pytest.raises(KeyboardInterrupt):
        trained(SeededPool(3, dies_in=4), jobs(COSINE), **kept)
    monkeypatch.setattr(pool, "restore", full)
    with pytest.raises(torch.OutOfMemoryError):
        trained(pool, jobs(COSINE), **kept)
    again = SeededPool(1)  # those that wait for a slot are not forgotten
    assert len(trained(again, jobs(COSINE), **kept)) == 3 and again.admitted == []


def test_the_log_survives_a_torn_line_and_names_one_that_is_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "finals.jsonl"
    assert read_finals(path).empty and "horizon" in read_finals(path)
    finals = trained(SeededPool(2), jobs(COSINE, HOT))
    append_final(path, finals[0])
    with path.open("a") as log:
        log.write('{"schedule": {"fam')  # killed here
    for final in finals[1:]:
        append_final(path, final)
    append_final(path, replace(finals[0], metrics={"cross_entropy": 9.0}))  # the first one counts
    table = read_finals(path)
    assert list(table["seed"]) == [final.seed for final in finals]
    assert list(table["family"]) == [final.schedule.family for final in finals]
    assert list(table["final_cross_entropy"].isna()) == [f.state == "diverged" for f in finals]
    assert all(len(row.val_cross_entropy) == len(row.step) for row in table.itertuples())
    whole = path.read_text()
    for damage in (b"\xff", b"[" * 100_000, b"9" * 5000):  # of a line that is not JSON
        path.write_bytes(whole.encode() + damage + b"\n")
        assert len(read_finals(path)) == len(finals)
    for line in ("{}", "[]", "3", '{"schedule": {"family": "cosine"}}'):
        path.write_text(f"{whole}{line}\n")
        with pytest.raises(InputError, match=r"finals.jsonl: damaged: remove it"):
            read_finals(path)


def test_seeds_are_fresh_and_the_first_stay_the_first() -> None:
    for seed in (0, 1, 12345):
        many = final_seeds(seed, 50)
        assert len(set(many)) == 50 and seed not in many
        assert final_seeds(seed, 5) == many[:5]
    assert not set(final_seeds(0, 50)) & set(final_seeds(1, 50))


@MAKES
def test_evaluation_on_test_changes_nothing(make: type) -> None:
    task = replace(load_task("digits", batch_size=32, epochs=0.5), validations=2, average=None)
    rates = np.full(task.horizon, 0.05)
    pool, on_test, straight = make(task, 2), make(replace(task, val=task.test), 2), make(task, 2)
    for each in (pool, on_test, straight):
        each.start(0, rates, seed=3)
        each.start(1, rates / 2, seed=4)
        each.advance()
    assert [pool.evaluate(slot).update for slot in (0, 1)] == [task.checkpoints[0]] * 2
    after = pool.advance()
    judged = [pool.evaluate(slot) for slot in (0, 1)]
    for result, same in zip(judged, on_test.advance(), strict=True):
        assert result.metrics == pytest.approx(same.metrics, rel=1e-5)
        assert len(result.blocks) == 20  # of 18 of the 360 test samples each
        assert np.mean(result.blocks) == pytest.approx(result.metrics["cross_entropy"], rel=1e-5)
    assert [result.metrics for result in judged] != [progress.metrics for progress in after]
    assert [p.metrics for p in straight.advance()] == [p.metrics for p in after]
    without = make(replace(task, test=None, validations=1), 1)
    without.start(0, rates, seed=0)
    assert without.advance()[0].metrics == pytest.approx(without.evaluate(0).metrics, rel=1e-5)


# Judged by the best validation.


def evaluated(pool: SerialPool | FusedPool, final: Final) -> Progress:
    """The same training, stopped at the update whose weights were judged."""
    pool.start(0, final.schedule.rates(pool.task.horizon), seed=final.seed)
    while pool.advance()[0].update < final.judged_at:
        pass
    return pool.evaluate(0)


@MAKES
def test_a_final_is_judged_by_its_end_or_by_its_best_validation(make: type) -> None:
    task = overfit()
    at_end, at_best = (
        by_job(trained(make(task, 3), jobs(*SCHEDULES, seeds=2), judge=judge))
        for judge in ("last", "best")
    )
    assert len(at_best) == 4
    for last, best in zip(at_end, at_best, strict=True):
        curve = best.curves.metrics["cross_entropy"]
        assert curve == last.curves.metrics["cross_entropy"]  # the same training
        assert last.judged_at == task.horizon
        assert best.judged_at == best.curves.step[int(np.argmin(curve))] < task.horizon
        for final in (last, best):
            result = evaluated(make(task, 1), final)
            assert final.metrics == pytest.approx(result.metrics, rel=1e-5)
            assert final.blocks == pytest.approx(result.blocks, rel=1e-5)
            assert (final.state, final.updates, final.split) == ("complete", task.horizon, "test")
        assert best.metrics["cross_entropy"] < last.metrics["cross_entropy"]


class RealPool(SerialPool):
    """Dies as Ctrl-C does, or diverges at the end; counts fresh trials."""

    def __init__(self, slots: int, dies_in: float = np.inf, diverges: bool = False) -> None:
        super().__init__(overfit(), slots)
        self.dies_in, self.diverges, self.admitted = dies_in, diverges, 0

    def start(self, *given: object) -> Progress:
        self.admitted += 1
        return super().start(*given)

    def advance(self) -> list[Progress]:
        self.dies_in -= 1
        if self.dies_in == 0:
            raise KeyboardInterrupt
        lost, reached = float("nan"), super().advance()
        if self.diverges:
            end = self.task.horizon
            return [replace(p, loss=lost) if p.update == end else p for p in reached]
        return reached


def test_what_diverges_after_its_best_validation_has_diverged() -> None:
    (final,) = trained(RealPool(1, diverges=True), jobs(SCHEDULES[0], seeds=1), judge="best")
    assert (final.state, final.metrics, final.judged_at) == ("diverged", {}, None)


def test_the_best_weights_need_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(RealPool, "snapshot", full)
    with pytest.raises(InputError, match="judge=best: no weights can be kept: No space left"):
        trained(RealPool(1), jobs(SCHEDULES[0], seeds=1), judge="best")


def test_the_best_weights_are_not_lost_with_the_process(tmp_path: Path, every_segment) -> None:
    todo, path = jobs(*SCHEDULES, seeds=2), tmp_path / "checkpoint"
    whole = trained(RealPool(2), todo, judge="best")
    kept = {"judge": "best", "checkpoint": path}
    # After the best validation; and with some not even taken up again.
    for pool in (RealPool(2, dies_in=5), RealPool(1, dies_in=2)):
        with pytest.raises(KeyboardInterrupt):
            trained(pool, todo, **kept)
    pool = RealPool(2)
    finals = trained(pool, todo, **kept)
    assert pool.admitted == len(todo) - 2 and not path.exists()
    for final, expected in zip(by_job(finals), by_job(whole), strict=True):
        assert final.metrics == expected.metrics and final.judged_at == expected.judged_at
