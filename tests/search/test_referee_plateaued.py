"""The referee in searches with an idle trainer: who has plateaued, and what that is worth."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from idle import VALIDATIONS, SpoiltPool
from optuna.pruners import NopPruner
from optuna.trial import TrialState
from refereed import (
    CONSTANTS,
    LOOPS,
    TOTAL,
    in_state,
    learns_nothing,
    scoring,
    search_with,
    study_of,
)

from lrtune import InputError, SchedulePruner
from lrtune.engine import Progress
from lrtune.search import Board, Budget, Rules, Space, frame, open_study
from lrtune.verdict.finalists import finalists
from lrtune.verdict.summary import ranked, recommended

CAREFUL = 1e-9  # an epsilon with which nothing is pruned


class PlateauPool(SpoiltPool):
    """Ever better for 150 updates, ever worse from there on; the first trial best by far."""

    def __init__(self) -> None:
        super().__init__(self.plateaus)
        self.admitted = 0

    def start(self, *given: Any, **named: Any) -> Progress:
        self.admitted += 1
        return super().start(*given, **named)

    def plateaus(self, progress: Progress) -> Progress:
        loss = 2 - min(progress.update, 300 - progress.update) / TOTAL
        loss = loss / 2 if self.admitted == 1 else loss
        metrics = {"cross_entropy": loss, "accuracy": 1 - loss / 3}
        return replace(progress, loss=loss, metrics=metrics)


@pytest.mark.parametrize("judged", [lambda pool: pool, scoring], ids=["losses", "scores"])
@pytest.mark.parametrize("judge", ["last", "best"])
def test_a_plateaued_trial_has_no_value_and_is_told_as_pruned(
    tmp_path: Path, judged, judge: str
) -> None:
    pool = judged(PlateauPool())
    kept = {"pruner": SchedulePruner(TOTAL, epsilon=CAREFUL), "space": CONSTANTS, "trials": 3}
    found = search_with(tmp_path, pool, Rules(patience=2), judge=judge, **kept)
    first, *others = found  # the first is what the others are compared with
    assert first.state == "complete" and first.updates == TOTAL
    for record in others:
        assert record.state == "plateaued" and record.updates == 250
        assert record.value is None and record.judged_at is None
        assert record.evidence["low"] is not None and record.evidence["best"] == first.value
        assert "2 validations" in record.reason and "stays within a factor" in record.reason
    for trial in study_of_(tmp_path, pool).trials[1:]:
        assert trial.state == TrialState.PRUNED
        assert trial.user_attrs["ended"].startswith("plateaued: no better by 0.2%")
    chosen = recommended(frame(others), pool.task.objective.direction)
    assert chosen["state"] == "plateaued"  # by its forecast, where none was trained to its end
    assert chosen["value"] == found[chosen["number"]].evidence["final"]


def test_a_plateau_that_would_be_the_best_is_trained_on(tmp_path: Path) -> None:
    """What it comes to cannot be told by a forecast that says that it wins."""

    def spoil(progress: Progress) -> Progress:
        rates = pool._rates[progress.slot]
        fallen = 0.5 if rates[0] > rates[-1] else 1.0  # one that decays gets half as far
        loss = 2 - fallen * min(1, progress.update / 200)
        return replace(progress, loss=loss, metrics={"cross_entropy": loss, "accuracy": 0.5})

    pool = SpoiltPool(spoil)
    pruner = SchedulePruner(TOTAL, epsilon=CAREFUL)
    found = search_with(tmp_path, pool, Rules(patience=2), pruner=pruner, space=BOTH, trials=8)
    first_whole = next(record.number for record in found if record.state == "complete")
    better = [
        one for one in found if one.number > first_whole and one.schedule.family == "constant"
    ]
    assert better and better[0].state == "complete"


def study_of_(folder: Path, pool: SpoiltPool) -> optuna.Study:
    return open_study(folder / "journal.log", "s", pool.task.objective.direction)


class OverfitPool(SpoiltPool):
    """Every trial overfits: constant rates show 0.459 at their plateau, and would end at 0.786."""

    def __init__(self) -> None:
        super().__init__(self.overfits)

    def overfits(self, progress: Progress) -> Progress:
        rates = self._rates[progress.slot]
        flat = rates[-1] == rates[0]
        curve = [1.5, 0.9, 0.458, 0.4585, 0.459, 0.56, 0.68, 0.786]
        loss = curve[progress.update * VALIDATIONS // TOTAL - 1]
        loss = loss if flat else 0.1 + 0.7 * loss + rates[0]
        return replace(progress, loss=loss, metrics={"cross_entropy": loss, "accuracy": 0.5})


BOTH = Space(("linear", "constant"), peak_lr=(0.01, 0.02), warmup=(0.0, 0.0))


def test_what_overfits_after_its_plateau_is_not_crowned(tmp_path: Path) -> None:
    pruner = SchedulePruner(TOTAL, epsilon=CAREFUL)
    kept = {"pruner": pruner, "space": BOTH, "trials": 16}
    found = search_with(tmp_path, OverfitPool(), Rules(patience=2), **kept)
    flat, whole = in_state(found, "plateaued"), in_state(found, "complete")
    assert {one.schedule.family for one in flat} == {"constant"} and len(flat) > 1
    assert {one.schedule.family for one in whole} == {"linear"} and len(whole) > 1
    shown = [one.curves.loss[-1] for one in flat]
    best = min(whole, key=lambda one: one.value)
    # Ranked by what they showed, they would win.
    assert 0.459 <= min(shown) < best.value
    for one in flat:
        assert one.evidence["high"] > 0.459
        assert one.evidence["low"] < one.evidence["final"] < one.evidence["high"]
    # Once others have been seen to overfit, so is this one expected to.
    assert flat[-1].evidence["final"] > 0.5
    study = study_of(tmp_path)
    assert study.best_trial.number == best.optuna_number
    for one in flat:
        assert study.trials[one.optuna_number].state == TrialState.PRUNED
    trials = frame(found)
    assert recommended(trials, "minimize")["number"] == best.number
    sent = finalists(trials.assign(p_best=1.0), {"name": "loss", "direction": "minimize"})
    assert {(one.family, one.value) for one in sent} >= {("linear", best.value), ("constant", None)}
    assert set(ranked(trials, "minimize")["family"]) == {"linear"}
    board = Board(Budget(trials=16))
    for one in found:
        board.add(one)
    assert board.best == best and set(board.bests) == {"linear"}


def test_the_best_weights_count_where_they_are_asked_for(tmp_path: Path) -> None:
    """The same trainings, judged at their end and at their best."""
    at_end, at_best = tmp_path / "last", tmp_path / "best"
    values = {}
    for folder, judge in ((at_end, "last"), (at_best, "best")):
        folder.mkdir()
        kept = {"pruner": NopPruner(), "space": BOTH, "trials": 4, "judge": judge}
        found = search_with(folder, OverfitPool(), Rules(), **kept)
        for record in found:
            curve = record.curves.metrics["cross_entropy"]
            at = TOTAL if judge == "last" else 3 * TOTAL // VALIDATIONS
            value = curve[-1] if judge == "last" else min(curve)
            assert (record.state, record.value, record.judged_at) == ("complete", value, at)
            trial = study_of(folder).trials[record.optuna_number]
            told = [trial.intermediate_values[step] for step in record.curves.step]
            assert trial.value == value
            assert told == (curve if judge == "last" else np.minimum.accumulate(curve).tolist())
        values[judge] = [record.value for record in found]
    assert all(best < last for best, last in zip(values["best"], values["last"], strict=True))


@pytest.mark.parametrize("judge", ["last", "best"])
def test_a_trial_that_diverges_late_has_no_value(tmp_path: Path, judge: str) -> None:
    def spoil(progress: Progress) -> Progress:
        return replace(progress, loss=math.nan) if progress.update == TOTAL else progress

    found = search_with(tmp_path, SpoiltPool(spoil), Rules(), trials=3, judge=judge)
    assert {(record.state, record.value) for record in found} == {("diverged", None)}


def test_the_averaged_weights_may_still_gain(tmp_path: Path) -> None:
    """The current ones alone look as if they had plateaued."""

    def spoil(progress: Progress) -> Progress:
        return replace(learns_nothing(progress), averaged=0.99 - progress.update / 1000)

    for spoilt, state in ((learns_nothing, "plateaued"), (spoil, "complete")):
        folder = tmp_path / state
        folder.mkdir()
        rules = Rules(patience=2)
        found = search_with(folder, SpoiltPool(spoilt), rules, space=CONSTANTS, trials=3)
        assert [record.state for record in found] == ["complete", state, state]


def test_a_rate_that_is_still_to_fall_is_waited_for(tmp_path: Path) -> None:
    late = Space(("wsd",), peak_lr=(0.01, 0.02), warmup=(0.0, 0.0))
    rules = Rules(patience=2)
    found = search_with(tmp_path, SpoiltPool(learns_nothing), rules, space=late, trials=6)
    for record in found:
        rates = record.schedule.rates(TOTAL)
        end = record.curves.step[-1]
        assert end > 2 * 50 + 50  # where a constant rate plateaus
        spent = rates[end:].sum() < 0.01 * rates.sum()
        assert record.state == "complete" or spent or rates[end - 1] < 2 * rates[-1]


def test_a_closed_loop_plateaus_only_when_its_rates_are_spent(tmp_path: Path) -> None:
    eager = {name: d.low for name, d in LOOPS.distributions("plateau").items()}
    study = open_study(tmp_path / "journal.log", "s", "minimize")
    for _ in range(2):  # the first is trained to its end
        study.enqueue_trial({"family": "plateau", **eager})  # it gives its rate up at once
    rules = Rules(patience=1)
    found = search_with(tmp_path, SpoiltPool(learns_nothing), rules, space=LOOPS, trials=4)
    assert {record.state for record in found} == {"complete", "plateaued"}
    for record in in_state(found, "plateaued"):
        held = record.curves.rate
        spent = sum(50 * rate for rate in held)
        assert held[-1] * (TOTAL - record.updates) <= 0.02 * spent
        assert "of all rates left" in record.reason


def test_without_patience_nothing_plateaus(tmp_path: Path) -> None:
    kept = {"space": CONSTANTS, "trials": 2}
    found = search_with(tmp_path, SpoiltPool(learns_nothing), Rules(patience=0), **kept)
    assert {record.state for record in found} == {"complete"}


def test_a_gain_that_counts_is_set_by_min_delta(tmp_path: Path) -> None:
    def spoil(progress: Progress) -> Progress:
        loss = 0.99 ** (progress.update / 50)
        return replace(progress, loss=loss, metrics={"cross_entropy": loss, "accuracy": 0.5})

    for min_delta, state in ((0.005, "complete"), (0.05, "plateaued")):
        folder = tmp_path / state
        folder.mkdir()
        rules = Rules(patience=2, min_delta=min_delta)
        found = search_with(folder, SpoiltPool(spoil), rules, space=CONSTANTS, trials=3)
        assert [record.state for record in found] == ["complete", state, state]


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
