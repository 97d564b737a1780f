"""SchedulePruner in anyone's study: what it ends, what it lets go on, what it refuses."""

import math

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

import lrtune
from lrtune import InputError, SchedulePruner
from lrtune.model.decide import EPSILON, FIRST
from lrtune.search.space import SCHEDULE

TOTAL, EVERY = 300, 15
FLAT = lrtune.Schedule("constant", peak_lr=0.1)
DECAYS = lrtune.Schedule("wsd", peak_lr=0.1, knobs={"decay": 0.3})


def study_with(pruner: SchedulePruner, direction: str = "minimize") -> optuna.Study:
    return optuna.create_study(pruner=pruner, direction=direction)


def curve_of(schedule: lrtune.Schedule, end: float) -> np.ndarray:
    """Losses that fall with the updates, and by half where the rate falls."""
    rates = schedule.rates(TOTAL)[EVERY - 1 :: EVERY]
    steps = np.arange(EVERY, TOTAL + 1, EVERY)
    return end * (1 + 3 * np.exp(-steps / 60)) * (0.5 + 0.5 * rates / rates.max())


def train(
    study: optuna.Study, schedule: lrtune.Schedule, end: float, sign: float = 1.0
) -> tuple[TrialState, int]:
    """One trial: how it ended, and after how many updates."""
    trial = study.ask()
    trial.set_user_attr(SCHEDULE, schedule.to_json())
    for step, loss in zip(range(EVERY, TOTAL + 1, EVERY), curve_of(schedule, end), strict=True):
        lrtune.report(trial, sign * loss, step, averaged=sign * loss)
        if step < TOTAL and trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return TrialState.PRUNED, step
    study.tell(trial, sign * loss)
    return TrialState.COMPLETE, TOTAL


@pytest.mark.parametrize(("direction", "sign"), [("minimize", 1.0), ("maximize", -1.0)])
def test_what_cannot_win_ends_and_what_may_goes_on(direction: str, sign: float) -> None:
    study = study_with(SchedulePruner(TOTAL), direction)
    for end in (1.0, 1.1, 0.9, 1.05, 0.95):
        train(study, FLAT, end, sign)
    assert train(study, FLAT, 3.0, sign)[0] == TrialState.PRUNED
    assert train(study, FLAT, 0.7, sign) == (TrialState.COMPLETE, TOTAL)


def test_a_rate_that_will_come_down_is_waited_for() -> None:
    study = study_with(SchedulePruner(TOTAL))
    for end in (1.0, 1.1, 0.9):
        train(study, FLAT, end)
        train(study, DECAYS, end)
    # It looks worse than the best of all until its rate falls, and ends as the best.
    assert curve_of(DECAYS, 0.85)[12] > curve_of(DECAYS, 0.9)[-1]
    assert train(study, DECAYS, 0.85) == (TrialState.COMPLETE, TOTAL)


def test_none_ends_before_another_came_to_its_end_nor_at_once() -> None:
    pruner = SchedulePruner(TOTAL)
    study = study_with(pruner)
    assert train(study, FLAT, 5.0)[0] == TrialState.COMPLETE
    for end in (0.5, 0.51, 0.49, 0.5):
        train(study, FLAT, end)
    state, step = train(study, FLAT, 5.0)
    assert state == TrialState.PRUNED and step >= FIRST * TOTAL
    decision = pruner.decisions[study.trials[-1].number]
    assert decision.probability < decision.threshold == EPSILON
    assert decision.low < decision.final < decision.high
    assert decision.best == pytest.approx(0.49 * 0.5 * 2, rel=0.1)
    assert decision.trials == 5


def test_what_was_read_when_does_not_matter() -> None:
    """A pruner that sees a study for the first time decides as one that saw it grow."""
    old = SchedulePruner(TOTAL)
    study = study_with(old)
    for end in (1.0, 1.2, 0.9, 1.5, 1.1, 2.0):
        train(study, FLAT if end < 1.2 else DECAYS, end)
    for trial in study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)):
        again = SchedulePruner(TOTAL).decide(study, trial)
        once = old.decide(study, trial)
        assert again.prune == once.prune and again.final == pytest.approx(once.final)


def test_a_value_that_is_none_ends_a_trial() -> None:
    study = study_with(SchedulePruner(TOTAL))
    trial = study.ask()
    trial.set_user_attr(SCHEDULE, FLAT.to_json())
    lrtune.report(trial, math.nan, EVERY, averaged=math.nan)
    assert trial.should_prune()


def test_trials_without_a_schedule_are_let_alone() -> None:
    study = study_with(SchedulePruner(TOTAL))
    for end in (1.0, 1.1, 0.9, 1.0):
        train(study, FLAT, end)
    trial = study.ask()
    trial.report(99.0, 200)
    assert not trial.should_prune()


def test_without_averaged_weights_it_says_so_once() -> None:
    study = study_with(SchedulePruner(TOTAL))
    trial = study.ask()
    trial.set_user_attr(SCHEDULE, FLAT.to_json())
    trial.report(1.0, EVERY)
    with pytest.warns(UserWarning, match="averaged= to lrtune.report"):
        trial.should_prune()
    trial.report(1.0, 2 * EVERY)
    assert not trial.should_prune()  # pytest would make an error of another warning


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"total": 0}, "total=0: the updates of a full trial"),
        ({"total": 1.5}, "total=1.5"),
        ({"total": 100, "epsilon": 0.0}, "epsilon=0.0: a probability"),
        ({"total": 100, "epsilon": 1.0}, "epsilon=1.0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        SchedulePruner(**arguments)


def test_one_study_has_one_horizon() -> None:
    study = study_with(SchedulePruner(TOTAL))
    trial = study.ask()
    trial.set_user_attr(SCHEDULE, FLAT.to_json())
    lrtune.report(trial, 1.0, TOTAL + 1, averaged=1.0)
    with pytest.raises(InputError, match="step 301: expected an update, at most total=300"):
        trial.should_prune()
