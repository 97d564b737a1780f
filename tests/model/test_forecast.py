"""What is ahead of a schedule, the forecast that is learnt from it, and shorter trainings."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hand_made import NOTHING
from hypothesis import given
from hypothesis import strategies as st

from lrtune.model.features import PEAK, features
from lrtune.model.forecast import (
    ABOVE,
    AHEAD,
    BEHIND,
    FALL,
    LEAST_OVERFIT,
    OVERFIT,
    REMAINDER,
    RISE,
    SLOPE,
    Forecast,
    Yardstick,
    ahead,
    design,
    learn_gain,
    shorter_training,
    shown,
)
from lrtune.model.transfer import Transfer, published
from lrtune.schedule import FAMILIES, Schedule

TOTAL = 400
WIDTH = len(AHEAD)
FALLEN = AHEAD.index("fallen")
NONE = np.empty((0, WIDTH)), np.empty(0), np.empty(0)


def rates_of(schedule: Schedule, total: int = TOTAL) -> np.ndarray:
    return schedule.controller(total).rates if schedule.closed_loop else schedule.rates(total)


@pytest.mark.parametrize("family", [name for name, row in FAMILIES.items() if row.searchable])
@pytest.mark.parametrize("total", [20, 400])
def test_what_is_ahead_of_every_family_is_finite_and_within_bounds(family: str, total: int) -> None:
    schedule = Schedule(family, 0.1, warmup=0.1 if FAMILIES[family].takes_warmup else 0.0)
    found = ahead(rates_of(schedule, total), range(1, total + 1))
    assert found.shape == (total, 3) and np.isfinite(found).all()
    for column, (low, high) in zip(found.T, (REMAINDER, FALL, RISE), strict=True):
        assert (low <= column).all() and (column <= high).all()
    assert (np.diff(found[:, 0]) <= 1e-12).all()  # ever less is ahead
    assert found[-1] == pytest.approx([0, 0, 0])  # and nothing at the end


@pytest.mark.parametrize(
    ("schedule", "update", "remainder", "fall", "rise"),
    [
        # (schedule, after update, log of all rates over those so far, log down, log up)
        (Schedule("constant", peak_lr=0.1), 100, math.log(4), 0, 0),
        # At the end of a decay there is no more to gain from it; before, all of it.
        (Schedule("linear", peak_lr=0.1), 1, REMAINDER[1] - 0.7, math.log(400), 0),
        # A step of 0.3: drops after 120, 240 and 360 updates, ten-fold.
        (Schedule("step", peak_lr=0.1), 120, 0.1, math.log(1000), 0),
        # Cycles of 100 updates: the top, and the bottom half a cycle on.
        (Schedule("cyclic", peak_lr=0.1, knobs={"base_lr": 0.1}), 51, 1.9, math.log(10), 0),
        (Schedule("cyclic", peak_lr=0.1, knobs={"base_lr": 0.1}), 101, 1.4, 0, math.log(10)),
        # A warmup that starts low: all of the rise is ahead, and the fall is negative.
        (Schedule("constant", 0.1, 0.5, 0.1), 1, REMAINDER[1], -math.log(10), math.log(10)),
        # What a closed loop will do is not known: as if its rate were held.
        (Schedule("plateau", peak_lr=0.1), 100, math.log(4), 0, 0),
    ],
)
def test_what_is_ahead(schedule, update, remainder, fall, rise):
    (found,) = ahead(rates_of(schedule), [update])
    # The last rate of a cycle is that of an update before its bottom.
    assert found == pytest.approx([remainder, fall, rise], abs=0.2)


def test_a_fall_that_is_still_to_come_is_the_same_before_and_while_it_is_flat() -> None:
    late = Schedule("wsd", peak_lr=0.1, knobs={"decay": 0.2})
    found = ahead(late.rates(TOTAL), [80, 200, 320, 390, 400])
    assert found[0, 1] == found[1, 1] == found[2, 1] > found[3, 1] > found[4, 1] == 0


STEPS = [20, 40, 80, 160]


@pytest.mark.parametrize(
    ("signal", "slope", "above", "fallen"),
    [
        ([1.0, 0.7, 0.4, 0.1], [0, -0.3, -0.3, -0.3], [0, 0, 0, 0], [0, 0.3, 0.6, 0.9]),
        ([1.0, 0.5, 0.9, 0.6], [0, -0.5, 0.4, -0.3], [0, 0, 0.4, 0.1], [0, 0.5, 0.1, 0.4]),
        ([1.0, 2.0, 3.0, 1.0], [0, 1, 1, -2], [0, 1, 2, 0], [0, -1, -2, 0]),
    ],
)
def test_what_a_curve_shows(signal: list, slope: list, above: list, fallen: list) -> None:
    found = shown(STEPS, np.array(signal))
    for column, expected in zip(found.T, (slope, above, fallen), strict=True):
        assert column == pytest.approx(expected)
    rates = Schedule("cosine", 0.1).rates(TOTAL)  # a forecast goes by both
    both = design(rates, STEPS, np.array(signal))
    assert both.shape == (4, WIDTH) and (both[:, 0] == 1).all()
    assert (both[:, 1:4] == ahead(rates, STEPS)).all() and (both[:, 4:] == found).all()


# What is learnt.

TRANSFERS = pytest.mark.parametrize("transfer", [published(), NOTHING], ids=["published", "none"])


def some_known(n, seed=0, noise=0.02):
    """Whole trainings that fell by 1 in all, and gained a tenth of what their rate fell by."""
    rng = np.random.default_rng(seed)
    fall = rng.uniform(0, 4, n)
    gains = -0.1 * fall + noise * rng.normal(size=n)
    known = np.zeros((n, WIDTH))
    known[:, 0], known[:, 1], known[:, 2] = 1, rng.uniform(0, 1, n), fall
    known[:, FALLEN] = 1 + gains  # what is still to come is no part of it
    return known, np.zeros(n), gains


def looking(fall: float) -> np.ndarray:
    found = np.zeros(WIDTH)
    found[[0, 1, 2, FALLEN]] = 1, 0.5, fall, 0.8
    return found


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("progress", [0.0, 0.13, 0.5, 0.99, 1.0])
@TRANSFERS
def test_without_a_known_trial_it_is_what_other_tasks_teach(transfer, progress, averaged):
    found = learn_gain(transfer, averaged, progress, *NONE)
    place = int(np.abs(transfer.progress - progress).argmin())
    assert (found.mean == transfer.gain[int(averaged), place]).all()
    told = found.forecast(0.3, looking(1.0))
    row = [1, 0.5, 1, 0, 0, 0, 0]  # in units of its own fall
    assert told.mean == pytest.approx(0.3 + 0.8 * np.dot(row, found.mean))
    assert told.spread > 0 and np.isfinite([told.spread, told.variance]).all()


@TRANSFERS
def test_with_many_known_trials_these_decide(transfer: Transfer) -> None:
    gain = learn_gain(transfer, False, 0.5, *some_known(200))
    falls, stays = gain.forecast(0.0, looking(3.5)), gain.forecast(0.0, looking(0.2))
    assert falls.mean == pytest.approx(-0.35, abs=0.02)
    assert stays.mean == pytest.approx(-0.02, abs=0.02)
    assert falls.below(-0.2) > 0.99 and stays.below(-0.2) < 0.01


# (level, unit) of the whole trainings, and what a trial at 0.5 shows in these.
@pytest.mark.parametrize(
    ("finals", "level", "unit", "behind"),
    [
        ([-1.0], 0.0, 1.5, 0.5 / 1.5),
        ([-1.0, -2.0, -3.0], 0.0, 2.5, 0.5 / 2.5),
        ([0.0, 0.0], 0.0, 0.5, 1.0),
        ([3.0], 0.0, 0.5, 1.0),  # it rises in the end: what counts is what it had fallen
    ],
)
def test_gains_are_in_units_of_what_the_task_falls_by(finals, level, unit, behind):
    known = np.zeros((len(finals), WIDTH))
    known[:, FALLEN] = 0.5
    found = Yardstick.of(known, np.zeros(len(finals)), np.array(finals))
    assert (found.level, found.unit) == (level, pytest.approx(unit))
    (row,) = found.measure(looking(1.0)[None], np.array([0.5]))
    assert row == pytest.approx([1, 0.5, 1, 0, 0, 0, behind])


def test_what_is_far_off_is_bounded() -> None:
    own = np.array([[1, 0, 0, 0, -9.0, 9.0, 0.0], [1, 0, 0, 0, 9.0, 0.0, 0.0]])
    found = Yardstick(0.0, 1.0).measure(own, np.array([-9.0, 9.0]))
    assert found[0, 4:].tolist() == [SLOPE[0], ABOVE[1], BEHIND[0]]
    assert found[1, 4:].tolist() == [SLOPE[1], ABOVE[0], BEHIND[1]]


def test_noise_and_what_was_never_seen_are_doubted() -> None:
    calm, rough = (
        learn_gain(NOTHING, False, 0.5, *some_known(40, noise=noise)) for noise in (0.01, 1.0)
    )
    spread = calm.forecast(0.0, looking(1.0)).spread
    assert rough.forecast(0.0, looking(1.0)).spread > 5 * spread
    assert calm.forecast(0.0, looking(40.0)).spread > 2 * spread
    unknown = learn_gain(NOTHING, False, 0.5, *NONE).forecast(0.3, looking(2.0))
    assert unknown.mean == 0.3 and unknown.quantile(0.95) - unknown.quantile(0.05) > 1


entry = st.floats(-5, 5)


@st.composite
def regressions(draw: st.DrawFn) -> tuple[np.ndarray, ...]:
    n = draw(st.integers(0, 8))
    known = draw(st.lists(entry, min_size=n * WIDTH, max_size=n * WIDTH))
    signals, finals = (draw(st.lists(entry, min_size=n, max_size=n)) for _ in range(2))
    own = draw(st.lists(st.floats(-10, 10), min_size=WIDTH, max_size=WIDTH))
    table = np.reshape(known, (n, WIDTH))
    return table, np.array(signals), np.array(finals), draw(entry), np.array(own)


def told_by(transfer: Transfer, case: tuple, shift: float = 0.0) -> Forecast:
    known, signals, finals, signal, own = case
    gain = learn_gain(transfer, True, 0.4, known, signals + shift, finals + shift)
    return gain.forecast(signal + shift, own)


@TRANSFERS
@given(case=regressions())
def test_it_is_finite_and_a_distribution(transfer: Transfer, case: tuple) -> None:
    found = told_by(transfer, case)
    assert math.isfinite(found.mean) and found.spread > 0 and found.freedom >= 1
    assert math.isfinite(found.variance) and found.variance > 0
    bounds = found.mean + found.spread * np.array([-30, -2, -0.5, 0, 0.5, 2, 30])
    chances = [found.below(bound) for bound in bounds]
    assert all(0 <= chance <= 1 for chance in chances)
    assert all(a <= b for a, b in pairwise(chances))
    assert found.below(found.mean) == pytest.approx(0.5)
    assert found.quantile(0.05) < found.mean < found.quantile(0.95)


@given(regressions(), st.randoms(use_true_random=False), st.floats(-1e3, 1e3))
def test_the_order_of_trials_is_no_matter_and_a_shift_moves_all(case, random, shift) -> None:
    known, signals, finals, signal, own = case
    order = list(range(len(finals)))
    random.shuffle(order)
    shuffled = known[order], signals[order], finals[order], signal, own
    mean = told_by(published(), case).mean
    assert told_by(published(), shuffled).mean == pytest.approx(mean, abs=1e-6)
    assert told_by(published(), case, shift).mean == pytest.approx(mean + shift, abs=1e-6)


def test_it_is_a_t_distribution() -> None:
    cauchy = Forecast(mean=2.0, spread=0.5, freedom=1)
    assert cauchy.below(2.5) == pytest.approx(0.75)
    assert cauchy.quantile(0.25) == pytest.approx(1.5)
    for freedom, variance in ((4.0, 2.0), (1e9, 1.0), (3.0, 3.0)):
        assert Forecast(0.0, 1.0, freedom).variance == pytest.approx(variance)
    # Where it has no variance it is a large one.
    assert Forecast(0.0, 1.0, 1.0).variance == Forecast(0.0, 1.0, 2.0).variance > 3


# What less training would have come to.

SCHEDULE = Schedule("constant", 0.1)


def shorter(signal: list[float], final: float | None = None):
    steps, end = np.arange(10, 101, 10)[: len(signal)], signal[-1] if signal else 1.0
    rates = SCHEDULE.rates(100)
    final = end if final is None else final
    return shorter_training(features(SCHEDULE), rates, steps, np.array(signal), final)


def curve(rise: float) -> list[float]:
    """Of ten validations the best is the third, by a fall of 1: what rises after it may count."""
    return [1.0, 0.5, 0.0, *np.linspace(0, rise, 8)[1:]]


def test_a_training_that_was_best_on_the_way_tells_of_a_lower_peak() -> None:
    found, x = shorter(curve(0.6)), features(SCHEDULE)
    # The median of neighbours, which moves the best one to the next.
    assert found.y == pytest.approx(0.6 / 7, abs=0.01)
    assert found.x[PEAK] - x[PEAK] == pytest.approx(np.log(0.3), abs=0.3)
    assert np.delete(found.x, PEAK) == pytest.approx(np.delete(x, PEAK))
    assert 0 < shorter(curve(0.3)).variance < found.variance < 0.6**2  # the less it rose


@pytest.mark.parametrize(
    ("signal", "final"),
    [
        pytest.param(np.linspace(1, 0, 10), None, id="best at its end"),
        pytest.param(curve(0.9 * OVERFIT), None, id="no more than noise"),
        pytest.param([LEAST_OVERFIT * place for place in curve(0.5)], None, id="hardly moves"),
        pytest.param([1, 0.9, 0.0, 0.8, 0.7, 0.6, 0.5, 0.5, 0.5, 0.5], None, id="one lucky"),
        pytest.param(np.linspace(1, 5, 10), None, id="best before it learnt anything"),
        pytest.param(curve(0.6), 0.0, id="its best checkpoint is judged"),
        pytest.param([], None, id="nothing was seen"),
    ],
)
def test_other_trainings_tell_nothing_of_it(signal, final: float | None) -> None:
    assert shorter(list(map(float, signal)), final) is None
