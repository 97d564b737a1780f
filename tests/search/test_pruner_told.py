"""SchedulePruner: its threshold, what it says, what it is told and refuses."""

import json
import math
from dataclasses import asdict

import optuna
import pytest
from made import STEPS, TOTAL, Bench, bench, constant, cosine, wsd
from optuna.trial import TrialState

import lrtune
from lrtune import InputError, Schedule, SchedulePruner
from lrtune.search.pruner import EPSILON
from lrtune.search.space import SCHEDULE
from lrtune.search.store import AVERAGED

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.parametrize("skill", [0.5, 1.0, 1.1, 1.3, 8.0])
def test_epsilon(skill: float) -> None:
    made = bench(cosine, wsd, constant)
    number = made.run_up_to(200, cosine(0.1), skill)
    low, mid, high = (
        made.decide(number, SchedulePruner(TOTAL, epsilon=epsilon))
        for epsilon in (1e-12, 0.2, 1 - 1e-12)
    )
    assert low.probability == mid.probability == high.probability
    assert low.prune <= mid.prune <= high.prune
    for decision in (low, mid, high):
        assert decision.prune == (decision.probability < decision.threshold)


def test_epsilon_does_decide() -> None:
    made = bench(cosine, wsd, constant)
    number = made.run_up_to(200, cosine(0.1), 1.02)
    chance = made.decide(number).probability
    assert 0 < chance < 1
    assert not made.decide(number, SchedulePruner(TOTAL, epsilon=0.99 * chance)).prune
    assert made.decide(number, SchedulePruner(TOTAL, epsilon=chance + 0.01 * (1 - chance))).prune


def test_a_decision_says_what_it_rests_on() -> None:
    made = bench(cosine, wsd)
    decision = made.asked(200, cosine(), skill=3)
    assert decision.prune and decision.probability < decision.threshold < EPSILON
    assert decision.trials == 12
    finals = [trial.value for trial in made.study.get_trials(states=(TrialState.COMPLETE,))]
    assert decision.best == pytest.approx(min(finals))
    assert decision.best < decision.low < decision.final < decision.high
    assert set(decision.ahead) == {"remainder", "fall", "rise"}
    for figure in (decision.final, decision.low, decision.high, decision.best):
        assert f"{figure:.4g}" in decision.reason
    assert f"{decision.probability:.2g}" in decision.reason
    json.dumps(asdict(decision), allow_nan=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"total": 0}, "total=0"),
        ({"total": -400}, "total=-400"),
        ({"total": 400.0}, r"total=400\.0"),
        ({"total": True}, "total=True"),
        ({"total": "400"}, "total='400'"),
        ({"epsilon": 0}, "epsilon=0"),
        ({"epsilon": 1}, "epsilon=1"),
        ({"epsilon": math.nan}, "epsilon=nan"),
        ({"startup": 2}, "startup=2"),
        ({"startup": 5.0}, r"startup=5\.0"),
        ({"warmup": 1}, "warmup=1"),
        ({"warmup": -0.1}, r"warmup=-0\.1"),
        ({"warmup": math.nan}, "warmup=nan"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        SchedulePruner(**{"total": TOTAL, **arguments})


@pytest.mark.parametrize("step", [TOTAL + 1, 5000])
def test_a_step_outside_the_run_is_refused(step: int) -> None:
    made = Bench()
    number = made.add(cosine(), {step: 0.5}, TrialState.RUNNING)
    with pytest.raises(InputError, match=rf"step {step}: .*{TOTAL}"):
        made.decide(number)


def test_a_finished_trial_with_a_step_outside_the_run_is_refused() -> None:
    made = bench(cosine)
    made.add(cosine(), {200: 0.5, TOTAL + 100: 0.4})
    with pytest.raises(InputError, match=rf"{TOTAL + 100}.*{TOTAL}"):
        made.asked(200, cosine())


def test_the_untrained_value_of_a_finished_trial_does_no_harm() -> None:
    clean, made = bench(cosine), Bench()
    for trial in clean.study.trials:
        schedule = Schedule.from_json(trial.user_attrs[SCHEDULE])
        made.add(schedule, {0: 7.0, **trial.intermediate_values})
    assert made.asked(200, cosine()) == clean.asked(200, cosine())


def test_a_trial_without_a_schedule_is_never_pruned() -> None:
    made = bench(cosine, wsd)
    for step in STEPS:
        decision = made.decide(made.run_up_to(step, None, skill=1e6))
        assert not decision.prune and decision.reason == "no schedule"


def test_a_trial_that_has_reported_nothing_is_not_pruned() -> None:
    made = bench(cosine)
    trial = made.study.ask()
    lrtune.suggest(trial, families=["cosine"])
    assert not made.decide(trial.number).prune


@pytest.mark.parametrize(
    ("direction", "value", "averaged", "told"),
    [
        ("minimize", 0.5, 0.4, 0.4),
        ("minimize", 0.4, 0.5, 0.4),
        ("maximize", 0.5, 0.4, 0.5),
        ("maximize", 0.4, 0.5, 0.5),
        ("minimize", 0.5, math.nan, 0.5),
        ("maximize", 0.5, math.inf, 0.5),
        ("minimize", -0.5, 0.0, -0.5),
        ("minimize", 0.5, None, 0.5),
    ],
)
def test_optuna_is_told_the_better_of_the_two(
    direction: str, value: float, averaged: float | None, told: float
) -> None:
    study = optuna.create_study(direction=direction)
    trial = study.ask()
    lrtune.report(trial, value, 10, averaged=averaged)
    assert study.trials[0].intermediate_values == {10: told}
    assert (AVERAGED in study.trials[0].user_attrs) == (averaged is not None)


def test_weights_that_are_no_numbers_are_not_hidden_by_their_average() -> None:
    trial = optuna.create_study().ask()
    lrtune.report(trial, math.nan, 10, averaged=0.4)
    assert math.isnan(trial.study.trials[0].intermediate_values[10])
