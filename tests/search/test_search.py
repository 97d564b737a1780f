"""Searches: what Optuna is told, what is counted, and what others queue."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from idle import SPACE, NoisyPool, SpoiltPool, assert_same, flat, search_in, study_in
from optuna.trial import TrialState

from lrtune.engine import Progress
from lrtune.errors import InputError
from lrtune.search import Limits, Loop, Search, SearchState, records
from lrtune.search.search import FAILURES


@pytest.mark.parametrize("slots", [1, 4])
def test_a_search_that_is_extended_is_one_search(tmp_path: Path, slots: int) -> None:
    expected = search_in(tmp_path / "whole", NoisyPool(), 14)
    for trials in (5, 14):
        extended = search_in(tmp_path, NoisyPool(), trials)
    assert_same(extended, expected)
    assert_same(search_in(tmp_path, NoisyPool(slots), 14), expected)  # nothing is added


def test_all_groups_train_while_one_is_looked_at(tmp_path: Path) -> None:
    pool, others = NoisyPool(slots=6, groups=3), []
    state = SearchState(Limits(trials=24))
    looks: dict[str, Any] = {"watch": lambda _: others.append([*pool.launched])}
    search = Search(study_in(tmp_path), SPACE, pool, state, **looks)
    assert Loop(pool, [search]).run() is False
    assert [record.number for record in records(study_in(tmp_path))] == [*range(24)]
    assert others[:3] == [[1, 2], [2, 0], [0, 1]]
    assert all(len(rest) == 2 for rest in others)


def test_of_groups_under_way_at_the_end_of_the_budget_nothing_is_lost(tmp_path: Path) -> None:
    pool = SpoiltPool(slots=4, groups=2)
    trials = search_in(tmp_path, pool, 8, checkpoint=True, spent=lambda: study_seen(tmp_path) > 40)
    assert len(trials) == 4 and pool.launched == []
    seen = study_seen(tmp_path)
    pool = SpoiltPool(slots=4, groups=2)
    assert len(search_in(tmp_path, pool, 8, checkpoint=True)) == 8
    assert pool.restored == 4 and 400 * 4 + pool.spared == 50 * seen


def study_seen(folder: Path) -> int:
    """Reports in a study."""
    return sum(len(trial.intermediate_values) for trial in study_in(folder).trials)


@pytest.mark.parametrize("field", ["loss", "metric"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_divergence_is_told_as_pruned_and_infeasible(
    tmp_path: Path, field: str, bad: float
) -> None:
    def spoil(progress: Progress) -> Progress:
        if progress.update < 100:
            return progress
        metrics = {**progress.metrics, "cross_entropy": bad}
        return replace(progress, loss=bad if field == "loss" else progress.loss, metrics=metrics)

    trials = search_in(tmp_path, SpoiltPool(spoil), 5)
    assert {(r.state, r.updates, r.value) for r in trials} == {("diverged", 100, None)}
    for trial in study_in(tmp_path).trials:
        assert trial.state == TrialState.PRUNED and trial.constraints["diverged"] > 0
        assert np.isfinite([*trial.intermediate_values.values()]).all()
        assert trial.user_attrs["ended"].startswith("diverged: ")
        json.dumps(trial.user_attrs, allow_nan=False)


def test_trial_after_trial_that_fails_ends_the_search(tmp_path: Path) -> None:
    def spoil(progress: Progress) -> Progress:
        return Progress(progress.slot, 50, math.nan, {}, error="ValueError: oh")

    with pytest.raises(InputError, match=f"^{FAILURES} trials running .* ValueError: oh: nothing"):
        search_in(tmp_path, SpoiltPool(spoil), 9)
    trials = records(study_in(tmp_path))
    assert [record.state for record in trials] == ["failed"] * FAILURES
    assert all("oh" in record.reason for record in trials)


def test_the_rates_of_a_closed_loop_are_kept(tmp_path: Path) -> None:
    knobs = {"plateau.warmup": 0.0, "plateau.patience": 2, "plateau.cooldown": 0}
    study_in(tmp_path).enqueue_trial({"family": "plateau", **knobs})
    (record,) = search_in(tmp_path, SpoiltPool(flat), 1)
    rates, factor = record.curves.rate, record.schedule.to_dict()["knobs"]["factor"]
    # The first validation is the best; three without improvement are one more than patience.
    assert rates[3] == pytest.approx(record.schedule.peak_lr)
    assert rates[4] == pytest.approx(rates[3] * factor)


@pytest.mark.parametrize(
    ("limits", "trials"),
    [
        (Limits(trials=7), 7),
        (Limits(updates=400 * 5), 5),
        (Limits(updates=400 * 5 + 1), 6),
        (Limits(trials=3, updates=400 * 50), 3),
    ],
)
@pytest.mark.parametrize("slots", [1, 3])
def test_limits(tmp_path: Path, limits: Limits, trials: int, slots: int) -> None:
    assert len(search_in(tmp_path, SpoiltPool(slots=slots), limits)) == trials


def test_trials_queued_by_somebody_else_are_run_also_outside_the_space(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    for peak in (0.123, 5.0):
        study.enqueue_trial({"family": "cosine", "cosine.peak_lr": peak})
    with pytest.warns(UserWarning, match="out of range"):
        trials = search_in(tmp_path, SpoiltPool(), 12)
    assert {0.123, 5.0} <= {record.schedule.peak_lr for record in trials}
    assert len(search_in(tmp_path, SpoiltPool(), 14)) == 14


@pytest.mark.parametrize("slots", [1, 3])
def test_queued_trials_count_in_the_budget(tmp_path: Path, slots: int) -> None:
    for _ in range(6):
        study_in(tmp_path).enqueue_trial({"family": "wsd"})
    pool = SpoiltPool(slots=slots)
    assert len(search_in(tmp_path, pool, 3)) == 3
    families = [record.schedule.family for record in search_in(tmp_path, pool, 7)]
    assert families[:6] == ["wsd"] * 6


def test_trials_of_another_run_on_the_storage_are_left_alone(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    theirs = study.ask()
    assert len(search_in(tmp_path, SpoiltPool(), 3)) == 3
    assert study.trials[theirs.number].state == TrialState.RUNNING


def test_the_state_adds_up(tmp_path: Path) -> None:
    shares, pool = [], SpoiltPool(slots=2)
    state = SearchState(Limits(trials=6))

    def watch(state: SearchState) -> None:
        shares.append(state.share)

    search = Search(study_in(tmp_path), SPACE, pool, state, watch=watch)
    Loop(pool, [search]).run()
    state = search.state
    assert shares == sorted(shares) and shares[-1] == 1
    assert state.trials == state.ended.total() == 6 and state.updates == 6 * 400
    values = [r.value for r in records(study_in(tmp_path)) if r.value is not None]
    assert state.best is not None and state.best.value == min(values)
