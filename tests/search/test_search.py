import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from idle import (
    SPACE,
    TRIALS,
    VALIDATIONS,
    EdgyPool,
    SpoiltPool,
    assert_same,
    flat,
    found_in,
    killed,
    search_in,
    study_in,
)
from optuna.pruners import MedianPruner
from optuna.trial import TrialState
from overhead import IdlePool, idle_task

from lrtune import InputError
from lrtune.engine import Progress
from lrtune.search import Limits, Loop, Search, SearchState, open_study, records
from lrtune.search.search import FAILURES
from lrtune.search.storage import mend

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.parametrize(
    ("killed_by", "slots", "entries"),
    [("SIGKILL", 1, (41, 90)), ("SIGKILL", 3, (77, 78, 120)), ("SIGTERM", 3, (100, 61))],
)
def test_a_killed_search_ends_as_an_unbroken_one(
    tmp_path: Path, killed_by: str, slots: int, entries: tuple[int, ...]
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    budget = Limits(trials=TRIALS)
    expected = search_in(whole, EdgyPool(slots), budget)
    assert set(expected["state"]) == {"complete", "diverged"}
    for entry in entries:
        killed(broken, slots, killed_by, entry, checkpoints=False, at="entry")
        assert len(found_in(broken)) < TRIALS
        mend(broken / "journal.log", stale_seconds=0)
    found = search_in(broken, EdgyPool(slots), budget)
    assert list(found["number"]) == list(range(TRIALS))
    assert_same(found, expected)


@pytest.mark.parametrize("slots", [1, 3])
def test_a_storage_that_fails_between_record_and_end_loses_no_trial(
    tmp_path: Path, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "whole").mkdir()
    budget, tell, values = Limits(trials=9), optuna.Study.tell, []
    expected = search_in(tmp_path / "whole", EdgyPool(slots), budget)

    def fails_once(study: optuna.Study, trial: object, *value: float, **state: object) -> object:
        if value and study.study_name == "s":  # samplers have studies too
            values.extend(value)
            if len(values) == 3:
                raise OSError("no space left")
        return tell(study, trial, *value, **state)

    with monkeypatch.context() as patched, pytest.raises(OSError, match="no space left"):
        patched.setattr(optuna.Study, "tell", fails_once)
        search_in(tmp_path, EdgyPool(slots), budget)
    before = found_in(tmp_path)
    assert len(before) < 9 and before["value"].notna().eq(before["state"] == "complete").all()
    assert_same(search_in(tmp_path, EdgyPool(slots), budget), expected)


@pytest.mark.parametrize("slots", [1, 4])
def test_a_search_that_is_extended_is_one_search(tmp_path: Path, slots: int) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    expected = search_in(tmp_path / "a", IdlePool(idle_task(VALIDATIONS), 1), Limits(trials=14))
    search_in(tmp_path / "b", IdlePool(idle_task(VALIDATIONS), 1), Limits(trials=5))
    found = search_in(tmp_path / "b", IdlePool(idle_task(VALIDATIONS), 1), Limits(trials=14))
    assert_same(found, expected)
    again = search_in(tmp_path / "b", IdlePool(idle_task(VALIDATIONS), slots), Limits(trials=14))
    assert_same(again, expected)  # the budget is spent: nothing is added


@pytest.mark.parametrize("field", ["loss", "metric"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_divergence_is_told_as_pruned_and_infeasible(
    tmp_path: Path, field: str, bad: float
) -> None:
    def spoil(progress: Progress) -> Progress:
        if progress.update < 100:
            return progress
        metrics = {**progress.metrics, "cross_entropy": bad}
        loss = bad if field == "loss" else progress.loss
        return replace(progress, loss=loss, metrics=metrics)

    found = search_in(tmp_path, SpoiltPool(spoil), Limits(trials=5))
    assert set(found["state"]) == {"diverged"}
    assert (found["updates"] == 100).all()
    assert found["value"].isna().all()
    for trial in study_in(tmp_path).trials:
        assert trial.state == TrialState.PRUNED
        assert trial.constraints["diverged"] > 0
        assert all(np.isfinite(v) for v in trial.intermediate_values.values())
        assert trial.user_attrs["ended"].startswith("diverged: ")
        json.dumps(trial.user_attrs, allow_nan=False)


def test_trial_after_trial_that_fails_ends_the_search(tmp_path: Path) -> None:
    def spoil(progress: Progress) -> Progress:
        error, told = "ValueError: oh", "trace"
        return Progress(progress.slot, 50, math.nan, {}, error=error, traceback=told)

    with pytest.raises(RuntimeError, match="ValueError: oh"):
        search_in(tmp_path, SpoiltPool(spoil), Limits(trials=9))
    found = found_in(tmp_path)
    assert list(found["state"]) == ["failed"] * FAILURES
    assert found["reason"].str.contains("oh").all()


def test_any_pruner_may_be_passed_in(tmp_path: Path) -> None:
    pruner = MedianPruner(n_startup_trials=4)
    found = search_in(tmp_path, IdlePool(idle_task(VALIDATIONS)), Limits(trials=20), pruner)
    pruned = found[found["state"] == "pruned"]
    assert 0 < len(pruned) < 20
    assert (pruned["reason"] == "by MedianPruner").all()
    assert (pruned["updates"] < 400).all()
    assert (found[found["state"] == "complete"]["updates"] == 400).all()


def test_the_rates_of_a_closed_loop_are_kept(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    knobs = {"warmup": 0.0, "patience": 2, "cooldown": 0}
    study.enqueue_trial({"family": "plateau", **{f"plateau.{k}": v for k, v in knobs.items()}})
    found = search_in(tmp_path, SpoiltPool(flat), Limits(trials=1))
    (rates,) = found["rate"]
    (knobs,) = [json.loads(text)["knobs"] for text in found["schedule"]]
    # The first validation is the best; three without improvement are one more than patience.
    assert rates[3] == pytest.approx(found["peak_lr"][0])
    assert rates[4] == pytest.approx(rates[3] * knobs["factor"])


@pytest.mark.parametrize(
    ("budget", "trials"),
    [
        (Limits(trials=7), 7),
        (Limits(updates=400 * 5), 5),
        (Limits(updates=400 * 5 + 1), 6),
        (Limits(trials=3, updates=400 * 50), 3),
    ],
)
@pytest.mark.parametrize("slots", [1, 3])
def test_budgets(tmp_path: Path, budget: Limits, trials: int, slots: int) -> None:
    assert len(search_in(tmp_path, IdlePool(idle_task(VALIDATIONS), slots), budget)) == trials


@pytest.mark.parametrize("arguments", [{}, {"trials": 0}, {"seconds": -1.0}, {"updates": math.nan}])
def test_a_budget_that_is_none(arguments: dict) -> None:
    with pytest.raises(InputError, match=r"budget|positive"):
        Limits(**arguments)


def test_trials_queued_by_somebody_else_are_run(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    study.enqueue_trial({"family": "cosine", "cosine.peak_lr": 0.123})
    found = search_in(tmp_path, IdlePool(idle_task(VALIDATIONS)), Limits(trials=3))
    assert 0.123 in list(found["peak_lr"])


def test_a_trial_queued_outside_the_space_is_run_and_does_no_harm(tmp_path: Path) -> None:
    study_in(tmp_path).enqueue_trial({"family": "cosine", "cosine.peak_lr": 5.0})
    with pytest.warns(UserWarning, match="out of range"):
        found = search_in(tmp_path, IdlePool(idle_task(VALIDATIONS)), Limits(trials=12))
    assert 5.0 in list(found["peak_lr"])
    assert len(search_in(tmp_path, IdlePool(idle_task(VALIDATIONS)), Limits(trials=14))) == 14


@pytest.mark.parametrize("slots", [1, 3])
def test_queued_trials_count_in_the_budget(tmp_path: Path, slots: int) -> None:
    for _ in range(6):
        study_in(tmp_path).enqueue_trial({"family": "wsd"})
    pool = IdlePool(idle_task(VALIDATIONS), slots)
    assert len(search_in(tmp_path, pool, Limits(trials=3))) == 3
    assert list(search_in(tmp_path, pool, Limits(trials=7))["family"][:6]) == ["wsd"] * 6


def test_trials_of_another_run_on_the_storage_are_left_alone(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    theirs = study.ask()
    found = search_in(tmp_path, IdlePool(idle_task(VALIDATIONS)), Limits(trials=3))
    assert len(found) == 3
    assert study.trials[theirs.number].state == TrialState.RUNNING


def test_the_state_adds_up(tmp_path: Path) -> None:
    shares = []
    pool, budget = IdlePool(idle_task(VALIDATIONS), 2), Limits(trials=6)
    search = Search(
        study_in(tmp_path),
        SPACE,
        pool,
        SearchState(budget),
        watch=lambda state: shares.append(state.share),
    )
    Loop(pool, [search]).run()
    state = search.state
    assert shares == sorted(shares) and shares[-1] == 1
    assert state.trials == sum(state.ended.values()) == 6
    assert state.updates == 6 * 400
    assert state.best is not None
    assert state.best.value == min(r.value for r in records(study_in(tmp_path)) if r.value)


def test_a_storage_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nosuch://x"):
        open_study("nosuch://x", "s", "minimize")
    with pytest.raises(InputError, match="storage"):
        open_study(f"sqlite:///{os.devnull}/x.db", "s", "minimize")
