"""What is believed of schedules, from what was observed."""

from dataclasses import replace

import numpy as np
import pytest
from hand_made import EMPTY, GUESS, NOTHING, posterior, schedules, table, valley, whole
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import approx_fprime

from lrtune.model.surrogate import (
    GROWTH,
    Observations,
    PeakGuess,
    Settings,
    Surrogate,
    _evidence,
    fitted_at,
    matern,
    unwarp,
    warp,
)
from lrtune.model.transfer import Transfer, published
from lrtune.schedule import Schedule

X = table(schedules(np.geomspace(0.01, 1, 8)))
Y = valley(X)
FAR = table([Schedule("cyclic", 100.0), Schedule("exponential", 1e-7)])
TRANSFERS = pytest.mark.parametrize("transfer", [published(), NOTHING], ids=["published", "none"])


@TRANSFERS
def test_it_goes_through_what_was_observed_and_is_less_sure_elsewhere(transfer: Transfer) -> None:
    found = posterior(whole(X, Y), transfer)
    mean, sd = found.mean_and_sd(X)
    assert np.sqrt(np.mean((found.values(mean) - Y) ** 2)) < 0.15 * Y.std()
    assert np.corrcoef(found.values(mean), Y)[0, 1] > 0.97
    assert found.mean_and_sd(FAR)[1].mean() > 1.5 * sd.mean()


def test_a_forecast_moves_it_less_than_a_whole_training_does() -> None:
    low = float(Y.min()) - 1
    asked = table([Schedule("cyclic", 0.5)])
    x, y = np.vstack([X, asked]), np.append(Y, low)
    means = []
    without = posterior(whole(X, Y))
    for variance in (0.0, 0.3, 100.0):
        # All by the same settings: else it is they that are told another thing.
        known = Observations(x, y, np.append(np.zeros(len(Y)), variance))
        means.append(float(replace(without, known=known).mean_and_sd(asked)[0][0]))
    before = float(without.mean_and_sd(asked)[0][0])
    assert means[0] < means[1] < means[2]
    assert means[2] == pytest.approx(before, abs=0.1)


def test_other_tasks_are_trusted_less_after_data_that_contradicts_them() -> None:
    told = published().means(X, np.array([GUESS.log_peak]))[0]
    agrees = posterior(whole(X, told)).settings.trust
    differs = posterior(whole(X, -told)).settings.trust
    assert differs < agrees
    assert differs < published().usual[1]


@pytest.mark.parametrize("best", [0.02, 0.1, 0.5])
def test_the_good_peak_is_where_the_data_says(best: float) -> None:
    told = published().means(X, np.array([np.log(best)]))[0]
    found = posterior(whole(X, told))
    assert found.weights.sum() == pytest.approx(1)
    assert abs(found.weights @ found.shifts - np.log(best)) < 0.5
    doubt = np.sqrt(found.weights @ (found.shifts - found.weights @ found.shifts) ** 2)
    assert doubt < GUESS.doubt / 2


@TRANSFERS
@pytest.mark.parametrize(
    "known",
    [
        pytest.param(EMPTY, id="none"),
        pytest.param(whole(X[:1], Y[:1]), id="one"),
        pytest.param(whole(X[:2], Y[:2]), id="two"),
        pytest.param(whole(np.repeat(X[:1], 40, axis=0), np.zeros(40)), id="one schedule"),
        pytest.param(Observations(X, np.ones(len(X)), np.full(len(X), 0.25)), id="all lost"),
        pytest.param(Observations(X, Y, np.full(len(X), 1e12)), id="unsure"),
        pytest.param(whole(X, -700 + 1e-9 * Y), id="tiny"),
        pytest.param(whole(X, np.where(np.arange(len(X)) == 3, -708.0, Y)), id="a loss of zero"),
        pytest.param(whole(np.vstack([X, FAR]), np.append(Y, [80.0, 90.0])), id="outliers"),
    ],
)
def test_it_is_always_a_number(transfer: Transfer, known: Observations) -> None:
    """Without a warning of numpy's or scipy's too, which are errors in tests."""
    found = posterior(known, transfer)
    points = np.vstack([X, FAR])
    mean, sd = found.mean_and_sd(points)
    draws = found.draws(points, 5, np.random.default_rng(0))
    assert draws.shape == (5, len(points))
    for figures in (mean, sd, draws, found.values(mean), found.weights):
        assert np.isfinite(figures).all()
    assert (sd > 0).all() and found.noise > 0


def test_draws_are_as_likely_as_it_says() -> None:
    found = posterior(whole(X[::2], Y[::2]))
    points = np.vstack([X[1:6:2], FAR])
    draws = found.draws(points, 4000, np.random.default_rng(0))
    mean, sd = found.mean_and_sd(points)
    assert draws.mean(0) == pytest.approx(mean, abs=0.1 * sd.max())
    assert draws.std(0) == pytest.approx(sd, rel=0.25)
    assert (draws == found.draws(points, 4000, np.random.default_rng(0))).all()


