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
PRUNED, COMPLETE = TrialState.PRUNED, TrialState.COMPLETE


def new_study(*ends: float, direction: str = "minimize") -> optuna.Study:
    """With whole trainings of FLAT that ended there."""
    study = optuna.create_study(pruner=SchedulePruner(TOTAL), direction=direction)
    for end in ends:
        train(study, FLAT, end)
    return study


def ask(study: optuna.Study, schedule: lrtune.Schedule = FLAT) -> optuna.Trial:
    trial = study.ask()
    trial.set_user_attr(SCHEDULE, schedule.to_json())
    return trial


def curve_of(schedule: lrtune.Schedule, end: float) -> np.ndarray:
    """Losses that fall with the updates, and by half where the rate falls."""
    rates = schedule.rates(TOTAL)[EVERY - 1 :: EVERY]
    steps = np.arange(EVERY, TOTAL + 1, EVERY)
    return end * (1 + 3 * np.exp(-steps / 60)) * (0.5 + 0.5 * rates / rates.max())


def train(study: optuna.Study, schedule: lrtune.Schedule, end: float) -> tuple[TrialState, int]:
    """One trial: how it ended, and after how many updates."""
    trial = ask(study, schedule)
    sign = 1 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1
    for step, loss in zip(range(EVERY, TOTAL + 1, EVERY), curve_of(schedule, end), strict=True):
        lrtune.report(trial, sign * loss, step, averaged=sign * loss)
        if step < TOTAL and trial.should_prune():
            study.tell(trial, state=PRUNED)
            return PRUNED, step
    study.tell(trial, sign * loss)
    return COMPLETE, TOTAL


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_what_cannot_win_ends_and_what_may_goes_on(direction: str) -> None:
    study = new_study(1.0, 1.1, 0.9, 1.05, 0.95, direction=direction)
    assert train(study, FLAT, 3.0)[0] == PRUNED
    assert train(study, FLAT, 0.7) == (COMPLETE, TOTAL)
    trial = study.ask()
    trial.report(99.0, 200)
    assert not trial.should_prune()  # it carries no schedule


def test_a_rate_that_will_come_down_is_waited_for() -> None:
    study = new_study()
    for end in (1.0, 1.1, 0.9):
        train(study, FLAT, end)
        train(study, DECAYS, end)
    # It looks worse than the best of all until its rate falls, and ends as the best.
    assert curve_of(DECAYS, 0.85)[12] > curve_of(DECAYS, 0.9)[-1]
    assert train(study, DECAYS, 0.85) == (COMPLETE, TOTAL)


def test_none_ends_before_another_came_to_its_end_nor_at_once() -> None:
    study = new_study()
    assert train(study, FLAT, 5.0)[0] == COMPLETE
    for end in (0.5, 0.51, 0.49, 0.5):
        train(study, FLAT, end)
    state, step = train(study, FLAT, 5.0)
    assert state == PRUNED and step >= FIRST * TOTAL
    decision = study.pruner.decisions[study.trials[-1].number]
    assert decision.probability < decision.threshold == EPSILON
    assert decision.low < decision.final < decision.high
    assert decision.best == pytest.approx(0.49 * 0.5 * 2, rel=0.1)
    assert decision.trials == 5


def test_what_was_read_when_does_not_matter() -> None:
    """A pruner that sees a study for the first time decides as one that saw it grow."""
    study = new_study()
    for end in (1.0, 1.2, 0.9, 1.5, 1.1, 2.0):
        train(study, FLAT if end < 1.2 else DECAYS, end)
    for trial in study.get_trials(states=(COMPLETE, PRUNED)):
        pruners = SchedulePruner(TOTAL), study.pruner
        fresh, grown = (pruner.decide(study, trial) for pruner in pruners)
        assert fresh.prune == grown.prune and fresh.final == pytest.approx(grown.final)


def test_a_value_that_is_none_ends_a_trial() -> None:
    trial = ask(new_study())
    lrtune.report(trial, math.nan, EVERY, averaged=math.nan)
    assert trial.should_prune()


def test_without_averaged_weights_it_says_so_once() -> None:
    trial = ask(new_study())
    trial.report(1.0, EVERY)
    with pytest.warns(UserWarning, match="averaged= to lrtune.report"):
        trial.should_prune()
    trial.report(1.0, 2 * EVERY)
    assert not trial.should_prune()  # pytest would make an error of another warning


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"total": 0}, "total=0: the updates of a full trial"),
        ({"total": 1.5}, "total=1.5"),
        ({"total": 100, "epsilon": 0.0}, "epsilon=0.0: a probability"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SchedulePruner(**arguments)


def test_one_study_has_one_horizon() -> None:
    trial = ask(new_study())
    lrtune.report(trial, 1.0, TOTAL + 1, averaged=1.0)
    with pytest.raises(InputError, match="step 301: expected an update, at most total=300"):
        trial.should_prune()
