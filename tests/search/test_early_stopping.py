"""The referee in searches with an idle trainer: who is pruned, and who audited."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from idle import VALIDATIONS, SpoiltPool, found_in
from optuna.pruners import BasePruner, MedianPruner
from optuna.trial import FrozenTrial, TrialState
from stopped import (
    CONSTANTS,
    TOTAL,
    TRIALS,
    NoisyPool,
    in_state,
    learns_nothing,
    scoring,
    search_with,
    stopping,
    study_of,
)

from lrtune.engine import Progress
from lrtune.search.early_stopping import EPSILON
from lrtune.search.storage import AUDIT

# Pruned.


def test_a_pruned_trial_says_why_in_words_and_figures(tmp_path: Path) -> None:
    found = search_with(tmp_path, NoisyPool())
    pruned = in_state(found, "pruned")
    assert 3 < len(pruned) < TRIALS
    for record in pruned:
        figures = record.evidence
        expected = "final low high best probability threshold ahead trials"
        assert set(figures) == set(expected.split())
        assert figures["probability"] < figures["threshold"] == EPSILON
        assert figures["low"] < figures["final"] < figures["high"]
        assert figures["trials"] >= 1
        assert set(figures["ahead"]) == {"remainder", "fall", "rise"}
        for name in ("final", "low", "high", "best"):
            assert f"{figures[name]:.4g}" in record.reason
        assert record.value is None and record.audit is None
        assert record.updates == record.curves.step[-1] < TOTAL
        trial = study_of(tmp_path).trials[record.optuna_number]
        assert trial.state == TrialState.PRUNED
        assert trial.user_attrs["ended"] == f"pruned: {record.reason}"
    for record in in_state(found, "complete"):
        assert record.evidence == {} and record.reason == "reached the horizon"
        assert record.updates == TOTAL
    frame = found_in(tmp_path)
    kept = frame[frame["state"] == "pruned"]["evidence"].map(json.loads).tolist()
    assert kept == [record.evidence for record in pruned]


def test_the_best_that_was_known_is_what_had_to_be_beaten(tmp_path: Path) -> None:
    found = search_with(tmp_path, NoisyPool())
    for record in in_state(found, "pruned"):
        ended = [other.value for other in found[: record.number] if other.value is not None]
        assert record.evidence["best"] == pytest.approx(min(ended))


def test_optuna_is_told_the_better_of_current_and_averaged_weights(tmp_path: Path) -> None:
    found = search_with(tmp_path, NoisyPool(), trials=8)
    study = study_of(tmp_path)
    for record in found:
        if record.state == "diverged":
            continue
        told = study.trials[record.optuna_number].intermediate_values
        seen = record.curves
        best = np.minimum(seen.metrics["cross_entropy"], seen.averaged)
        assert told == dict(zip(seen.step, best, strict=True))


def test_a_search_by_scores_prunes_what_one_by_losses_does(tmp_path: Path) -> None:
    (tmp_path / "scores").mkdir()

    def averages(progress: Progress) -> Progress:
        # A score whose distance to 1 is the loss, but for the untrained one.
        loss = progress.loss / 100
        metrics = {"cross_entropy": loss, "accuracy": 1 - loss}
        return replace(progress, loss=loss, metrics=metrics)

    losses = search_with(tmp_path, SpoiltPool(averages))
    scores = search_with(tmp_path / "scores", scoring(SpoiltPool(averages)))
    # The samplers differ in their draws once Optuna knows a trial; the first ones are the same.
    assert in_state(scores, "pruned") and in_state(losses, "pruned")
    for record in in_state(scores, "pruned"):
        assert record.evidence["low"] > record.evidence["final"] > record.evidence["high"]
        assert record.evidence["best"] > record.evidence["final"]


def test_another_pruner_has_no_figures(tmp_path: Path) -> None:
    found = search_with(tmp_path, NoisyPool(), pruner=MedianPruner(n_startup_trials=3))
    pruned = in_state(found, "pruned")
    assert pruned
    assert {record.reason for record in pruned} == {"by MedianPruner"}
    assert all(record.evidence == {} for record in pruned)


# Audited.


def test_all_that_would_be_pruned_is_trained_to_its_end(tmp_path: Path) -> None:
    found = search_with(tmp_path, NoisyPool(), stopping(patience=2, audit=1.0))
    audited = [record for record in found if record.audit is not None]
    assert 3 < len(audited) < TRIALS
    assert not in_state(found, "pruned")
    assert {record.state for record in audited} <= {"complete", "diverged"}
    assert in_state(audited, "complete")
    for record in audited:
        assert 40 <= record.audit["update"] < TOTAL
        assert record.audit["probability"] < record.audit["threshold"]
        assert f"{record.audit['final']:.4g}" in record.audit["reason"]
        if record.state == "complete":
            assert record.updates == TOTAL
            assert record.value == record.curves.metrics["cross_entropy"][-1]
    told = study_of(tmp_path).get_trials(states=(TrialState.COMPLETE,))
    assert {record.optuna_number for record in in_state(audited, "complete")} <= {
        trial.number for trial in told
    }
    kept = found_in(tmp_path)["audit"].dropna().map(json.loads).tolist()
    assert kept == [record.audit for record in audited]


class AllButTheFirst(BasePruner):
    """Prunes at once, the first trials excepted."""

    def __init__(self, spared: int = 1) -> None:
        self.spared = spared

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return trial.number >= self.spared


def test_an_audited_trial_does_not_plateau(tmp_path: Path) -> None:
    kept = {"pruner": AllButTheFirst(spared=2), "space": CONSTANTS, "trials": 4}
    pool = SpoiltPool(learns_nothing)
    found = search_with(tmp_path, pool, stopping(patience=3, audit=1.0), **kept)
    assert [record.state for record in found] == ["complete", "plateaued", "complete", "complete"]
    assert [record.audit is None for record in found] == [True, True, False, False]
    assert {record.audit["update"] for record in found[2:]} == {TOTAL // VALIDATIONS}
    assert [record.value for record in found] == [1.0, None, 1.0, 1.0]


def test_an_audited_trial_that_diverges_is_no_other(tmp_path: Path) -> None:
    def diverges(progress: Progress) -> Progress:
        return replace(progress, loss=math.nan) if progress.update > 200 else progress

    kept = {"pruner": AllButTheFirst(), "space": CONSTANTS, "trials": 3}
    found = search_with(tmp_path, SpoiltPool(diverges), stopping(audit=1.0), **kept)
    assert [record.state for record in found] == ["diverged"] * 3
    assert found[1].audit is not None and found[1].value is None


def test_without_audits_there_are_none(tmp_path: Path) -> None:
    found = search_with(tmp_path, NoisyPool(), stopping(audit=0.0))
    assert len(in_state(found, "pruned")) > 5
    assert all(record.audit is None for record in found)
    assert not any(AUDIT in trial.user_attrs for trial in study_of(tmp_path).trials)


def audits(folder: Path, seed: int, share: float, trials: int = 25) -> list[bool]:
    """Of each trial that was to be pruned, in their order, whether it was audited."""
    folder.mkdir()
    kept = {"pruner": AllButTheFirst(), "space": CONSTANTS, "trials": trials, "seed": seed}
    found = search_with(folder, SpoiltPool(learns_nothing), stopping(audit=share), **kept)
    return [record.audit is not None for record in found[1:]]


def test_a_small_share_audits_one_of_the_first_and_few_after(tmp_path: Path) -> None:
    drawn = [audits(tmp_path / str(seed), seed, share=0.001) for seed in range(3)]
    assert all(sum(audited[:11]) == 1 for audited in drawn)
    assert all(sum(audited) <= 2 for audited in drawn)
    assert len({audited.index(True) for audited in drawn}) > 1  # not the same one for all
    assert audits(tmp_path / "again", 2, share=0.001) == drawn[2]


def test_the_share_is_what_is_asked_for(tmp_path: Path) -> None:
    audited = audits(tmp_path / "half", 0, share=0.5, trials=61)
    assert 15 <= sum(audited) <= 45
