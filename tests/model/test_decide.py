"""What is done next, from what is believed."""

import numpy as np
import pytest
from hand_made import EMPTY, posterior, schedules, table, valley, whole

from lrtune.model.decide import FIRST, JOINT, promising, propose, recommend, stop
from lrtune.model.forecast import Forecast
from lrtune.model.surrogate import Observations, Posterior

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


@pytest.mark.parametrize("known", [EMPTY, whole(X[:2], Y[:2])])
def test_what_is_under_way_is_not_proposed_once_more(known: Observations) -> None:
    found, under_way = posterior(known), X[:0]
    for _ in range(4):
        (row,) = propose(found, X, 1, rng(), under_way)
        assert not (X[row] == under_way).all(1).any()
        under_way = np.vstack([under_way, X[row]])


def test_the_order_of_what_is_under_way_does_not_matter() -> None:
    found, many = posterior(whole(X[:2], Y[:2])), table(schedules(np.geomspace(0.001, 10, 60)))
    orders = X[3:6], X[[5, 3, 4]]
    first, second = (propose(found, many, 3, rng(), under_way) for under_way in orders)
    assert first == second


def test_after_many_trainings_proposals_are_good_ones() -> None:
    many = table(schedules(np.geomspace(0.001, 10, 100)))
    chosen = propose(posterior(whole(X, Y)), many, 16, rng())
    assert len(set(chosen)) == 16
    assert np.median(valley(many)[chosen]) < np.quantile(valley(many), 0.1)


def test_only_the_promising_ones_are_looked_at_closely() -> None:
    many = table(schedules(np.geomspace(0.001, 10, JOINT)))
    found = posterior(whole(X, Y))
    rows = promising(found, many, rng())
    assert len(rows) == len(set(rows.tolist())) == JOINT < len(many)
    mean, _ = found.mean_and_sd(many)
    assert mean[rows].mean() < mean.mean()
    assert (promising(found, X, rng()) == np.arange(len(X))).all()


# Stop.


@pytest.mark.parametrize("epsilon", [0.01, 0.2, 0.9])
def test_epsilon_is_the_probability_below_which_it_stops(epsilon: float) -> None:
    for mean in np.linspace(-0.5, 0.5, 21):
        forecast = Forecast(float(mean), 0.1, 30)
        now, probability = stop(forecast, 0.0, 0.5, epsilon)
        assert now == (probability < epsilon)
        assert not stop(forecast, 0.0, FIRST / 2, epsilon)[0]  # too early to tell


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
    assert recommend(posterior(EMPTY), X[:1]) == 0  # of one, that one


def test_of_a_thousand_under_way_a_proposal_looks_at_the_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, under_way = posterior(whole(X, Y)), table(schedules(np.geomspace(0.001, 10, 1000)))
    drawn, draws = [], Posterior.draws

    def counted(own: Posterior, x: np.ndarray, *given: object) -> np.ndarray:
        drawn.append(x)
        return draws(own, x, *given)

    monkeypatch.setattr(Posterior, "draws", counted)
    propose(found, X, 1, rng(), under_way)
    looked, best = (found.mean_and_sd(x)[0] for x in (drawn[0][len(X) :], under_way))
    assert np.sort(looked) == pytest.approx(np.sort(best)[:JOINT])
