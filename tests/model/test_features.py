"""What the model sees: numbers of a schedule's curve, and values of any metric on one Scale."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrtune.model.features import LOWEST, NAMES, Scale, features, features_of
from lrtune.model.transfer import published
from lrtune.schedule import FAMILIES, Schedule

SEARCHED = [
    name for name, family in FAMILIES.items() if family.searchable and not family.schedule_free
]
OPEN = [name for name in SEARCHED if not FAMILIES[name].closed_loop]


def curve_features(rates: Sequence[float]) -> np.ndarray:
    """Of one open curve."""
    return features_of(np.array([rates]), np.array([False]))[0]


SAME = [
    (Schedule("polynomial", 0.1, knobs={"power": 1.0}), Schedule("linear", 0.1)),
    (Schedule("polynomial", 3.0, 0.2, knobs={"power": 1.0}), Schedule("linear", 3.0, 0.2)),
    (Schedule("constant", 0.1), Schedule("cosine", 0.1, knobs={"eta_min": 1.0})),
    (
        Schedule("step", 0.1, knobs={"step_size": 0.6, "gamma": 0.2}),
        Schedule("multistep", 0.1, knobs={"milestones": (0.6,), "gamma": 0.2}),
    ),
]


@pytest.mark.parametrize(("one", "other"), SAME, ids=lambda schedule: schedule.family)
def test_the_curve_counts_and_not_the_family(one: Schedule, other: Schedule) -> None:
    assert features(one) == pytest.approx(features(other), abs=1e-6)


@pytest.mark.parametrize("family", SEARCHED)
def test_features_of_every_family(family: str) -> None:
    for peak in (1e-12, 0.3, 1e6):
        values = features(Schedule(family, peak))
        assert values.shape == (len(NAMES),) and np.isfinite(values).all()
        assert values[0] == pytest.approx(math.log(peak), abs=0.02)
        assert (values[1:-1] >= LOWEST).all() and (values[1:-1] <= 1e-9).all()
        assert values[-1] == (family not in OPEN)
        if family not in OPEN:
            assert values[1:-1] == pytest.approx(0)  # the rate is taken as held
    with pytest.raises(ValueError, match="read-only"):
        values[:] = 0  # what is cached


def test_a_mean_of_weights_is_like_a_linear_decay_and_marked() -> None:
    free, linear = (features(Schedule(family, 0.1)) for family in ("schedule_free", "linear"))
    assert free[:-1] == pytest.approx(linear[:-1], abs=0.1)
    assert free[-1] == -1
    far = published().means(np.array([free, [*free[:-1], 0.0]]), np.zeros(1))
    assert far[0, 0] == far[0, 1]


@pytest.mark.parametrize("family", OPEN)
@pytest.mark.parametrize("total", [400, 3001])
def test_features_do_not_depend_on_the_horizon(family: str, total: int) -> None:
    schedule = Schedule(family, 0.1, warmup=0.1 if FAMILIES[family].takes_warmup else 0.0)
    # Not the last 2 %: what a curve that falls to zero ends with is a matter of its updates.
    # Where a rate drops by ten-fold, an update more or less before the drop is seen.
    expected, values = features(schedule), curve_features(schedule.rates(total))
    assert np.delete(values, 2) == pytest.approx(np.delete(expected, 2), abs=0.35)


@given(st.lists(st.floats(1e-30, 1e30), min_size=1, max_size=300), st.floats(1e-6, 1e6))
def test_only_the_peak_moves_with_the_scale_of_the_rates(rates: list[float], by: float) -> None:
    values, scaled = curve_features(rates), curve_features(by * np.array(rates))
    assert np.isfinite(values).all()
    assert scaled[0] == pytest.approx(values[0] + math.log(by))
    assert scaled[1:] == pytest.approx(values[1:], abs=1e-9)


def test_features_by_hand() -> None:
    values = dict(zip(NAMES, features(Schedule("linear", 0.1)), strict=True))
    assert values["log_mean"] == pytest.approx(math.log(0.5), abs=0.02)
    assert values["log_mean_1"] == pytest.approx(math.log(15 / 16), abs=0.02)
    assert values["log_mean_8"] == pytest.approx(math.log(1 / 16), abs=0.1)
    assert values["log_last"] < -4


many = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12)


@given(many, st.booleans(), st.data())
def test_a_scale_is_monotone_and_turns_back(seen: list[float], minimize: bool, data) -> None:
    scale = Scale.of(np.array(seen), minimize)
    ordered = np.unique([*seen, *data.draw(many)])  # others than it was fitted to as well
    places = scale.to(ordered if minimize else ordered[::-1])
    assert np.isfinite(places).all() and (np.diff(places) >= 0).all()  # the better, the lower
    room = 1e-9 * (1 + max(abs(entry) for entry in seen))
    for value in seen:
        assert scale.back(float(scale.to(value))) == pytest.approx(value, rel=1e-9, abs=room)
    best, worst = (min(seen), max(seen)) if minimize else (max(seen), min(seen))
    if abs(worst - best) > 1e-3 * abs(worst):
        assert scale.to(best) < scale.to(worst)


@pytest.mark.parametrize(
    ("losses", "top"), [([0.9, 0.4, 0.31, 0.02], 1.0), ([-3.0, -1.5, 0.0, 2.0, 7.5], 0.0)]
)
def test_scores_that_mirror_losses_are_on_one_scale(losses: list[float], top: float) -> None:
    seen = np.array(losses)
    places = Scale.of(top - seen, minimize=False).to(top - seen)
    assert places == pytest.approx(Scale.of(seen, minimize=True).to(seen))
    if top:
        assert places == pytest.approx(np.log(seen))  # where a gain is a ratio


@pytest.mark.parametrize(
    "seen", [[], [0.0], [0.0, 0.0], [-2.0], [1.0, 1.0], [0.0, 1e-300], [1e-9, 1e300], [-1e9, 1e9]]
)
@pytest.mark.parametrize("minimize", [True, False])
def test_a_scale_of_little_or_much_is_finite(seen: list[float], minimize: bool) -> None:
    scale = Scale.of(np.array(seen), minimize)
    assert all(np.isfinite(scale.to(value)) for value in [*seen, 0.5])


def test_the_ends_of_a_scale() -> None:
    scale = Scale.of(np.array([-1.0, 0.0, 3.0]), minimize=True)
    assert scale.to(-50.0) == scale.to(-1.0) < scale.to(0.0)  # better than all that was seen
    for minimize, beyond in ((True, np.inf), (False, -np.inf)):
        assert Scale.of(np.array([0.5, 0.6]), minimize).back(1e4) == beyond
