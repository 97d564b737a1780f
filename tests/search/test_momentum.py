"""The momentum cycle through a search: asked for, drawn, trained with, kept and confirmed."""

import json
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.samplers import RandomSampler

import lrtune
from lrtune import InputError
from lrtune.engine import SerialPool
from lrtune.schedule import FAMILIES, Schedule
from lrtune.search import SEARCHABLE, Loop, Space, suggest
from lrtune.search.confirmation import Confirmation, Final, Job

CYCLING = tuple(name for name, family in FAMILIES.items() if family.optional)
KNOBS = {"base_momentum": 0.5, "max_momentum": 0.97}


@pytest.fixture(scope="module")
def task() -> lrtune.Task:
    return lrtune.load_task("digits", batch_size=32, epochs=1)


def test_it_is_drawn_where_it_is_asked_for_alone() -> None:
    for family in SEARCHABLE:
        names = {f"{family}.{name}" for name in KNOBS} if family in CYCLING else set()
        plain, asked = (Space(cycle_momentum=it).distributions(family) for it in (False, True))
        assert asked.keys() - plain.keys() == names
        assert {name: d for name, d in asked.items() if name in plain} == plain
    with_it, without = (optuna.create_study(sampler=RandomSampler(seed=0)) for _ in range(2))
    for _ in range(20):
        schedule = suggest(with_it.ask(), families=[*CYCLING, "cosine"], cycle_momentum=True)
        assert schedule.cycles_momentum == (schedule.family in CYCLING)
        assert not suggest(without.ask(), families=CYCLING).cycles_momentum
    with pytest.raises(InputError, match="cycle_momentum: only cyclic, one_cycle can: name one"):
        Space(("cosine",), cycle_momentum=True)


def trained(task: lrtune.Task, schedule: Schedule, seed: int) -> float:
    """The last validation of a pool of its own."""
    pool, horizon = SerialPool(task), task.horizon
    pool.start(0, schedule.rates(horizon), seed, schedule.momenta(horizon))
    while (progress := pool.advance()[0]).update < horizon:
        assert progress.error is None
    return progress.metrics["cross_entropy"]


def test_a_search(task: lrtune.Task, tmp_path: Path) -> None:
    arguments = {"families": CYCLING, "peak_lr": (0.01, 0.1), "out": tmp_path}
    arguments |= {"stopping": lrtune.Stopping("none", patience=0)}
    arguments |= {"engine": lrtune.Engine("serial", slots=2)}
    run = lrtune.tune(task, budget=lrtune.Budget(trials=3), cycle_momentum=True, **arguments)
    for row in run.trials().itertuples():
        schedule = Schedule.from_json(row.schedule)
        assert schedule.cycles_momentum and json.loads(row.resolved)["cycle_momentum"] is True
        assert trained(task, schedule, seed=0) == row.value
    best = run.best()
    assert best == lrtune.load(tmp_path / "best.json") and best.cycles_momentum
    assert run.space == Space(CYCLING, (0.01, 0.1), cycle_momentum=True)
    assert "max_momentum" in (tmp_path / "report.html").read_text()
    with pytest.raises(InputError, match="cycle_momentum=True, now cycle_momentum=False"):
        lrtune.tune(task, budget=lrtune.Budget(trials=4), **arguments)


def test_an_optimizer_without_momentum_is_refused_before_anything_is_kept(tmp_path: Path) -> None:
    task = lrtune.load_task("digits", batch_size=32, epochs=1, optimizer="adagrad")
    with pytest.raises(InputError, match="optimizer adagrad has no momentum to cycle: take one of"):
        lrtune.tune(task, budget=lrtune.Budget(trials=1), cycle_momentum=True, out=tmp_path / "run")
    assert not list((tmp_path / "run").glob("*.json"))


def test_finals_have_it(task: lrtune.Task) -> None:
    with_it = Schedule("one_cycle", 0.05, knobs=KNOBS)
    finals: list[Final] = []
    jobs = [Job(schedule, 7) for schedule in (with_it, Schedule("one_cycle", 0.05))]
    pool = SerialPool(replace(task, test=None), 2)
    Loop(pool, [Confirmation(pool, lambda: jobs[len(finals) :], finals.append)]).run()
    ends = {final.schedule: final.metrics["cross_entropy"] for final in finals}
    assert ends == {job.schedule: trained(task, job.schedule, 7) for job in jobs}
    assert len(set(ends.values())) == 2
