"""What is ahead of a schedule, the forecast that is learnt from it, and the scale that it is on."""

import math
from itertools import pairwise

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lrtune.search.forecast import FALL, REMAINDER, RISE, Forecast, Scale, features, forecast

from lrtune.schedule import FAMILIES, Schedule, register
from lrtune.search import SEARCHABLE, Space
from lrtune.search.pruner import rates_ahead
from lrtune.search.space import suggest_from

optuna.logging.set_verbosity(optuna.logging.WARNING)
TOTAL = 400
KNOBS = {"sequence", "custom"}  # what no search draws: given by hand


@register
def uneven(step: int, total: int) -> float:
    return 1 - 0.9 * (step % 7) / 7


def drawn(family: str, seed: int) -> Schedule:
    """Some schedule of a family."""
    if family == "sequence":
        parts = [Schedule("cosine", peak_lr=0.1), Schedule("wsd", peak_lr=0.1)]
        return Schedule(family, peak_lr=0.1, knobs={"schedules": parts, "milestones": [0.5]})
    if family == "custom":
        name = f"{uneven.__module__}:{uneven.__qualname__}"
        return Schedule(family, peak_lr=0.1, knobs={"function": name})
    sampler = optuna.samplers.RandomSampler(seed=seed)
    study = optuna.create_study(sampler=sampler)
    return suggest_from(Space((family,)), study.ask())


def ahead(schedule: Schedule, *updates: int) -> np.ndarray:
    return features(rates_ahead(schedule, TOTAL), updates)


@pytest.mark.parametrize("family", FAMILIES)
@given(seed=st.integers(0, 2**31), total=st.integers(20, 500))
def test_features_of_every_family_are_finite_and_within_bounds(
    family: str, seed: int, total: int
) -> None:
    rates = rates_ahead(drawn(family, seed), total)
    found = features(rates, range(1, total + 1))
    assert found.shape == (total, 3)
    assert np.isfinite(found).all()
    for column, (low, high) in zip(found.T, (REMAINDER, FALL, RISE), strict=True):
        assert (low <= column).all() and (column <= high).all()
    assert (np.diff(found[:, 0]) <= 1e-12).all()  # ever less is ahead
    assert found[-1] == pytest.approx([0, 0, 0])  # and nothing at the end


def test_every_family_that_is_searched_is_drawn_and_not_made_by_hand() -> None:
    assert set(FAMILIES) - set(SEARCHABLE) == KNOBS


@pytest.mark.parametrize(
    ("schedule", "update", "remainder", "fall", "rise"),
    [
        # (schedule, after update, log of all rates over those so far, log down, log up)
        (Schedule("constant", peak_lr=0.1), 100, math.log(4), 0, 0),
        # At the end of a decay there is no more to gain from it; before, all of it.
        (Schedule("linear", peak_lr=0.1), 1, REMAINDER[1] - 0.7, math.log(400), 0),
        (Schedule("exponential", peak_lr=0.1), 200, 0.095, math.log(10), 0),
        # A step of 0.3: drops after 120, 240 and 360 updates, ten-fold.
        (Schedule("step", peak_lr=0.1), 120, 0.1, math.log(1000), 0),
        (Schedule("step", peak_lr=0.1), 361, 0.0, 0, 0),
        # Cycles of 100 updates: the top, and the bottom half a cycle on.
        (Schedule("cyclic", peak_lr=0.1, knobs={"base_lr": 0.1}), 51, 1.9, math.log(10), 0),
        (Schedule("cyclic", peak_lr=0.1, knobs={"base_lr": 0.1}), 101, 1.4, 0, math.log(10)),
        # A warmup that starts low: all of the rise is ahead, and the fall is negative.
        (Schedule("constant", 0.1, 0.5, 0.1), 1, REMAINDER[1], -math.log(10), math.log(10)),
        # What a closed loop will do is not known: as if its rate were held.
        (Schedule("plateau", peak_lr=0.1), 100, math.log(4), 0, 0),
        (Schedule("greedy", peak_lr=0.1), 100, math.log(4), 0, 0),
    ],
)
def test_what_is_ahead(
    schedule: Schedule, update: int, remainder: float, fall: float, rise: float
) -> None:
    (found,) = ahead(schedule, update)
    # The last rate of a cycle is that of an update before its bottom.
    assert found == pytest.approx([remainder, fall, rise], abs=0.2)


