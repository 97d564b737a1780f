"""Values of any metric on one axis."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrtune.model.features import Scale

values = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12)


@given(values, st.booleans(), st.data())
def test_it_is_monotone_and_turns_back(seen: list[float], minimize: bool, data) -> None:
    scale = Scale.of(np.array(seen), minimize)
    ordered = np.unique([*seen, *data.draw(values)])  # others than it was fitted to as well
    places = scale.to(ordered if minimize else ordered[::-1])
    assert np.isfinite(places).all()
    assert (np.diff(places) >= 0).all()  # the better, the lower
    for value in seen:
        room = 1e-9 * (1 + max(abs(entry) for entry in seen))
        assert scale.back(float(scale.to(value))) == pytest.approx(value, rel=1e-9, abs=room)


@given(values, st.booleans())
def test_it_tells_what_it_was_fitted_to_apart(seen: list[float], minimize: bool) -> None:
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
    seen = np.array([-3.0, -1.5, 0.0, 2.0, 7.5])
    found = Scale.of(-seen, minimize=False).to(-seen)
    assert found == pytest.approx(Scale.of(seen, minimize=True).to(seen))


@pytest.mark.parametrize(
    "seen", [[], [0.0], [0.0, 0.0], [-2.0], [1.0, 1.0], [0.0, 1e-300], [1e-9, 1e300], [-1e9, 1e9]]
)
@pytest.mark.parametrize("minimize", [True, False])
def test_of_little_or_much_it_is_finite(seen: list[float], minimize: bool) -> None:
    scale = Scale.of(np.array(seen), minimize)
    for value in [*seen, 0.5]:
        assert np.isfinite(scale.to(value))


def test_better_than_all_that_it_was_fitted_to_is_the_best_place() -> None:
    scale = Scale.of(np.array([-1.0, 0.0, 3.0]), minimize=True)
    assert scale.to(-50.0) == scale.to(-1.0) < scale.to(0.0)


@pytest.mark.parametrize(("minimize", "expected"), [(True, np.inf), (False, -np.inf)])
def test_a_place_beyond_all_numbers_is_an_infinite_value(minimize: bool, expected: float) -> None:
    assert Scale.of(np.array([0.5, 0.6]), minimize).back(1e4) == expected
