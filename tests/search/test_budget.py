"""Budgets: what they allow, and that nothing is trained beyond them."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from idle import CHECKPOINT, VALIDATIONS, SpoiltPool, assert_same, found_in, search_in, study_in
from listeners import Told

import lrtune
from lrtune import Budget, Engine, InputError, Listener, Plan
from lrtune.cli.console import console_of
from lrtune.cli.progress import RunProgress
from lrtune.engine import Choice, Progress, SerialPool
from lrtune.run import tune as tuning
from lrtune.search import Clock, Limits, SearchState, records
from lrtune.search.budget import CONFIRMED, TRAININGS, width
from lrtune.tasks import Task
from lrtune.verdict.summary import Finalist

HORIZON = 400
FAST = 1e-3  # seconds an update


class Watch(Clock):
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    @property
    def seconds(self) -> float:
        return self.now


class TimedPool(SpoiltPool):
    """Each segment takes ten seconds."""

    def __init__(self, slots: int = 1) -> None:
        super().__init__(slots=slots)
        self.clock = Watch()

    def advance(self) -> list[Progress]:
        self.clock.now += 10
        return super().advance()


LIMITS = [
    # (limits, its trainings, the share that is kept to confirm)
    (Limits(updates=40 * HORIZON), 40, CONFIRMED),
    (Limits(updates=8 * HORIZON), 8, CONFIRMED),
    (Limits(updates=7 * HORIZON), 7, 0.0),  # two schedules on two seeds have no room
    (Limits(seconds=20 + 6 * HORIZON * FAST), 6, 0.0),
    (Limits(seconds=20 + 12 * HORIZON * FAST, updates=40 * HORIZON), 12, CONFIRMED),
    (Limits(trials=3), float("inf"), CONFIRMED),
]


@pytest.mark.parametrize(
    ("room", "trials", "slots"),
    [(8, 108, 8), (36, 108, 36), (37, 108, 36), (8000, 108, 36), (4, 2, 1), (9, math.inf, 9)],
)
def test_a_search_is_no_wider_than_a_third_of_its_trials(
    room: int, trials: float, slots: int
) -> None:
    found, why = width(room, trials)
    assert found == slots and bool(why) == (slots < room)
    assert room == slots or f"a third of {trials}" in why


@pytest.mark.parametrize(("limits", "trainings", "kept"), LIMITS)
def test_what_is_kept_for_the_confirmation(limits: Limits, trainings: float, kept: float) -> None:
    assert limits.trainings(HORIZON, FAST, 20.0) == pytest.approx(trainings)
    assert limits.kept(HORIZON, FAST, 20.0) == kept


@pytest.mark.parametrize(
    ("limits", "updates", "seconds"),
    [
        (Limits(updates=40_000), (40_000 - 720) * (1 - CONFIRMED), None),
        (Limits(seconds=600), None, 50 + (1 - CONFIRMED) * 550),
        (Limits(trials=7, updates=720), 1.0, None),  # the range test took all
        (Limits(trials=7), None, None),
    ],
)
def test_the_share_of_the_search(limits: Limits, updates: float, seconds: float) -> None:
    own = limits.of_search(swept=720, seconds=50.0, confirmed=CONFIRMED)
    assert (own.trials, own.updates, own.seconds) == (limits.trials, updates, seconds)


@pytest.mark.parametrize("name", ["trials", "trainings", "updates", "time"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_budget_that_is_none(name: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"{name} must be positive \(got {value}\)"):
        Budget(**{name: value})


def test_a_budget_in_two_units_or_none() -> None:
    with pytest.raises(InputError, match="trainings and updates say the same"):
        Budget(trainings=3, updates=100)
    with pytest.raises(InputError, match="time must be a number and a unit"):
        Budget(time="soon")


def test_a_budget_in_its_units() -> None:
    assert Budget().limits(HORIZON) == Limits(updates=TRAININGS * HORIZON)
    assert Budget(trials=3, time="10m").limits(HORIZON) == Limits(trials=3, seconds=600.0)
    assert Budget(trainings=2.5).limits(HORIZON) == Limits(updates=2.5 * HORIZON)


@pytest.mark.parametrize("slots", [1, 3])
def test_time_ends_a_search_within_a_segment_and_loses_nothing(tmp_path: Path, slots: int) -> None:
    def timed(seconds: float) -> TimedPool:
        pool = TimedPool(slots)
        state = SearchState(Limits(trials=6, seconds=seconds), clock=pool.clock)
        spent = {"spent": lambda: pool.clock.seconds >= seconds}
        search_in(tmp_path, pool, state, checkpoint=True, **spent)
        return pool

    whole = search_in(tmp_path / "whole", SpoiltPool(slots=slots), 6)
    pool = timed(10 * VALIDATIONS + 35)  # in the midst of the second trials
    assert pool.clock.now == 10 * VALIDATIONS + 40
    assert len(found_in(tmp_path)) == slots and (tmp_path / CHECKPOINT).exists()
    assert timed(1e6).restored == slots  # they go on where they were
    assert_same(records(study_in(tmp_path)), whole)


def test_a_trial_starts_only_where_it_does_not_cut_into_what_is_kept(tmp_path: Path) -> None:
    for kept, trials in ((CONFIRMED, 2), (0.0, 3)):
        state = SearchState(Limits(updates=2.5 * HORIZON), kept=kept)
        assert len(search_in(tmp_path / str(trials), SpoiltPool(), state)) == trials


TASK = {"epochs": 1.0, "batch_size": 32}


@pytest.mark.parametrize("trainings", [10, 20])
def test_all_that_is_trained_is_within_the_budget(tmp_path: Path, trainings: int) -> None:
    task = lrtune.load_task("digits", **TASK)
    run = lrtune.tune(
        task,
        budget=trainings,
        families=("cosine", "constant", "wsd", "linear"),
        engine=Engine("serial", device="cpu"),
        out=tmp_path / "run",
    )
    finals = run.finals()
    searched = run.settings.range_test.updates + run.trials()["updates"].sum()
    assert searched > ((1 - CONFIRMED) * trainings - 1) * task.horizon
    assert searched + finals["updates"].sum() <= trainings * task.horizon
    verdict = run.verdict()
    assert verdict is not None and verdict.decided
    seeds = [row.seeds for row in verdict.families]
    assert min(seeds) >= 2 and len(finals) == sum(seeds) <= verdict.plan.trainings


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> tuple[Task, list[float]]:
    """A task, and a clock by which every update of its pool takes 10 ms, and nothing else any."""
    task, now = lrtune.load_task("digits", **TASK), [0.0]
    pool, segment = SerialPool(task), 0.01 * task.horizon / len(task.checkpoints)

    def advance() -> list[Progress]:
        reached = type(pool).advance(pool)
        now[0] += segment
        return [replace(progress, seconds=segment) for progress in reached]

    monkeypatch.setattr(pool, "advance", advance)
    for clock in ("monotonic", "perf_counter"):
        monkeypatch.setattr(f"time.{clock}", lambda: now[0])
    choice = Choice("serial", 1, figures={"serial": 0.01}, devices=("cpu",))
    monkeypatch.setattr("lrtune.run.tune.choose_pool", lambda *_, **__: (pool, choice))
    return task, now


def test_time_is_kept_by_the_whole_run(tmp_path: Path, clocked: tuple[Task, list[float]]) -> None:
    """Range test, search and finals end in time."""
    task, now = clocked
    limit = 0.01 * 12 * task.horizon
    kept = {
        "families": ("cosine", "constant"),
        "out": tmp_path / "run",
        "engine": Engine(device="cpu"),
        "seed": 3,  # of which hardly anything is left
    }
    told = Told()
    run = lrtune.tune(task, time=limit, listener=told, **kept)
    segment = 0.01 * task.horizon / len(task.checkpoints)
    assert 0.8 * limit < now[0] <= limit + segment
    assert json.loads((tmp_path / "run" / "run.json").read_text())["elapsed"] == now[0]
    assert any(line.startswith("plan: about 12 trainings, 5 to search, 7") for line in told.lines)
    trials = len(run.trials())
    lrtune.tune(task, time=limit, **kept)  # all is spent
    assert len(run.trials()) == trials and now[0] <= limit + 2 * segment


@pytest.mark.parametrize(("measured", "trainings"), [(0.1, 12), (0.001, 6)])
def test_whether_there_is_time_to_confirm_is_seen_by_the_pace_of_the_run(
    measured: float,
    trainings: int,
    tmp_path: Path,
    clocked: tuple[Task, list[float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was measured beforehand is ten times too slow, or too quick: 10 ms an update it is."""
    task, now = clocked
    pool, _ = tuning.choose_pool()
    choice = Choice("serial", 1, figures={"serial": measured}, devices=("cpu",))
    monkeypatch.setattr("lrtune.run.tune.choose_pool", lambda *_, **__: (pool, choice))
    told, limit = Told(), 0.01 * trainings * task.horizon
    how = {"families": ("cosine", "constant"), "engine": Engine(device="cpu"), "listener": told}
    run = lrtune.tune(task, time=limit, out=tmp_path / "run", **how)
    assert now[0] <= limit + 0.01 * task.horizon / len(task.checkpoints)
    short = any("too small to confirm what is found: give at least" in one for one in told.lines)
    assert short == (run.verdict() is None) == (trainings == 6)


