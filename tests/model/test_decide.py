"""What is done next, from what is believed."""

import numpy as np
import pytest
from hand_made import EMPTY, posterior, schedules, table, valley, whole

from lrtune.model.decide import (
    EPSILON,
    FIRST,
    JOINT,
    promising,
    propose,
    recommend,
    stop,
)
from lrtune.model.forecast import Forecast
from lrtune.model.surrogate import Observations

FOUND = schedules(np.geomspace(0.01, 1, 8))
X = table(FOUND)
Y = valley(X)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("known", [EMPTY, whole(X[:6], Y[:6]), whole(X, Y)])
@pytest.mark.parametrize("count", [1, 4, 16])
def test_proposals_for_slots_side_by_side_are_distinct(known: Observations, count: int) -> None:
    chosen = propose(posterior(known), X, count, rng())
    assert len(chosen) == len(set(chosen)) == count
    assert set(chosen) <= set(range(len(X)))
    assert chosen == propose(posterior(known), X, count, rng())


def test_of_few_schedules_all_are_proposed() -> None:
    chosen = propose(posterior(EMPTY), X[:3], 5, rng())
    assert sorted(chosen) == [0, 1, 2]


def test_after_many_trainings_proposals_are_good_ones() -> None:
    many = table(schedules(np.geomspace(0.001, 10, 100)))
    chosen = propose(posterior(whole(X, Y)), many, 16, rng())
    assert len(set(chosen)) == 16
    assert np.median(valley(many)[chosen]) < np.quantile(valley(many), 0.1)


def test_only_the_promising_ones_are_looked_at_closely() -> None:
    many = table(schedules(np.geomspace(0.001, 10, JOINT)))
    found = posterior(whole(X, Y))
    rows = promising(found, many, JOINT, rng())
    assert len(rows) == len(set(rows.tolist())) == JOINT < len(many)
    mean, _ = found.mean_and_sd(many)
    assert mean[rows].mean() < mean.mean()
    assert (promising(found, X, JOINT, rng()) == np.arange(len(X))).all()


# Stop.

HOPELESS = Forecast(mean=1.0, spread=0.01, freedom=30)  # against an incumbent at 0
OPEN = Forecast(mean=0.0, spread=0.1, freedom=30)


@pytest.mark.parametrize(
    ("forecast", "progress", "whole_", "expected"),
    [
        (HOPELESS, 0.5, 5, True),
        (HOPELESS, 1.0, 1, True),
        (HOPELESS, FIRST / 2, 50, False),  # too early to tell
        (HOPELESS, 0.5, 0, False),  # nothing to compare with
        (OPEN, 0.99, 1000, False),
        (Forecast(mean=-1.0, spread=0.1, freedom=4), 0.5, 50, False),
    ],
)
def test_who_is_stopped(forecast: Forecast, progress: float, whole_: int, expected: bool) -> None:
    assert stop(forecast, 0.0, progress, whole_).now == expected


def test_it_says_what_it_rests_on() -> None:
    found = stop(OPEN, 0.0, 0.5, 10)
    assert found.probability == pytest.approx(0.5)
    assert 0 < found.threshold < EPSILON


def test_the_fewer_trainings_are_known_the_more_cautious() -> None:
    thresholds = [stop(OPEN, 0.0, 0.5, n, epsilon=0.2).threshold for n in (0, 1, 3, 10, 10**6)]
    assert thresholds == sorted(set(thresholds))
    assert thresholds[0] == 0 and thresholds[-1] == pytest.approx(0.2, rel=1e-3)


@pytest.mark.parametrize("epsilon", [0.01, 0.2, 0.9])
def test_epsilon_is_the_probability_that_is_asked_for(epsilon: float) -> None:
    for mean in np.linspace(-0.5, 0.5, 21):
        found = stop(Forecast(float(mean), 0.1, 30), 0.0, 0.5, 10**9, epsilon)
        assert found.now == (found.probability < found.threshold)
        assert found.threshold == pytest.approx(epsilon, rel=1e-6)


# Recommend.


def test_what_is_recommended_is_not_the_luckiest() -> None:
    """A schedule in bad company had one lucky training; others are good time after time."""
    lucky = X[:1]  # at the lowest peak
    good = int(Y.argmin())
    x = np.vstack([np.repeat(lucky, 4, axis=0), np.repeat(X[good : good + 1], 4, axis=0), X])
    noise = np.array([0.0, 0.05, -0.05, 0.02])
    value = float(Y[0])
    y = np.concatenate([[Y[good] - 0.1, *(value + noise[1:])], Y[good] + noise, Y])
    found = posterior(whole(x, y))
    assert int(y.argmin()) == 0
    chosen = recommend(found, x)
    assert abs(x[chosen, 0] - X[good, 0]) < 1.5 and chosen != 0
    assert not np.array_equal(x[chosen], x[0])


def test_of_one_that_one_is_recommended() -> None:
    assert recommend(posterior(EMPTY), X[:1]) == 0
