import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrtune.schedule import Schedule
from lrtune.search.early_stopping import diverged, plateaued


@pytest.mark.parametrize(
    ("losses", "untrained", "expected"),
    [
        ([], 2.3, False),
        ([2.0, 1.0], 2.3, False),
        ([4.6, 4.6], 2.3, False),  # at the bound, not above it
        ([9.0], 2.3, False),  # one spike
        ([9.0, 1.0, 9.0], 2.3, False),  # two, but not running
        ([1.0, 9.0, 9.0], 2.3, True),
        ([1.0, math.nan], 2.3, True),
        ([math.inf], 2.3, True),
        ([-math.inf], 2.3, True),
        ([-1.0, -0.5], -2.0, False),  # a negative loss has no scale
        ([9.0, 9.0], 0.0, False),
        ([9.0, 9.0], math.nan, False),
    ],
)
def test_divergence(losses: list[float], untrained: float, expected: bool) -> None:
    assert (diverged(losses, untrained) is not None) == expected


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)), st.floats())
def test_finite_losses_never_break_divergence(losses: list[float], untrained: float) -> None:
    why = diverged(losses, untrained)
    if why is not None:
        assert min(losses[-2:]) > untrained > 0


TOTAL, EVERY, PATIENCE = 400, 20, 4
CYCLES = {"base_lr": 0.25, "step_size_up": 0.1}  # of 80 updates, from the bottom up
CONSTANT = Schedule("constant", peak_lr=0.1)
LATE = Schedule("wsd", peak_lr=0.1, knobs={"decay": 0.1})
CYCLIC = Schedule("cyclic", peak_lr=0.1, knobs=CYCLES)
RISING = Schedule("constant", peak_lr=0.1, warmup=0.9, warmup_start=0.1)
STEPS = Schedule("multistep", peak_lr=0.1, knobs={"gamma": 0.05, "milestones": (0.2, 0.4)})
COSINE = Schedule("cosine", peak_lr=0.1, knobs={"T_max": 1.0, "eta_min": 0.0})
LOOP = Schedule("plateau", peak_lr=0.1)

FLAT = [0.7] * 20
SLOW = [0.995**i for i in range(20)]  # 0.5 % better at each validation
SLOWER = [0.9999**i for i in range(20)]
NOISY = [0.7 + 0.01 * (i % 2) for i in range(20)]
WORSE = [0.7 + 0.01 * i for i in range(20)]