def test_a_fall_that_is_still_to_come_is_the_same_before_and_while_it_is_flat() -> None:
    late = Schedule("wsd", peak_lr=0.1, knobs={"decay": 0.2})
    found = ahead(late, 80, 200, 320, 390, 400)
    assert found[0, 1] == found[1, 1] == found[2, 1] > found[3, 1] > found[4, 1] == 0


finite = st.floats(-1e3, 1e3)
values = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12)


@st.composite
def regressions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    n, width = draw(st.integers(3, 12)), draw(st.integers(1, 4))
    one = st.floats(-5, 5)
    gains = draw(st.lists(one, min_size=n, max_size=n))
    known = draw(st.lists(one, min_size=n * width, max_size=n * width))
    ahead = draw(st.lists(st.floats(-10, 10), min_size=width, max_size=width))
    return np.array(gains), np.reshape(known, (n, width)), draw(one), np.array(ahead)


@given(regressions())
def test_a_forecast_is_finite_and_a_distribution(given_: tuple) -> None:
    found = forecast(*given_)
    assert math.isfinite(found.mean) and found.spread > 0 and found.freedom >= 1
    bounds = found.mean + found.spread * np.array([-30, -2, -0.5, 0, 0.5, 2, 30])
    chances = [found.below(bound) for bound in bounds]
    assert all(0 <= chance <= 1 for chance in chances)
    assert all(a <= b for a, b in pairwise(chances))
    assert found.below(found.mean) == pytest.approx(0.5)
    assert found.quantile(0.05) < found.mean < found.quantile(0.95)


@given(regressions(), st.floats(-5, 5))
def test_a_feature_that_is_the_same_for_all_changes_nothing(given_: tuple, other: float) -> None:
    gains, known, signal, ahead = given_
    padded = np.column_stack([known, np.full(len(known), 2.5)])
    found = forecast(gains, padded, signal, np.append(ahead, other))
    expected = forecast(*given_)
    assert found.mean == pytest.approx(expected.mean, abs=1e-9)
    assert found.spread == pytest.approx(expected.spread, rel=1e-6, abs=1e-9)


@given(regressions(), st.randoms(use_true_random=False))
def test_the_order_of_the_trials_does_not_matter(given_: tuple, random) -> None:
    gains, known, signal, ahead = given_
    order = list(range(len(gains)))
    random.shuffle(order)
    found = forecast(gains[order], known[order], signal, ahead)
    expected = forecast(gains, known, signal, ahead)
    assert found.mean == pytest.approx(expected.mean, abs=1e-4)


@given(regressions(), finite)
def test_a_forecast_moves_with_the_signal(given_: tuple, shift: float) -> None:
    gains, known, signal, ahead = given_
    found = forecast(gains, known, signal + shift, ahead)
    assert found.mean == pytest.approx(forecast(*given_).mean + shift, abs=1e-9)


def test_what_decays_gain_is_learnt() -> None:
    """Trials gained as much as their rate fell: one whose rate will fall is forecast to gain."""
    rng = np.random.default_rng(0)
    fall = rng.uniform(0, 4, 20)
    known = np.column_stack([np.ones(20), fall, rng.normal(size=20)])
    gains = -0.5 * fall + 0.01 * rng.normal(size=20)
    falls = forecast(gains, known, 0.0, np.array([1.0, 3.5, 0.0]))
    stays = forecast(gains, known, 0.0, np.array([1.0, 0.2, 0.0]))
    assert falls.mean == pytest.approx(-1.75, abs=0.1)
    assert stays.mean == pytest.approx(-0.1, abs=0.1)
    assert falls.below(-1.0) > 0.99 and stays.below(-1.0) < 0.01


