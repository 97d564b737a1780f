"""The referee in searches with an idle trainer: pruned, stalled, audited, and cut short."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from idle import (
    CHECKPOINT,
    PATH,
    SAME,
    SPACE,
    VALIDATIONS,
    SpoiltPool,
    dies,
    found_in,
)
from optuna.pruners import BasePruner, MedianPruner
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from lrtune import InputError, SchedulePruner
from lrtune.engine import Progress
from lrtune.search import (
    Budget,
    FamilySampler,
    Record,
    Rules,
    Search,
    Space,
    keeper,
    open_study,
    records,
)
from lrtune.search.journal import mend
from lrtune.search.lineup import Lineup
from lrtune.search.pruner import EPSILON
from lrtune.search.store import AUDIT
from lrtune.tasks.metrics import ACCURACY, CROSS_ENTROPY

optuna.logging.set_verbosity(optuna.logging.WARNING)
TOTAL, TRIALS = 400, 30
CONSTANTS = Space(("constant",), peak_lr=(0.01, 0.02), warmup=(0.0, 0.0))
LOOPS = Space(("plateau",), peak_lr=(0.01, 0.02), warmup=(0.0, 0.0))
ENTRIES, SEGMENTS = (58, 111, 199), (12, 20, 33)  # at which a search is killed


class NoisyPool(SpoiltPool):
    """Averaged weights that are a little ahead; a few trials diverge, others reach a plateau."""

    def __init__(self, slots: int = 1) -> None:
        super().__init__(self.spoilt, slots)

    def spoilt(self, progress: Progress) -> Progress:
        rates = self._rates[progress.slot]
        kind = int(1e7 * rates[20]) % 7
        if kind == 0 and progress.update > 0:
            return replace(progress, loss=math.nan)
        loss = progress.loss * (1 + 0.02 * math.sin(1e4 * rates[20] + progress.update))
        if kind < 3:
            loss = 0.5 + 0.01 * kind
        accuracy = math.exp(-loss)
        metrics = {"cross_entropy": loss, "accuracy": accuracy}
        return replace(progress, loss=loss, metrics=metrics, averaged=0.97 * loss)


def search_with(
    folder: Path,
    pool: SpoiltPool,
    rules: Rules = Rules(),  # noqa: B008 - frozen
    *,
    pruner: BasePruner | None = None,
    trials: int = TRIALS,
    space: Space = SPACE,
    seed: int = 5,
    **kept: object,
) -> list[Record]:
    """Search, or go on with one: every trial that is over."""
    objective = pool.task.objective
    study = open_study(
        folder / "journal.log",
        "s",
        objective.direction,
        sampler=FamilySampler(space, seed=5),
        pruner=pruner or SchedulePruner(TOTAL),
    )
    budget = Budget(trials=trials)
    Search(study, space, pool, budget, rules=rules, seed=seed, owner="me", **kept).run()
    return records(study)


def study_of(folder: Path) -> optuna.Study:
    return open_study(folder / "journal.log", "s", "minimize")


def scoring(pool: SpoiltPool) -> SpoiltPool:
    """The same pool, judged by its accuracy."""
    pool.task = replace(pool.task, metrics=(ACCURACY, CROSS_ENTROPY))
    return pool


def in_state(found: list[Record], state: str) -> list[Record]:
    return [record for record in found if record.state == state]


# Pruned.


def test_a_pruned_trial_says_why_in_words_and_figures(tmp_path: Path) -> None:
    found = search_with(tmp_path, NoisyPool())
    pruned = in_state(found, "pruned")
    assert 3 < len(pruned) < TRIALS
    for record in pruned:
        figures = record.evidence
        expected = "final low high best probability threshold ahead trials"
        assert set(figures) == set(expected.split())
        assert figures["probability"] < figures["threshold"] < EPSILON
        assert figures["low"] < figures["final"] < figures["high"]
        assert figures["trials"] >= 5
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
        assert record.updates + record.forked == TOTAL
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
    found = search_with(tmp_path, NoisyPool(), Rules(patience=2, audit=1.0))
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
            assert record.updates + record.forked == TOTAL
            assert record.value == record.curves.metrics["cross_entropy"][-1]
    told = study_of(tmp_path).get_trials(states=(TrialState.COMPLETE,))
    assert {record.optuna_number for record in in_state(audited, "complete")} <= {
        trial.number for trial in told
    }
    kept = found_in(tmp_path)["audit"].dropna().map(json.loads).tolist()
    assert kept == [record.audit for record in audited]


class AllButTheFirst(BasePruner):
    """Prunes at once."""

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return trial.number > 0


def learns_nothing(progress: Progress) -> Progress:
    return replace(progress, loss=1.0, metrics={"cross_entropy": 1.0, "accuracy": 0.5})


def test_an_audited_trial_is_not_stalled(tmp_path: Path) -> None:
    kept = {"pruner": AllButTheFirst(), "space": CONSTANTS, "trials": 4}
    pool = SpoiltPool(learns_nothing)
    found = search_with(tmp_path, pool, Rules(patience=3, audit=1.0), **kept)
    assert [record.state for record in found] == ["stalled"] + 3 * ["complete"]
    assert [record.audit is None for record in found] == [True, False, False, False]
    assert {record.audit["update"] for record in found[1:]} == {TOTAL // VALIDATIONS}
    assert [record.value for record in found] == [1.0] * 4


def test_an_audited_trial_that_diverges_is_no_other(tmp_path: Path) -> None:
    def diverges(progress: Progress) -> Progress:
        return replace(progress, loss=math.nan) if progress.update > 200 else progress

    kept = {"pruner": AllButTheFirst(), "space": CONSTANTS, "trials": 3}
    found = search_with(tmp_path, SpoiltPool(diverges), Rules(audit=1.0), **kept)
    assert [record.state for record in found] == ["diverged"] * 3
    assert found[1].audit is not None and found[1].value is None


def test_without_audits_there_are_none(tmp_path: Path) -> None:
    found = search_with(tmp_path, NoisyPool(), Rules(audit=0.0))
    assert len(in_state(found, "pruned")) > 5
    assert all(record.audit is None for record in found)
    assert not any(AUDIT in trial.user_attrs for trial in study_of(tmp_path).trials)


def audits(folder: Path, seed: int, share: float, trials: int = 25) -> list[bool]:
    """Of each trial that was to be pruned, in their order, whether it was audited."""
    folder.mkdir()
    kept = {"pruner": AllButTheFirst(), "space": CONSTANTS, "trials": trials, "seed": seed}
    found = search_with(folder, SpoiltPool(learns_nothing), Rules(audit=share), **kept)
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


# Stalled.


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


# Killed.

SAME_ENDS = [*SAME, "reason", "evidence", "audit", "averaged"]
RULES = Rules(patience=2, audit=0.3)


def assert_ends_alike(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(found[SAME_ENDS], expected[SAME_ENDS])


def whole_search(folder: Path, slots: int) -> pd.DataFrame:
    """What an unbroken search finds: all ways to end, and audits."""
    folder.mkdir()
    search_with(folder, NoisyPool(slots), RULES)
    expected = found_in(folder)
    assert set(expected["state"]) == {"complete", "pruned", "stalled", "diverged"}
    assert expected["audit"].notna().any()
    return expected


DIES = """
import os, signal, sys
sys.path[:0] = {path!r}
from pathlib import Path
import idle, test_referee
from optuna.storages.journal import JournalFileBackend

