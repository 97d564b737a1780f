"""Finals: each job once, on its own seed, whatever happens meanwhile."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from idle import VALIDATIONS
from overfit import SCHEDULES, overfit
from overhead import IdlePool, idle_task

from lrtune.engine import FusedPool, Progress, SerialPool
from lrtune.engine.pool import Snapshot
from lrtune.errors import InputError
from lrtune.schedule import Schedule
from lrtune.search import Loop, keeper
from lrtune.search.confirmation import Confirmation, Job, final_seeds
from lrtune.search.final import Final, append_final, read_finals
from lrtune.tasks import load_task

COSINE = Schedule("cosine", peak_lr=0.05)
PLATEAU = Schedule("plateau", peak_lr=0.05, knobs={"patience": 1, "factor": 0.5, "threshold": 0.9})
HOT = Schedule("constant", peak_lr=0.9)


class SeededPool(IdlePool):
    """Scores differ by seed; a peak of 0.9 diverges; stops where it is told to."""

    def __init__(self, slots: int, stop_after: int = 10**9) -> None:
        super().__init__(replace(idle_task(VALIDATIONS), average=None), slots)
        self.seeds: dict[int, int] = {}
        self.admitted: list[tuple[float, int]] = []
        self.left = stop_after

    def start(
        self, slot: int, rates: np.ndarray, seed: int, momenta: np.ndarray | None = None
    ) -> Progress:
        self.seeds[slot] = seed
        self.admitted.append((float(rates.max()), seed))
        return super().start(slot, rates, seed)

    def advance(self) -> list[Progress]:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().advance()

    def snapshot(self, slot: int) -> Snapshot:
        kept = super().snapshot(slot)
        return replace(kept, seed=self.seeds[slot], tensors={"weights/none": torch.zeros(3)})

    def restore(self, slot: int, snapshot: Snapshot) -> None:
        self.seeds[slot] = snapshot.seed
        super().restore(slot, snapshot)

    def evaluate(self, slot: int) -> Progress:
        assert self._updates[slot] == self.task.horizon
        score = float(self._rates[slot].mean()) + self.seeds[slot] / 1000
        return Progress(slot, 400, score, {"cross_entropy": score, "accuracy": 1 - score})


def jobs(*schedules: Schedule, seeds: int = 3) -> list[Job]:
    return [Job(schedule, seed) for seed in range(seeds) for schedule in schedules]


def trained(
    pool: IdlePool,
    todo: list[Job],
    found: list[Final] | None = None,
    judge: str = "last",
    **kept: object,
) -> list[Final]:
    """Those of these jobs that ended, in the order in which they did."""
    ended: list[Final] = [] if found is None else found

    def wanted() -> list[Job]:
        over = {(final.schedule, final.seed) for final in ended}
        return [job for job in todo if (job.schedule, job.seed) not in over]

    Loop(pool, [Confirmation(pool, wanted, ended.append, judge=judge)], **kept).run()
    return ended


@pytest.mark.parametrize("slots", [1, 2, 7])
def test_every_job_once_whatever_the_slots(slots: int) -> None:
    pool = SeededPool(slots)
    found = trained(pool, jobs(COSINE, PLATEAU, HOT))
    assert {(f.schedule, f.seed) for f in found} == {
        (job.schedule, job.seed) for job in jobs(COSINE, PLATEAU, HOT)
    }
    for final in found:
        if final.schedule == HOT:
            assert (final.state, final.metrics) == ("diverged", {})
            assert final.updates < final.horizon and "untrained" in final.reason
        else:
            used = final.curves.rate
            assert final.state == "complete" and final.split == "val"
            assert len(used) == VALIDATIONS and final.updates == final.horizon == 400
    of_cosine = sorted((f.seed, f.metrics["cross_entropy"]) for f in found if f.schedule == COSINE)
    mean = COSINE.rates(400).mean()
    assert [score for _, score in of_cosine] == pytest.approx([mean + s / 1000 for s in range(3)])


def test_a_closed_loop_follows_the_validation_of_its_own_training() -> None:
    alone = trained(SeededPool(1), jobs(PLATEAU))
    beside = trained(SeededPool(5), jobs(COSINE, PLATEAU, HOT))
    rates = [f.curves.rate for f in alone]
    assert rates == [f.curves.rate for f in beside if f.schedule == PLATEAU]
    assert len(set(rates[0])) > 1  # no gain is as large as the threshold: it falls


@pytest.mark.parametrize("after", [1, 5, 12])
def test_what_was_under_way_goes_on(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "due", lambda since, cost: True)
    whole = trained(SeededPool(2), jobs(COSINE, PLATEAU))
    path = tmp_path / "finals.safetensors"
    stopped, before = SeededPool(2, stop_after=after), list[Final]()
    with pytest.raises(KeyboardInterrupt):
        trained(stopped, jobs(COSINE, PLATEAU), before, checkpoint=path)
    done = {(f.schedule, f.seed) for f in before}
    rest = [job for job in jobs(COSINE, PLATEAU) if (job.schedule, job.seed) not in done]
    pool = SeededPool(2)
    later = trained(pool, rest, checkpoint=path)
    kept = [(f.schedule.family, f.seed, f.metrics, f.curves.rate) for f in before + later]
    assert sorted(kept, key=str) == sorted(
        ((f.schedule.family, f.seed, f.metrics, f.curves.rate) for f in whole), key=str
    )
    assert len(pool.admitted) == len(rest) - (2 if path_was_used(after) else 0)
    assert not path.exists()


def path_was_used(after: int) -> bool:
    """Whether two trainings were under way at the last checkpoint."""
    return after % VALIDATIONS != 1 or after == 1


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of three trainings of COSINE, after three segments."""
    monkeypatch.setattr(keeper, "due", lambda since, cost: True)
    path = tmp_path / "finals.safetensors"
    with pytest.raises(KeyboardInterrupt):
        trained(SeededPool(3, stop_after=3), jobs(COSINE), checkpoint=path)
    return path


