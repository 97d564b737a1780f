"""The referee in searches with an idle trainer: who is stalled."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from idle import SpoiltPool
from optuna.trial import TrialState
from refereed import CONSTANTS, LOOPS, TOTAL, in_state, learns_nothing, scoring, search_with

from lrtune import InputError
from lrtune.engine import Progress
from lrtune.search import Rules, Space, open_study


def plateau_after(update: int) -> Callable[[Progress], Progress]:
    """Ever better until this update, ever worse from there on."""

    def spoil(progress: Progress) -> Progress:
        loss = 2 - min(progress.update, 2 * update - progress.update) / TOTAL
        metrics = {"cross_entropy": loss, "accuracy": 1 - loss / 3}
        return replace(progress, loss=loss, metrics=metrics)

    return spoil


@pytest.mark.parametrize("judged", [lambda pool: pool, scoring], ids=["losses", "scores"])
def test_a_stalled_trial_is_complete_with_its_last_value(tmp_path: Path, judged) -> None:
    pool = judged(SpoiltPool(plateau_after(150)))
    found = search_with(tmp_path, pool, Rules(patience=2), space=CONSTANTS, trials=3)
    for record in found:
        assert record.state == "stalled" and record.updates == 250
        seen = record.curves.metrics[pool.task.objective.name]
        assert record.value == seen[-1] != seen[2]
        assert "2 validations" in record.reason and "stays within a factor" in record.reason
    for trial in study_of_(tmp_path, pool).trials:
        assert trial.state == TrialState.COMPLETE
        assert trial.value == trial.intermediate_values[250]
        assert trial.user_attrs["ended"].startswith("stalled: no better by 0.2%")


def study_of_(folder: Path, pool: SpoiltPool) -> optuna.Study:
    return open_study(folder / "journal.log", "s", pool.task.objective.direction)


def test_the_averaged_weights_may_still_gain(tmp_path: Path) -> None:
    """The current ones alone look as if they had stalled."""

    def spoil(progress: Progress) -> Progress:
        return replace(learns_nothing(progress), averaged=0.99 - progress.update / 1000)

    for spoilt, state in ((learns_nothing, "stalled"), (spoil, "complete")):
        folder = tmp_path / state
        folder.mkdir()
        rules = Rules(patience=2)
        found = search_with(folder, SpoiltPool(spoilt), rules, space=CONSTANTS, trials=2)
        assert {record.state for record in found} == {state}


def test_a_rate_that_is_still_to_fall_is_waited_for(tmp_path: Path) -> None:
    late = Space(("wsd",), peak_lr=(0.01, 0.02), warmup=(0.0, 0.0))
    rules = Rules(patience=2)
    found = search_with(tmp_path, SpoiltPool(learns_nothing), rules, space=late, trials=6)
    for record in found:
        rates = record.schedule.rates(TOTAL)
        end = record.curves.step[-1]
        assert end > 2 * 50 + 50  # where a constant rate stalls
        spent = rates[end:].sum() < 0.01 * rates.sum()
        assert record.state == "complete" or spent or rates[end - 1] < 2 * rates[-1]


def test_a_closed_loop_stalls_only_when_its_rates_are_spent(tmp_path: Path) -> None:
    rules = Rules(patience=1)
    found = search_with(tmp_path, SpoiltPool(learns_nothing), rules, space=LOOPS, trials=12)
    assert {record.state for record in found} == {"complete", "stalled"}
    for record in in_state(found, "stalled"):
        held = record.curves.rate
        spent = sum(50 * rate for rate in held)
        assert held[-1] * (TOTAL - record.updates) <= 0.02 * spent
        assert "of all rates left" in record.reason


def test_without_patience_nothing_stalls(tmp_path: Path) -> None:
    kept = {"space": CONSTANTS, "trials": 2}
    found = search_with(tmp_path, SpoiltPool(learns_nothing), Rules(patience=0), **kept)
    assert {record.state for record in found} == {"complete"}


def test_a_gain_that_counts_is_set_by_min_delta(tmp_path: Path) -> None:
    def spoil(progress: Progress) -> Progress:
        loss = 0.99 ** (progress.update / 50)
        return replace(progress, loss=loss, metrics={"cross_entropy": loss, "accuracy": 0.5})

    for min_delta, state in ((0.005, "complete"), (0.05, "stalled")):
        folder = tmp_path / state
        folder.mkdir()
        rules = Rules(patience=2, min_delta=min_delta)
        found = search_with(folder, SpoiltPool(spoil), rules, space=CONSTANTS, trials=2)
        assert {record.state for record in found} == {state}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"patience": -1}, "patience=-1"),
        ({"patience": 2.0}, r"patience=2\.0"),
        ({"patience": True}, "patience=True"),
        ({"min_delta": 1}, "min_delta=1"),
        ({"min_delta": -0.1}, r"min_delta=-0\.1"),
        ({"min_delta": math.nan}, "min_delta=nan"),
        ({"audit": -0.1}, r"audit=-0\.1"),
        ({"audit": 1.1}, r"audit=1\.1"),
        ({"audit": math.nan}, "audit=nan"),
    ],
)
def test_rules_that_make_no_sense(arguments: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Rules(**arguments)