def test_no_gain_is_forecast_beyond_what_was_seen() -> None:
    fall = np.linspace(0, 1, 10)
    gains = -fall
    within = forecast(gains, fall[:, None], 0.0, np.array([1.0]))
    beyond = forecast(gains, fall[:, None], 0.0, np.array([7.0]))
    assert beyond.mean == pytest.approx(within.mean)


def test_more_noise_is_less_certain() -> None:
    rng = np.random.default_rng(1)
    known, noise = rng.normal(size=(12, 3)), rng.normal(size=12)
    calm = forecast(0.01 * noise, known, 0.0, known[0])
    rough = forecast(noise, known, 0.0, known[0])
    assert rough.spread > 10 * calm.spread


def test_trials_that_are_all_alike_are_no_error() -> None:
    found = forecast(np.full(5, -0.3), np.ones((5, 3)), 1.0, np.ones(3))
    assert found.mean == pytest.approx(0.7)
    assert found.below(0.69) < 1e-6 and found.below(0.71) > 1 - 1e-6


def test_a_forecast_is_a_t_distribution() -> None:
    cauchy = Forecast(mean=2.0, spread=0.5, freedom=1)
    assert cauchy.below(2.5) == pytest.approx(0.75)
    assert cauchy.quantile(0.25) == pytest.approx(1.5)


@given(values, st.booleans(), st.data())
def test_a_scale_is_monotone_and_turns_back(seen: list[float], minimize: bool, data) -> None:
    scale = Scale.of(np.array(seen), minimize)
    ordered = np.unique([*seen, *data.draw(values)])  # others than it was fitted to as well
    places = scale.to(ordered if minimize else ordered[::-1])
    assert np.isfinite(places).all()
    assert (np.diff(places) >= 0).all()  # the better, the lower
    for value in seen:
        room = 1e-9 * (1 + max(abs(entry) for entry in seen))
        assert scale.back(float(scale.to(value))) == pytest.approx(value, rel=1e-9, abs=room)


@given(values, st.booleans())
def test_a_scale_tells_what_it_was_fitted_to_apart(seen: list[float], minimize: bool) -> None:
    scale = Scale.of(np.array(seen), minimize)
    best, worst = (min(seen), max(seen)) if minimize else (max(seen), min(seen))
    if abs(worst - best) > 1e-3 * abs(worst):
        assert scale.to(best) < scale.to(worst)


def test_losses_and_the_scores_that_mirror_them_are_on_one_scale() -> None:
    losses = np.array([0.9, 0.4, 0.31, 0.02])
    found = Scale.of(1 - losses, minimize=False).to(1 - losses)
    assert found == pytest.approx(Scale.of(losses, minimize=True).to(losses))
    assert found == pytest.approx(np.log(losses))  # where a gain is a ratio


def test_a_mirrored_scale_is_the_same_for_any_values() -> None:
    values = np.array([-3.0, -1.5, 0.0, 2.0, 7.5])
    found = Scale.of(-values, minimize=False).to(-values)
    assert found == pytest.approx(Scale.of(values, minimize=True).to(values))


@pytest.mark.parametrize("seen", [[], [0.0], [0.0, 0.0], [-2.0], [1.0, 1.0], [0.0, 1e-300]])
@pytest.mark.parametrize("minimize", [True, False])
def test_a_scale_of_little_is_finite(seen: list[float], minimize: bool) -> None:
    scale = Scale.of(np.array(seen), minimize)
    for value in [*seen, 0.5]:
        assert np.isfinite(scale.to(value))


def test_better_than_all_that_a_scale_was_fitted_to_is_the_best_place() -> None:
    scale = Scale.of(np.array([-1.0, 0.0, 3.0]), minimize=True)
    assert scale.to(-50.0) == scale.to(-1.0) < scale.to(0.0)
