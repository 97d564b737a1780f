"""What a schedule is to the model."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrtune.model.features import LOWEST, NAMES, features, features_of
from lrtune.schedule import FAMILIES, Schedule

SEARCHED = [name for name, family in FAMILIES.items() if family.searchable]
OPEN = [name for name in SEARCHED if not FAMILIES[name].closed_loop]
CLOSED = [name for name in SEARCHED if FAMILIES[name].closed_loop]


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
def test_what_counts_is_the_curve_and_not_the_family(one: Schedule, other: Schedule) -> None:
    assert features(one) == pytest.approx(features(other), abs=1e-6)


@pytest.mark.parametrize("family", SEARCHED)
def test_of_every_family_they_are_finite_and_begin_with_the_peak(family: str) -> None:
    for peak in (1e-12, 0.3, 1e6):
        found = features(Schedule(family, peak))
        assert found.shape == (len(NAMES),) and np.isfinite(found).all()
        assert found[0] == pytest.approx(math.log(peak), abs=0.02)
        assert (found[1:-1] >= LOWEST).all() and (found[1:-1] <= 1e-9).all()


@pytest.mark.parametrize("family", OPEN)
@pytest.mark.parametrize("total", [400, 3001])
def test_they_do_not_depend_on_the_horizon(family: str, total: int) -> None:
    schedule = Schedule(family, 0.1, warmup=0.1 if FAMILIES[family].takes_warmup else 0.0)
    # Not the last 2 %: what a curve that falls to zero ends with is a matter of its updates.
    # Where a rate drops by ten-fold, an update more or less before the drop is seen.
    expected, found = features(schedule), curve_features(schedule.rates(total))
    assert np.delete(found, 2) == pytest.approx(np.delete(expected, 2), abs=0.35)


@pytest.mark.parametrize("family", SEARCHED)
def test_closed_loops_are_marked(family: str) -> None:
    found = features(Schedule(family, 0.1))
    assert found[-1] == (family in CLOSED)
    if family in CLOSED:
        assert found[1:-1] == pytest.approx(0)  # the rate is taken as held


@given(st.lists(st.floats(1e-30, 1e30), min_size=1, max_size=300), st.floats(1e-6, 1e6))
def test_only_the_peak_moves_with_the_scale_of_the_rates(rates: list[float], by: float) -> None:
    found, scaled = curve_features(rates), curve_features(by * np.array(rates))
    assert np.isfinite(found).all()
    assert scaled[0] == pytest.approx(found[0] + math.log(by))
    assert scaled[1:] == pytest.approx(found[1:], abs=1e-9)


def test_what_is_given_out_may_be_changed() -> None:
    schedule = Schedule("cosine", 0.1)
    features(schedule)[:] = 0
    assert features(schedule)[0] == pytest.approx(math.log(0.1))


def test_values_by_hand() -> None:
    found = dict(zip(NAMES, features(Schedule("linear", 0.1)), strict=True))
    assert found["log_mean"] == pytest.approx(math.log(0.5), abs=0.02)
    assert found["log_mean_1"] == pytest.approx(math.log(15 / 16), abs=0.02)
    assert found["log_mean_8"] == pytest.approx(math.log(1 / 16), abs=0.1)
    assert found["log_last"] < -4