def test_a_budget_too_small_to_confirm_is_searched_and_said(lrtune, tmp_path: Path) -> None:
    words = ["digits", "--batch-size", "32", "--epochs", "1", "--budget", "4"]
    code, out, _ = lrtune("search", *words, "--out", tmp_path / "run")
    assert code == 0 and "too small to confirm what is found: give at least 8 trainings" in out
    assert "Gain    not measured; validation" in out
    code, _, err = lrtune("search", *words, "--updates", "100", "--out", tmp_path / "run")
    assert code == 2 and "budget and updates: one of the two" in err


@pytest.mark.parametrize(
    ("kind", "worth"),  # the search spends its share, or half of it
    [("updates", 0.0), ("updates", 1e9), ("seconds", 0.0), ("seconds", 1e9), ("trials", 0.0)],
)
def test_time_left_is_true_within_a_fifth_from_a_tenth_of_the_run_on(
    kind: str,
    worth: float,
    tmp_path: Path,
    clocked: tuple[Task, list[float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a run that spends its whole budget, however it is divided; the range test takes 5 s."""
    task, now = clocked
    progress = RunProgress(console_of(), get_time=lambda: now[0])
    seen: list[tuple[float, float | None]] = []

    class Watching(Listener):
        def search(self, state: Any) -> None:
            progress.reach(state.share, "")
            seen.append((now[0], progress.seconds_left))

        confirmation = search

    def slow(*args: Any, **how: Any) -> dict[str, Any]:
        now[0] += 5
        return peaks(*args, **how)

    def undecided(
        finals: object, who: list[Finalist], objective: object, seeds: object, plan: Plan
    ):
        assert plan.trainings
        each, more = divmod(plan.trainings, len(who))
        return SimpleNamespace(wanted={w.family: each + (i < more) for i, w in enumerate(who)})

    peaks = tuning.peak_settings
    monkeypatch.setattr(tuning, "peak_settings", slow)
    monkeypatch.setattr("lrtune.run.confirm.standing", undecided)
    monkeypatch.setattr("lrtune.search.search.WORTH", worth)
    updates = 20 * task.horizon
    budgets = {"updates": Budget(updates=updates), "seconds": Budget(time=5 + 0.01 * updates)}
    budgets["trials"] = Budget(trials=3, updates=updates)
    how = {"families": ("cosine", "constant"), "engine": Engine(device="cpu")}
    lrtune.tune(task, budget=budgets[kind], **how, listener=Watching(), out=tmp_path / "run")
    begun, end = seen[0][0], now[0]
    assert end > 5 + 0.8 * 0.01 * updates
    late = [(left, end - at) for at, left in seen if at - begun >= 0.1 * (end - begun)]
    for said, left in late:
        # rich rounds up to whole seconds; less than a training may be left over.
        over = 1 + 0.01 * task.horizon
        assert said is not None and abs(said - left) <= 0.2 * left + over, late