def plateaus(
    losses: list[float],
    schedule: Schedule,
    update: int,
    patience: int = PATIENCE,
    min_delta: float = 0.002,
    spent: bool = False,
) -> str | None:
    """Asked after this update, with a validation every EVERY."""
    if schedule.closed_loop:
        rates = schedule.controller(TOTAL).rates
        if spent:
            rates[update // 2 :] *= 1e-4  # the plateau has been seen, and the rate lowered
    else:
        rates = schedule.rates(TOTAL)
    return plateaued(
        np.log(losses[: update // EVERY]).tolist(),
        None if schedule.closed_loop else rates[update - 1 :],
        float(rates[update:].sum() / rates.sum()),
        patience=patience,
        min_delta=min_delta,
    )


@pytest.mark.parametrize(
    ("losses", "schedule", "update", "expected"),
    [
        (FLAT, CONSTANT, 200, True),  # flat, and the rate stays
        (FLAT, CONSTANT, 100, True),  # at the first validation at which it can be seen
        (FLAT, CONSTANT, 80, False),  # patience itself
        (NOISY, CONSTANT, 200, True),
        (WORSE, CONSTANT, 200, True),
        (FLAT, STEPS, 200, True),  # flat and low: the drops are over
        (FLAT, STEPS, 120, False),  # flat and high: the second drop is still to come
        (FLAT, LATE, 340, False),  # flat and high, a decay still to come: a late bloomer
        (FLAT, LATE, 360, False),
        (FLAT, COSINE, 200, False),
        (FLAT, COSINE, 380, True),  # less than 1 % of all rates left
        (FLAT, CYCLIC, 160, False),  # at its lowest
        (FLAT, CYCLIC, 120, False),  # at its top
        (FLAT, RISING, 100, False),  # the rate is still to rise
        (FLAT, RISING, 380, True),
        (SLOW, CONSTANT, 200, False),  # slow but steady
        (SLOW, CONSTANT, 400, False),
        (SLOWER, CONSTANT, 200, True),  # below what counts
        (FLAT, LOOP, 200, False),  # it waits for a plateau
        (FLAT, LOOP, 380, False),
    ],
)
def test_plateau(losses: list[float], schedule: Schedule, update: int, expected: bool) -> None:
    assert (plateaus(losses, schedule, update) is not None) == expected


def test_a_closed_loop_plateaus_when_its_rates_are_as_good_as_spent() -> None:
    assert plateaus(FLAT, LOOP, 200, spent=False) is None
    why = plateaus(FLAT, LOOP, 200, spent=True)
    assert why is not None and "of all rates left" in why
    assert plateaus(SLOW, LOOP, 200, spent=True) is None


@pytest.mark.parametrize(
    ("left", "expected"), [(0.0, True), (0.009, True), (0.011, False), (1.0, False)]
)
def test_what_is_as_good_as_spent(left: float, expected: bool) -> None:
    fall = np.geomspace(1.0, 1e-6, 10)
    for ahead in (fall, None):
        why = plateaued([0.0] * 9, ahead, left, patience=3, min_delta=0.01)
        assert (why is not None) == expected


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [
        ([1.0, 1.0], True),
        ([1.0, 0.51], True),
        ([1.0, 0.49], False),
        ([1.0, 0.4, 1.0], False),  # down and up again
        ([1.0, 1.4], True),
        ([1.0, 1.6], False),
        ([1.0, 1.4, 0.6], True),
        ([1.0], True),  # the last validation
    ],
)
def test_how_far_a_rate_may_change(ahead: list[float], expected: bool) -> None:
    why = plateaued([0.0] * 9, np.array(ahead), 0.5, patience=3, min_delta=0.01)
    assert (why is not None) == expected


@pytest.mark.parametrize(
    ("losses", "min_delta", "expected"),
    [
        ([1.0, 1.0, 0.95, 0.95, 0.95], 0.04, False),
        ([1.0, 1.0, 0.95, 0.95, 0.95], 0.06, True),
        ([1.0, 1.0, 0.95, 0.99, 0.99], 0.04, False),  # the best of the last three counts
        ([1.0, 0.95, 1.0, 1.0, 1.0], 0.04, True),  # the gain is longer ago
        ([1.0, 1.0, 0.9999, 0.9999, 0.9999], 0.0, False),  # any gain at all
        ([1.0, 1.0, 1.0, 1.0, 1.0], 0.0, True),
        ([1.0, 1.0, 1.01, 1.01, 1.01], 0.0, True),
    ],
)
def test_what_counts_as_an_improvement(
    losses: list[float], min_delta: float, expected: bool
) -> None:
    why = plateaued(np.log(losses).tolist(), np.ones(9), 0.5, patience=3, min_delta=min_delta)
    assert (why is not None) == expected


def test_why_it_plateaued_says_the_figures() -> None:
    why = plateaued([0.0] * 9, np.array([1.0, 0.8]), 0.5, patience=3, min_delta=0.01)
    assert why == "no better by 1.0% in 3 validations, and the rate stays within a factor 1.2"


@given(
    signal=st.lists(st.floats(-700, 700), max_size=20),
    ahead=st.none() | st.lists(st.floats(1e-12, 1e3), min_size=1).map(np.array),
    left=st.floats(0, 1),
    patience=st.integers(1, 20),
    min_delta=st.floats(0, 0.999),
)
def test_finite_curves_never_break_the_plateau(
    signal: list[float],
    ahead: np.ndarray | None,
    left: float,
    patience: int,
    min_delta: float,
) -> None:
    asked = {"patience": patience, "min_delta": min_delta}
    why = plateaued(signal, ahead, left, **asked)
    if why is not None:
        assert len(signal) > patience
        assert left < 0.01 or (ahead is not None and ahead.max() < 3 * ahead.min())
    # A curve that has just become far better goes on.
    assert plateaued([*signal, -1e4], ahead, left, **asked) is None