def test_parameters_beside_the_schedule_are_further_dimensions() -> None:
    x = np.hstack([np.repeat(X[9:10], 12, axis=0), np.linspace(0, 1, 12)[:, None]])
    found = posterior(whole(x, 2 * np.abs(x[:, -1] - 0.3)))
    mean, _ = found.mean_and_sd(x)
    assert abs(x[mean.argmin(), -1] - 0.3) < 0.15


# Observations.


def test_a_subset_keeps_the_best_and_some_of_all_others_in_their_order() -> None:
    known = whole(X, np.arange(len(X), dtype=float)[::-1])
    few = known.subset(10)
    assert len(few) == 10
    assert set(range(5)) <= {int(value) for value in few.y}
    assert few.y.max() == len(X) - 1
    assert (np.diff(few.y) < 0).all()  # as they came
    assert known.subset(len(X)) is known
    assert (known.first(3).y == known.y[:3]).all()


# Settings are fitted now and then.


def test_settings_are_fitted_when_there_is_a_quarter_more() -> None:
    fitted = [n for n in range(200) if fitted_at(n) == n]
    assert fitted[:5] == [0, 1, 2, 3, 4] and len(fitted) < 25
    for n in range(1, 200):
        assert fitted_at(n) <= n < GROWTH * fitted_at(n) + 1
    surrogate, last = Surrogate(published(), GUESS), max(n for n in fitted if n < len(X))
    before, after = (surrogate.posterior(whole(X, Y).first(n)) for n in (last, last + 1))
    assert before.settings == after.settings  # in between they stay, and data counts
    assert not np.allclose(before.mean_and_sd(X)[0], after.mean_and_sd(X)[0])


def test_what_it_says_is_a_function_of_the_observations_alone() -> None:
    grown = Surrogate(published(), GUESS)
    for n in (0, 1, 2, 7, 9, 21):
        known = whole(X, Y).first(n)
        found, fresh = grown.posterior(known), posterior(known)
        assert found.settings == fresh.settings
        assert (found.mean_and_sd(X)[0] == fresh.mean_and_sd(X)[0]).all()


def test_settings_may_be_fitted_to_what_was_known_then() -> None:
    n = max(n for n in range(len(X)) if fitted_at(n) == n)
    then, now = whole(X, Y).first(n), whole(X, 3 * Y).first(n)
    expected = Surrogate(published(), GUESS).posterior(then).settings
    assert Surrogate(published(), GUESS).posterior(now, then).settings == expected
    assert Surrogate(published(), GUESS).posterior(now).settings != expected


# The pieces.


@given(st.floats(-3, 20), st.floats(-5, 5), st.floats(-3, 3))
def test_settings_turn_back_and_know_their_slope(y: float, level: float, log_scale: float) -> None:
    assert unwarp(warp(np.array(y))) == pytest.approx(y)
    own = Settings(level, log_scale, 1.0, 0.0, 0.0)
    assert own.y(own.z(np.array(y))) == pytest.approx(y, abs=1e-9)
    step = 1e-5
    rise = (own.z(np.array(y + step)) - own.z(np.array(y - step))) / (2 * step)
    assert own.slope(np.array(y)) == pytest.approx(rise, rel=1e-2)


def test_matern_is_one_at_a_point_and_falls() -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 4.0]])
    found = matern(points, points)
    assert np.diag(found) == pytest.approx(1)
    assert found == pytest.approx(found.T)
    assert 1 > found[0, 1] > found[0, 2] > 0


@pytest.mark.parametrize("doubt", [1e-6, 0.3, 1.0, 5.0])
def test_before_any_data_good_peaks_spread_as_far_as_the_doubt(doubt: float) -> None:
    guess = PeakGuess(-2.0, doubt)
    before = posterior(EMPTY, guess=guess)
    shifts, log_weights = guess.shifts
    weights = np.exp(log_weights)
    assert (before.shifts == shifts).all() and (before.weights == weights).all()
    assert weights.sum() == pytest.approx(1)
    assert weights @ shifts == pytest.approx(-2.0)
    assert 0.9 * doubt <= np.sqrt(weights @ (shifts + 2) ** 2) < 2 * doubt


@pytest.mark.parametrize(
    "theta",
    [
        # (below, log_scale, trust, log_own, log_noise)
        [0.3, -1.0, 1.0, -0.7, -1.2],
        [0.1, 0.5, 0.4, 0.0, -2.0],
        [0.5, -0.3, 0.8, 0.2, -0.5],
    ],
)
def test_the_slopes_by_which_settings_are_fitted_are_the_true_ones(theta: list[float]) -> None:
    rng = np.random.default_rng(0)
    x, n = rng.normal(size=(12, 3)), 12
    known = Observations(x, 2 * rng.normal(size=n), np.where(rng.random(n) < 0.5, 0, 0.1))
    rest = known.y.min(), known, rng.normal(size=(5, n)), matern(x, x), np.log(np.full(5, 0.2))
    _, slopes = _evidence(np.array(theta), *rest)
    told = approx_fprime(np.array(theta), lambda at: _evidence(at, *rest)[0], 1e-7)
    assert slopes == pytest.approx(told, rel=1e-4, abs=1e-4)
