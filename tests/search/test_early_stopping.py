"""What ends a trial: the rules as functions of its curve, and in searches with an idle trainer."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from idle import (
    CONSTANTS,
    EVERYTHING,
    TOTAL,
    VALIDATIONS,
    NoisyPool,
    SpoiltPool,
    flat,
    in_state,
    losing,
    pruned_in,
    scoring,
    study_in,
)
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.trial import FrozenTrial, TrialState

from lrtune import InputError, SchedulePruner
from lrtune.engine import Progress
from lrtune.schedule import Schedule
from lrtune.search import Limits, Record, SearchState, Space, Stopping, frame
from lrtune.search.early_stopping import EPSILON, NEVER, diverged, plateaued
from lrtune.search.storage import AUDIT
from lrtune.verdict.settings import Objective
from lrtune.verdict.summary import finalists, ranked, recommended

# Divergence.


@pytest.mark.parametrize(
    ("losses", "untrained", "expected"),
    [
        ([], 2.3, False),
        ([2.0, 1.0], 2.3, False),
        ([4.6, 4.6], 2.3, False),  # at the bound, not above it
        ([9.0], 2.3, False),  # one spike
        ([9.0, 1.0, 9.0], 2.3, False),  # two, but not running
        ([1.0, 9.0, 9.0], 2.3, True),
        ([1.0, math.nan], 2.3, True),
        ([math.inf], 2.3, True),
        ([-math.inf], 2.3, True),
        ([-1.0, -0.5], -2.0, False),  # a negative loss has no scale
        ([9.0, 9.0], 0.0, False),
        ([9.0, 9.0], math.nan, False),
    ],
)
def test_divergence(losses: list[float], untrained: float, expected: bool) -> None:
    assert (diverged(losses, untrained) is not None) == expected


# Plateaus.

CONSTANT = Schedule("constant", peak_lr=0.1)
LATE = Schedule("wsd", peak_lr=0.1, knobs={"decay": 0.1})
CYCLIC = Schedule("cyclic", peak_lr=0.1, knobs={"base_lr": 0.25, "step_size_up": 0.1})
RISING = Schedule("constant", peak_lr=0.1, warmup=0.9, warmup_start=0.1)
STEPS = Schedule("multistep", peak_lr=0.1, knobs={"gamma": 0.05, "milestones": (0.2, 0.4)})
COSINE = Schedule("cosine", peak_lr=0.1, knobs={"T_max": 1.0, "eta_min": 0.0})

FLAT = [0.7] * 20
SLOW = [0.995**i for i in range(20)]  # 0.5 % better at each validation
NOISY = [0.7 + 0.01 * (i % 2) for i in range(20)]


@pytest.mark.parametrize(
    ("losses", "schedule", "update", "expected"),
    [
        (FLAT, CONSTANT, 100, True),  # at the first validation at which it can be seen
        (FLAT, CONSTANT, 80, False),  # patience itself
        (NOISY, CONSTANT, 200, True),
        (SLOW, CONSTANT, 400, False),  # slow but steady
        (FLAT, STEPS, 200, True),  # flat and low: the drops are over
        (FLAT, STEPS, 120, False),  # flat and high: the second drop is still to come
        (FLAT, LATE, 340, False),  # flat and high, a decay still to come: a late bloomer
        (FLAT, COSINE, 200, False),
        (FLAT, COSINE, 380, True),  # less than 1 % of all rates left
        (FLAT, CYCLIC, 160, False),  # at its lowest
        (FLAT, RISING, 100, False),  # the rate is still to rise
    ],
)
def test_plateau(losses: list[float], schedule: Schedule, update: int, expected: bool) -> None:
    """Asked after this update, with a validation every 20, and a patience of 4."""
    rates = schedule.rates(TOTAL)
    signal, left = np.log(losses[: update // 20]).tolist(), rates[update:].sum() / rates.sum()
    why = plateaued(signal, rates[update - 1 :], left, patience=4, min_delta=0.002)
    assert (why is not None) == expected


@pytest.mark.parametrize(
    ("ahead", "left", "expected"),
    [
        (np.geomspace(1.0, 1e-6, 10), 0.009, True),  # as good as spent
        (np.geomspace(1.0, 1e-6, 10), 0.011, False),
        (None, 0.009, True),  # a closed loop
        (None, 0.011, False),
        ([1.0, 0.51], 0.5, True),
        ([1.0, 0.49], 0.5, False),
        ([1.0, 0.4, 1.0], 0.5, False),  # down and up again
        ([1.0, 1.4], 0.5, True),
        ([1.0, 1.6], 0.5, False),
        ([1.0], 0.5, True),  # the last validation
    ],
)
def test_how_far_a_rate_may_change(ahead, left: float, expected: bool) -> None:
    ahead = None if ahead is None else np.array(ahead)
    why = plateaued([0.0] * 9, ahead, left, patience=3, min_delta=0.01)
    assert (why is not None) == expected


@pytest.mark.parametrize(
    ("losses", "min_delta", "expected"),
    [
        ([1.0, 1.0, 0.95, 0.95, 0.95], 0.04, False),
        ([1.0, 1.0, 0.95, 0.95, 0.95], 0.06, True),
        ([1.0, 1.0, 0.95, 0.99, 0.99], 0.04, False),  # the best of the last three counts
        ([1.0, 0.95, 1.0, 1.0, 1.0], 0.04, True),  # the gain is longer ago
        ([1.0, 1.0, 0.9999, 0.9999, 0.9999], 0.0, False),  # any gain at all
        ([1.0, 1.0, 1.01, 1.01, 1.01], 0.0, True),
    ],
)
def test_what_counts_as_an_improvement(losses: list, min_delta: float, expected: bool) -> None:
    why = plateaued(np.log(losses).tolist(), np.ones(9), 0.5, patience=3, min_delta=min_delta)
    assert (why is not None) == expected
    if expected:
        assert "in 3 validations, and the rate stays within a factor 1" in why


@given(
    signal=st.lists(st.floats(-700, 700), max_size=20),
    ahead=st.none() | st.lists(st.floats(1e-12, 1e3), min_size=1).map(np.array),
    left=st.floats(0, 1),
    asked=st.fixed_dictionaries({"patience": st.integers(1, 20), "min_delta": st.floats(0, 0.999)}),
)
def test_finite_curves_never_break_the_plateau(signal: list, ahead, left: float, asked) -> None:
    if plateaued(signal, ahead, left, **asked) is not None:
        assert len(signal) > asked["patience"]
        assert left < 0.01 or (ahead is not None and ahead.max() < 3 * ahead.min())
    # A curve that has just become far better goes on.
    assert plateaued([*signal, -1e4], ahead, left, **asked) is None


# Settings.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patience": -1}, "patience=-1"),
        ({"patience": 2.0}, r"patience=2\.0"),
        ({"patience": True}, "patience=True"),
        ({"min_delta": 1}, "min_delta=1"),
        ({"min_delta": math.nan}, "min_delta=nan"),
        ({"audit": -0.1}, r"audit=-0\.1"),
        ({"audit": math.nan}, "audit=nan"),
        ({"epsilon": 1.0}, r"epsilon=1\.0"),
        ({"epsilon": "a tenth"}, "epsilon='a tenth'"),
        ({"pruner": "medain"}, "did you mean 'median'"),
        ({"pruner": 3}, "pruner must be a name or an Optuna pruner"),
    ],
)
def test_settings_that_make_no_sense(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Stopping(**arguments)


# Searches: pruned.


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    folder = tmp_path_factory.mktemp("pruned")
    return folder, pruned_in(folder, NoisyPool())


def test_a_pruned_trial_says_why_in_words_and_figures(pruned: tuple[Path, list[Record]]) -> None:
    folder, trials = pruned
    lost, study = in_state(trials, "pruned"), study_in(folder)
    assert 5 < len(lost) < len(trials)
    assert not any(AUDIT in trial.user_attrs for trial in study.trials)
    for record in lost:
        figures = record.evidence
        assert figures["probability"] < figures["threshold"] == EPSILON
        assert figures["low"] < figures["final"] < figures["high"]
        assert figures["trials"] >= 1 and {*figures["ahead"]} == {"remainder", "fall", "rise"}
        for name in ("final", "low", "high", "best"):
            assert f"{figures[name]:.4g}" in record.reason
        ended = [other.value for other in trials[: record.number] if other.value is not None]
        assert figures["best"] == pytest.approx(min(ended))  # the best that was known
        assert record.value is None and record.updates == record.curves.step[-1] < TOTAL
        trial = study.trials[record.optuna_number]
        assert trial.state == TrialState.PRUNED
        assert trial.user_attrs["ended"] == f"pruned: {record.reason}"
    for record in in_state(trials, "complete"):
        assert (record.evidence, record.updates) == ({}, TOTAL)


def test_optuna_is_told_the_better_of_current_and_averaged_weights(pruned) -> None:
    folder, trials = pruned
    study = study_in(folder)
    for record in trials:
        if record.state != "diverged":
            told = study.trials[record.optuna_number].intermediate_values
            curves = record.curves
            best = np.minimum(curves.metrics["cross_entropy"], curves.averaged)
            assert told == dict(zip(curves.step, best, strict=True))


def test_another_pruner_has_no_figures(tmp_path: Path) -> None:
    trials = pruned_in(tmp_path, NoisyPool(), pruner=MedianPruner(n_startup_trials=3))
    lost = in_state(trials, "pruned")
    assert 0 < len(lost) < len(trials)
    assert {record.reason for record in lost} == {"by MedianPruner"}
    assert all(record.evidence == {} and record.updates < TOTAL for record in lost)


# Searches: audited.


def test_all_that_would_be_pruned_is_trained_to_its_end(tmp_path: Path) -> None:
    trials = pruned_in(tmp_path, NoisyPool(), stopping=replace(EVERYTHING, audit=1.0))
    audited = [record for record in trials if record.audit is not None]
    assert 3 < len(audited) < len(trials) and not in_state(trials, "pruned")
    assert {record.state for record in audited} <= {"complete", "diverged"}
    assert in_state(audited, "complete")
    for record in audited:
        assert 40 <= record.audit["update"] < TOTAL
        assert record.audit["probability"] < record.audit["threshold"]
        assert f"{record.audit['final']:.4g}" in record.audit["reason"]
        if record.state == "complete":
            assert record.updates == TOTAL
            assert record.value == record.curves.metrics["cross_entropy"][-1]
            trial = study_in(tmp_path).trials[record.optuna_number]
            assert trial.state == TrialState.COMPLETE


class AllButTheFirst(BasePruner):
    """Prunes at once, the first trials excepted."""

    def __init__(self, spared: int = 1) -> None:
        self.spared = spared

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return trial.number >= self.spared


def audited_in(
    folder: Path, trials: int, share: float = 1.0, spared: int = 1, spoil=flat, **how
) -> list[Record]:
    stopping = replace(NEVER, audit=share, patience=how.pop("patience", 0))
    how |= {"pruner": AllButTheFirst(spared), "space": CONSTANTS, "stopping": stopping}
    return pruned_in(folder, SpoiltPool(spoil), trials, **how)


def test_an_audited_trial_does_not_plateau_and_may_diverge(tmp_path: Path) -> None:
    trials = audited_in(tmp_path / "flat", 4, spared=2, patience=3)
    assert [record.state for record in trials] == ["complete", "plateaued", "complete", "complete"]
    assert [record.audit is None for record in trials] == [True, True, False, False]
    assert {record.audit["update"] for record in trials[2:]} == {TOTAL // VALIDATIONS}
    assert [record.value for record in trials] == [1.0, None, 1.0, 1.0]

    def diverges(progress: Progress) -> Progress:
        return replace(progress, loss=math.nan) if progress.update > 200 else progress

    trials = audited_in(tmp_path / "lost", 3, spoil=diverges)
    assert [record.state for record in trials] == ["diverged"] * 3
    assert trials[1].audit is not None and trials[1].value is None


def test_the_share_is_what_is_asked_for_and_one_of_the_first_is_audited(tmp_path: Path) -> None:
    def drawn(name: str, seed: int, share: float = 0.001, trials: int = 25) -> list[bool]:
        found = audited_in(tmp_path / name, trials, share, seed=seed)
        return [record.audit is not None for record in found[1:]]

    few = [drawn(str(seed), seed) for seed in range(3)]
    assert all(sum(audited[:11]) == 1 and sum(audited) <= 2 for audited in few)
    assert len({audited.index(True) for audited in few}) > 1  # not the same one for all
    assert drawn("again", 2) == few[2]
    assert 15 <= sum(drawn("half", 0, share=0.5, trials=61)) <= 45


# Searches: plateaued.

BOTH = Space(("linear", "constant"), peak_lr=(0.01, 0.02), warmup=(0.0, 0.0))
PATIENT = replace(NEVER, patience=2)


def careful() -> SchedulePruner:
    """Nothing is pruned, and all is forecast."""
    return SchedulePruner(TOTAL, epsilon=1e-9)


class PlateauPool(SpoiltPool):
    """Ever better for 150 updates, ever worse from there on; the first trial best by far."""

    def __init__(self) -> None:
        super().__init__(self.plateaus)
        self.admitted = 0

    def start(self, *given: object) -> Progress:
        self.admitted += 1
        return super().start(*given)

    def plateaus(self, progress: Progress) -> Progress:
        loss = 2 - min(progress.update, 300 - progress.update) / TOTAL
        loss = loss / 2 if self.admitted == 1 else loss
        return replace(progress, loss=loss, metrics={"cross_entropy": loss, "accuracy": -loss})


@pytest.mark.parametrize("judged", [lambda pool: pool, scoring], ids=["losses", "scores"])
@pytest.mark.parametrize("judge", ["last", "best"])
def test_a_plateaued_trial_has_no_value_and_is_told_as_pruned(
    tmp_path: Path, judged: Callable[[SpoiltPool], SpoiltPool], judge: str
) -> None:
    pool = judged(PlateauPool())
    how = {"pruner": careful(), "space": CONSTANTS, "stopping": PATIENT, "judge": judge}
    first, *others = pruned_in(tmp_path, pool, 3, **how)  # compared with the first
    assert first.state == "complete" and first.updates == TOTAL
    direction = pool.task.objective.direction
    study = study_in(tmp_path, direction=direction)
    for record in others:
        assert (record.state, record.updates) == ("plateaued", 250)
        assert record.value is None and record.evidence["best"] == first.value
        trial = study.trials[record.optuna_number]
        assert trial.state == TrialState.PRUNED
        assert trial.user_attrs["ended"].startswith("plateaued: no better by 0.2%")
    chosen = recommended(frame(others), direction)  # by its forecast, where none was trained on
    assert chosen["value"] == others[chosen["number"] - 1].evidence["final"]


def test_a_plateau_that_would_be_the_best_is_trained_on(tmp_path: Path) -> None:
    """What it comes to cannot be told by a forecast that says that it wins."""

    def spoil(progress: Progress) -> Progress:
        rates = pool._rates[progress.slot]
        fallen = 0.5 if rates[0] > rates[-1] else 1.0  # one that decays gets half as far
        return losing(progress, 2 - fallen * min(1, progress.update / 200))

    pool = SpoiltPool(spoil)
    trials = pruned_in(tmp_path, pool, 8, stopping=PATIENT, pruner=careful(), space=BOTH)
    first_whole = next(record.number for record in trials if record.state == "complete")
    better = [r for r in trials if r.number > first_whole and r.schedule.family == "constant"]
    assert better and better[0].state == "complete"


class OverfitPool(SpoiltPool):
    """Every trial overfits: constant rates show 0.459 at their plateau, and would end at 0.786."""

    def __init__(self) -> None:
        super().__init__(self.overfits)

    def overfits(self, progress: Progress) -> Progress:
        rates = self._rates[progress.slot]
        curve = [1.5, 0.9, 0.458, 0.4585, 0.459, 0.56, 0.68, 0.786]
        loss = curve[progress.update * VALIDATIONS // TOTAL - 1]
        return losing(progress, loss if rates[-1] == rates[0] else 0.1 + 0.7 * loss + rates[0])


def test_what_overfits_after_its_plateau_is_not_crowned(tmp_path: Path) -> None:
    study = study_in(tmp_path, space=BOTH)
    for family in ("linear", "constant") * 5:
        study.enqueue_trial({"family": family})
    trials = pruned_in(tmp_path, OverfitPool(), 10, pruner=careful(), space=BOTH, stopping=PATIENT)
    held, whole = in_state(trials, "plateaued"), in_state(trials, "complete")
    assert {record.schedule.family for record in held} == {"constant"} and len(held) > 1
    assert {record.schedule.family for record in whole} == {"linear"} and len(whole) > 1
    best = min(whole, key=lambda record: record.value)
    # Ranked by what they showed, they would win.
    assert 0.459 <= min(record.curves.loss[-1] for record in held) < best.value
    for record in held:
        assert record.evidence["high"] > 0.459
        assert record.evidence["low"] < record.evidence["final"] < record.evidence["high"]
        assert study.trials[record.optuna_number].state == TrialState.PRUNED
    # Once others have been seen to overfit, so is this one expected to.
    assert held[-1].evidence["final"] > 0.5
    assert study.best_trial.number == best.optuna_number
    table = frame(trials)
    assert recommended(table, "minimize")["number"] == best.number
    sent = finalists(table.assign(p_best=1.0), Objective(name="loss", direction="minimize"))
    searched = {finalist.family: finalist.searched for finalist in sent}
    assert searched["linear"] == best.value and math.isnan(searched["constant"])
    assert set(ranked(table, "minimize")["family"]) == {"linear"}
    state = SearchState(Limits(trials=10))
    for record in trials:
        state.add(record)
    assert state.best == best and state.bests == [best]


def test_the_best_weights_count_where_they_are_asked_for(tmp_path: Path) -> None:
    """The same trainings, judged at their end and at their best."""
    values = {}
    for judge in ("last", "best"):
        how = {"pruner": NopPruner(), "space": BOTH, "judge": judge}
        trials = pruned_in(tmp_path / judge, OverfitPool(), 4, **how)
        for record in trials:
            curve = record.curves.metrics["cross_entropy"]
            last, best = (curve[-1], TOTAL), (min(curve), 3 * TOTAL // VALIDATIONS)
            assert (record.value, record.judged_at) == (last if judge == "last" else best)
            trial = study_in(tmp_path / judge).trials[record.optuna_number]
            told = [trial.intermediate_values[step] for step in record.curves.step]
            assert record.state == "complete" and trial.value == record.value
            assert told == (curve if judge == "last" else np.minimum.accumulate(curve).tolist())
        values[judge] = [record.value for record in trials]
    assert all(best < last for best, last in zip(values["best"], values["last"], strict=True))


@pytest.mark.parametrize("judge", ["last", "best"])
def test_a_trial_that_diverges_late_has_no_value(tmp_path: Path, judge: str) -> None:
    def spoil(progress: Progress) -> Progress:
        return replace(progress, loss=math.nan) if progress.update == TOTAL else progress

    trials = pruned_in(tmp_path, SpoiltPool(spoil), 3, judge=judge)
    assert {(record.state, record.value) for record in trials} == {("diverged", None)}


def gains(progress: Progress) -> Progress:
    return losing(progress, 0.99 ** (progress.update / 50))


def averages(progress: Progress) -> Progress:
    """The current weights alone look as if they had plateaued."""
    return replace(flat(progress), averaged=0.99 - progress.update / 1000)


@pytest.mark.parametrize(
    ("spoil", "stopping", "state"),
    [
        (flat, PATIENT, "plateaued"),
        (averages, PATIENT, "complete"),
        (gains, replace(PATIENT, min_delta=0.05), "plateaued"),
    ],
)
def test_who_plateaus_after_the_first(tmp_path: Path, spoil, stopping, state: str) -> None:
    trials = pruned_in(tmp_path, SpoiltPool(spoil), 3, stopping=stopping, space=CONSTANTS)
    assert [record.state for record in trials] == ["complete", state, state]


def test_a_closed_loop_plateaus_only_when_its_rates_are_spent(tmp_path: Path) -> None:
    loops = Space(("plateau",), peak_lr=(0.01, 0.02), warmup=(0.0, 0.0))
    eager = {name: d.low for name, d in loops.distributions("plateau").items()}
    for _ in range(2):  # the first is trained to its end
        study_in(tmp_path).enqueue_trial(
            {"family": "plateau", **eager}
        )  # gives its rate up at once
    stopping = replace(NEVER, patience=1)
    trials = pruned_in(tmp_path, SpoiltPool(flat), 4, stopping=stopping, space=loops)
    assert {record.state for record in trials} == {"complete", "plateaued"}
    for record in in_state(trials, "plateaued"):
        held = record.curves.rate
        assert held[-1] * (TOTAL - record.updates) <= 0.02 * sum(50 * rate for rate in held)
        assert "of all rates left" in record.reason