left, store = {count}, JournalFileBackend.append_logs

def counted(*arguments, **named):
    global left
    left -= 1
    store(*arguments, **named)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

JournalFileBackend.append_logs = counted
kept = {{}}
if {checkpoints!r}:
    idle.checkpoint_every_segment()
    kept["checkpoint"] = Path({folder!r}) / idle.CHECKPOINT
test_referee.search_with(
    Path({folder!r}), test_referee.NoisyPool({slots}), test_referee.RULES, **kept
)
"""


@pytest.mark.parametrize(("slots", "checkpoints"), [(1, False), (3, True)])
def test_a_killed_search_ends_as_an_unbroken_one(
    tmp_path: Path, slots: int, checkpoints: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = whole_search(tmp_path / "whole", slots)
    broken = tmp_path / "broken"
    broken.mkdir()
    given = {"path": PATH, "folder": str(broken), "slots": slots}
    dies(DIES.format(count=160, checkpoints=checkpoints, **given), "SIGKILL")
    assert len(found_in(broken)) < TRIALS
    mend(broken / "journal.log", stale_seconds=0)
    kept = {"checkpoint": broken / CHECKPOINT} if checkpoints else {}
    search_with(broken, NoisyPool(slots), RULES, **kept)
    assert_ends_alike(found_in(broken), expected)


class Killed(BaseException):
    """Stands for SIGKILL, in this process."""


def killed_here(
    folder: Path, slots: int, count: int, monkeypatch: pytest.MonkeyPatch, **kept: object
) -> None:
    """Killed as it stores its n-th entry."""
    left, store = count, JournalFileBackend.append_logs

    def counted(*arguments: object, **named: object) -> None:
        nonlocal left
        left -= 1
        store(*arguments, **named)
        if left == 0:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(JournalFileBackend, "append_logs", counted)
        patched.setattr(Lineup, "close", lambda *_: None)
        with pytest.raises(Killed):
            search_with(folder, NoisyPool(slots), RULES, **kept)
    mend(folder / "journal.log", stale_seconds=0)


def goes_on_alike(folder: Path, slots: int, expected: pd.DataFrame, **kept: object) -> None:
    mend(folder / "journal.log", stale_seconds=0)
    assert len(found_in(folder)) < TRIALS
    search_with(folder, NoisyPool(slots), RULES, **kept)
    assert_ends_alike(found_in(folder), expected)


@pytest.mark.parametrize("slots", [1, 3])
def test_killed_between_two_entries(
    tmp_path: Path, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a report and what is decided on it, say."""
    expected = whole_search(tmp_path / "whole", slots)
    for count in ENTRIES:
        folder = tmp_path / str(count)
        folder.mkdir()
        killed_here(folder, slots, count, monkeypatch)
        goes_on_alike(folder, slots, expected)


class KilledPool(NoisyPool):
    """Killed in its n-th segment."""

    def __init__(self, slots: int, segments: int) -> None:
        super().__init__(slots)
        self.left = segments

    def advance(self) -> list[Progress]:
        self.left -= 1
        if self.left == 0:
            raise Killed
        return super().advance()


@pytest.mark.parametrize("checkpoints", [False, True], ids=["from scratch", "from a checkpoint"])
def test_killed_while_it_trains(
    tmp_path: Path, checkpoints: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = whole_search(tmp_path / "whole", slots=3)
    if checkpoints:
        monkeypatch.setattr(keeper, "due", lambda since, cost: True)
    for segments in SEGMENTS:
        folder = tmp_path / str(segments)
        folder.mkdir()
        kept = {"checkpoint": folder / CHECKPOINT} if checkpoints else {}
        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(Lineup, "close", lambda *_: None)
            search_with(folder, KilledPool(3, segments), RULES, **kept)
        goes_on_alike(folder, 3, expected, **kept)