def test_those_that_wait_for_a_slot_are_not_forgotten(stopped: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(SeededPool(1, stop_after=1), jobs(COSINE), checkpoint=stopped)
    pool = SeededPool(1)
    found = trained(pool, jobs(COSINE), checkpoint=stopped)
    assert [final.seed for final in found] == [0, 1, 2] and pool.admitted == []


def test_a_checkpoint_of_another_model_is_told(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, told = SeededPool(2), list[str]()
    monkeypatch.setattr(pool, "restore", lambda slot, snapshot: {}["weights/other"])
    found = trained(pool, jobs(COSINE), checkpoint=stopped, tell=told.append)
    assert len(found) == len(pool.admitted) == len(told) == 3
    assert told[0] == "cosine on seed 0 starts from scratch: 'weights/other'"


def test_out_of_memory_a_checkpoint_stays_for_where_there_is_room(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    pool = SeededPool(2)
    monkeypatch.setattr(pool, "restore", full)
    with pytest.raises(torch.OutOfMemoryError):
        trained(pool, jobs(COSINE), checkpoint=stopped)
    again = SeededPool(3)
    assert len(trained(again, jobs(COSINE), checkpoint=stopped)) == 3 and again.admitted == []


def test_a_full_disk_ends_the_checkpoints_and_keeps_none(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    told: list[str] = []
    monkeypatch.setattr(keeper, "save", full)
    found = trained(SeededPool(3), jobs(COSINE), checkpoint=stopped, tell=told.append)
    assert len(found) == 3 and len(told) == 1 and "No space left" in told[0]
    assert not stopped.exists()


def test_a_damaged_checkpoint_is_told_and_costs_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "finals.safetensors"
    path.write_bytes(b"nonsense")
    told: list[str] = []
    found = trained(SeededPool(2), jobs(COSINE), checkpoint=path, tell=told.append)
    assert len(found) == 3 and "starts from scratch" in told[0]


def test_the_log_survives_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "finals.jsonl"
    assert read_finals(path).empty and "horizon" in read_finals(path)
    found = trained(SeededPool(2), jobs(COSINE, HOT))
    append_final(path, found[0])
    with path.open("a") as log:
        log.write('{"schedule": {"fam')  # killed here
    for final in found[1:]:
        append_final(path, final)
    table = read_finals(path)
    assert list(table["seed"]) == [f.seed for f in found]
    assert list(table["family"]) == [f.schedule.family for f in found]
    assert table["final_cross_entropy"].isna().tolist() == [f.state == "diverged" for f in found]
    assert all(len(row.val_cross_entropy) == len(row.step) for row in table.itertuples())


@pytest.mark.parametrize("line", ["{}", "[]", "3", '{"schedule": {"family": "cosine"}}'])
def test_a_log_that_is_not_ours_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "finals.jsonl"
    append_final(path, trained(SeededPool(1), jobs(COSINE, seeds=1))[0])
    with path.open("a") as log:
        log.write(line + "\n")
    with pytest.raises(InputError, match=r"finals.jsonl: damaged: remove it"):
        read_finals(path)


def test_seeds_are_fresh_and_the_first_stay_the_first() -> None:
    for seed in (0, 1, 12345):
        many = final_seeds(seed, 50)
        assert len(set(many)) == 50 and seed not in many
        assert final_seeds(seed, 5) == many[:5]
    assert not set(final_seeds(0, 50)) & set(final_seeds(1, 50))


@pytest.mark.parametrize("make", [SerialPool, FusedPool])
def test_examine_judges_on_test_and_changes_nothing(make: type) -> None:
    task = replace(load_task("digits", batch_size=32, epochs=0.5), validations=2, average=None)
    as_val = replace(task, val=task.test)
    rates = np.full(task.horizon, 0.05)
    pool, other = make(task, 2), make(as_val, 2)
    for one in (pool, other):
        one.start(0, rates, seed=3)
        one.start(1, rates / 2, seed=4)
    pool.advance(), other.advance()
    seen = [pool.evaluate(slot) for slot in (0, 1)]
    assert [s.update for s in seen] == [task.checkpoints[0]] * 2
    after, expected = pool.advance(), other.advance()
    judged = [pool.evaluate(slot) for slot in (0, 1)]
    for one, same in zip(judged, expected, strict=True):
        assert one.metrics == pytest.approx(same.metrics, rel=1e-5)
        assert len(one.blocks) == 20  # of 18 of the 360 test samples each
        assert np.mean(one.blocks) == pytest.approx(one.metrics["cross_entropy"], rel=1e-5)
    assert [j.metrics for j in judged] != [a.metrics for a in after]
    straight = make(task, 2)
    straight.start(0, rates, seed=3)
    straight.start(1, rates / 2, seed=4)
    straight.advance()
    assert [p.metrics for p in straight.advance()] == [p.metrics for p in after]


def test_examine_without_a_test_split_judges_on_validation() -> None:
    task = replace(load_task("digits", batch_size=32, epochs=0.2), validations=1, test=None)
    pool = SerialPool(task)
    pool.start(0, np.full(task.horizon, 0.05), seed=0)
    reached = pool.advance()
    assert pool.evaluate(0).metrics == reached[0].metrics


# Judged by the best validation.


def by_job(found: list[Final]) -> list[Final]:
    return sorted(found, key=lambda final: (final.schedule.family, final.seed))


def examined(pool: SerialPool | FusedPool, final: Final) -> Progress:
    """The same training, stopped at the update whose weights were judged."""
    pool.start(0, final.schedule.rates(pool.task.horizon), seed=final.seed)
    while pool.advance()[0].update < final.judged_at:
        pass
    return pool.evaluate(0)


@pytest.mark.parametrize("make", [SerialPool, FusedPool])
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
            told = examined(make(task, 1), final)
            assert final.metrics == pytest.approx(told.metrics, rel=1e-5)
            assert final.blocks == pytest.approx(told.blocks, rel=1e-5) and final.split == "test"
            assert (final.state, final.updates) == ("complete", task.horizon)
        assert best.metrics["cross_entropy"] < last.metrics["cross_entropy"]


def test_what_diverges_after_its_best_validation_has_diverged() -> None:
    class Late(SerialPool):
        def advance(self) -> list[Progress]:
            end = self.task.horizon
            reached = super().advance()
            return [replace(p, loss=float("nan")) if p.update == end else p for p in reached]

    (final,) = trained(Late(overfit()), jobs(SCHEDULES[0], seeds=1), judge="best")
    assert (final.state, final.metrics, final.judged_at) == ("diverged", {}, None)


class StoppedPool(SerialPool):
    """Ends its process, as Ctrl-C does, after so many segments; counts fresh trials."""

    def __init__(self, slots: int, stop_after: int = 10**9) -> None:
        super().__init__(overfit(), slots)
        self.left = stop_after
        self.admitted = 0

    def start(self, *given: object) -> Progress:
        self.admitted += 1
        return super().start(*given)

    def advance(self) -> list[Progress]:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().advance()


def test_the_best_weights_are_not_lost_with_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "due", lambda since, cost: True)
    todo, path = jobs(*SCHEDULES, seeds=2), tmp_path / "finals.safetensors"
    whole = trained(StoppedPool(2), todo, judge="best")
    kept = {"judge": "best", "checkpoint": path}
    for segments in (4, 1):  # after the best validation; and with some not even taken up again
        with pytest.raises(KeyboardInterrupt):
            trained(StoppedPool(2 if segments == 4 else 1, segments), todo, **kept)
    pool = StoppedPool(2)
    found = trained(pool, todo, **kept)
    assert pool.admitted == len(todo) - 2 and not path.exists()
    for final, expected in zip(by_job(found), by_job(whole), strict=True):
        assert final.metrics == expected.metrics and final.judged_at == expected.judged_at
