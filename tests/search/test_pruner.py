"""SchedulePruner: what goes on, what ends."""

import math
from collections.abc import Callable

import optuna
import pytest
from made import (
    EVERY,
    STEPS,
    TOTAL,
    Bench,
    bench,
    constant,
    cosine,
    cyclic,
    losses,
    optuna_prunes,
    wsd,
)
from optuna.pruners import MedianPruner
from optuna.trial import TrialState

from lrtune import Schedule, SchedulePruner
from lrtune.search.pruner import CAUTION, EPSILON, FIRST

optuna.logging.set_verbosity(optuna.logging.WARNING)

# A rate that is high with a decay still to come, and one that stays.


def test_a_late_bloomer_goes_on_where_the_median_ends_it() -> None:
    made = bench(cosine, wsd)
    number = made.run_up_to(320, wsd(0.1))
    decision = made.decide(number)
    assert decision.probability is not None and not decision.prune
    assert decision.ahead["fall"] > 3
    assert decision.final < decision.best < 0.5
    assert made.study.trials[number].intermediate_values[320] > 1
    assert optuna_prunes(MedianPruner(n_warmup_steps=100), made, number)


def test_flat_and_high_ends_where_no_decay_is_to_come() -> None:
    made = bench(cosine, wsd, constant)
    decision = made.asked(320, constant())
    assert decision.prune and decision.ahead["fall"] == 0
    assert not made.asked(320, wsd(0.1)).prune  # which looks the same


@pytest.mark.parametrize("update", [60, 140, 160, 260, 340])
def test_a_cyclic_rate_at_its_top_goes_on(update: int) -> None:
    made = bench(cyclic, cosine)
    number = made.run_up_to(update, cyclic(0.05), skill=0.85)
    decision = made.decide(number)
    assert not decision.prune
    assert decision.ahead["fall"] > 1.5 and decision.ahead["rise"] < 0.3
    shown = made.study.trials[number].intermediate_values[update]
    assert shown > 2 * max(decision.best, decision.final)


def test_worse_by_far_ends_whatever_the_rate_does() -> None:
    made = bench(cosine, wsd, constant)
    for schedule in (cosine(), wsd(0.1), constant()):
        assert made.asked(200, schedule, skill=8).prune
        assert not made.asked(200, schedule, skill=0.1).prune


def test_slow_but_steady_is_judged_by_its_end() -> None:
    """Both stand where they stand; those that came from there in the same way ended well."""
    made = Bench()
    for i in range(8):
        made.add(cosine(0.01 * i), {s: 1.02 - 0.002 * s + 0.001 * i for s in STEPS})
    curve = {s: 1.0 - 0.002 * s for s in STEPS}
    assert not made.decide(made.run_up_to(200, cosine(0.03), curve=curve)).prune


# A closed loop: as if its rate were held.


def test_a_closed_loop_is_forecast_with_its_rate_held() -> None:
    def plateau(factor: float) -> Schedule:
        return Schedule("plateau", peak_lr=0.1, knobs={"factor": factor})

    made = bench(plateau, wsd)
    decision = made.asked(100, plateau(0.3), skill=1.0)
    assert decision.ahead == pytest.approx({"remainder": math.log(4), "fall": 0, "rise": 0})
    assert made.asked(200, plateau(0.3), skill=8).prune


# Any objective: scores, zero, negative values.

MIRRORS: dict[str, tuple[Callable[[float], float], str]] = {
    "scores": (lambda loss: 1 - loss, "maximize"),  # some of them negative
    "scores far above 1": (lambda loss: 100 - 10 * loss, "maximize"),
    "negated losses": (lambda loss: -loss, "maximize"),
    "losses through zero": (lambda loss: loss - 0.5, "minimize"),
    "negative losses": (lambda loss: loss - 5, "minimize"),
    "tiny losses": (lambda loss: 1e-9 * loss, "minimize"),
    "huge losses": (lambda loss: 1e9 * loss, "minimize"),
}
CASES = [(320, constant(), 1.0), (200, cosine(), 8.0), (200, wsd(0.1), 0.9), (380, wsd(0.1), 1.0)]


@pytest.mark.parametrize("name", MIRRORS)
def test_any_objective_decides_alike(name: str) -> None:
    shown, direction = MIRRORS[name]
    plain = bench(cosine, wsd, constant)
    other = bench(cosine, wsd, constant, shown=shown, direction=direction)
    for case in CASES:
        expected, found = plain.asked(*case), other.asked(*case)
        assert found.prune == expected.prune
        best, low, high = found.best, found.low, found.high
        assert best == pytest.approx(shown(expected.best))
        assert low <= found.final <= high if direction == "minimize" else low >= found.final >= high


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # Scores whose distance to 1 is the loss; and values that only differ by their sign.
        ((lambda loss: loss, "minimize"), (lambda loss: 1 - loss, "maximize")),
        ((lambda loss: loss - 5, "minimize"), (lambda loss: 5 - loss, "maximize")),
    ],
)
def test_mirrored_objectives_have_the_same_figures(one: tuple, other: tuple) -> None:
    benches = [
        bench(cosine, wsd, constant, shown=lambda x, f=f: f(x / 10), direction=direction)
        for f, direction in (one, other)
    ]
    for case in CASES:
        found, mirrored = (made.asked(*case) for made in benches)
        assert found.prune == mirrored.prune
        assert found.probability == pytest.approx(mirrored.probability, abs=1e-6)
        assert abs(found.final - found.best) == pytest.approx(
            abs(mirrored.final - mirrored.best), abs=1e-6
        )


def test_zero_is_a_loss_like_any_other() -> None:
    made = bench(cosine, wsd)
    made.add(cosine(), dict.fromkeys(STEPS, 0.0))
    for step, schedule, skill in CASES[1:]:
        decision = made.asked(step, schedule, skill)
        assert math.isfinite(decision.final) and math.isfinite(decision.best)
        assert 0 <= decision.probability <= 1
    assert not made.decide(made.run_up_to(200, cosine(), curve=dict.fromkeys(STEPS, 0.0))).prune


# Not a number.


def test_nan_on_the_way_of_a_finished_trial_breaks_nothing() -> None:
    clean, made = bench(cosine, wsd), bench(cosine, wsd)
    broken = losses(cosine())
    for bad in (math.nan, math.inf):
        made.add(cosine(), {**broken, 60: bad})
    for step in (60, 100, 320):
        found, expected = made.asked(step, wsd(0.1)), clean.asked(step, wsd(0.1))
        assert math.isfinite(found.final)
        assert found == expected  # they are left out


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_trial_that_is_no_number_ends(bad: float) -> None:
    made = bench(cosine, wsd)
    curve = {**losses(cosine()), 100: bad}
    decision = made.decide(made.run_up_to(100, cosine(), curve=curve))
    assert decision.prune
    assert str(bad) in decision.reason
    alone = Bench()
    assert alone.decide(alone.run_up_to(100, cosine(), curve=curve)).prune


# Few trials.


@pytest.mark.parametrize("epsilon", [1e-9, 0.2, 1 - 1e-9])
def test_one_trial_alone_is_never_pruned(epsilon: float) -> None:
    alone = Bench()
    for step in STEPS:
        number = alone.run_up_to(step, cosine(), skill=100)
        assert not alone.decide(number, SchedulePruner(TOTAL, epsilon=epsilon)).prune
        alone.study.tell(number, state=TrialState.FAIL)


@pytest.mark.parametrize("startup", [3, 5, 8])
def test_startup(startup: int) -> None:
    made = Bench()
    pruner = SchedulePruner(TOTAL, startup=startup)
    hopeless = 1e3
    for i in range(10):
        decision = made.decide(made.run_up_to(300, cosine(), hopeless), pruner)
        assert decision.prune == (i >= startup)
        assert decision.trials == (i if i >= startup else 0)
        schedule = cosine(0.01 * i)
        made.add(schedule, losses(schedule, 1 + 0.01 * i))
        # Neither of these can teach anything.
        made.add(None, losses(schedule))
        made.add(cosine(), {100: 0.5}, TrialState.PRUNED)
        made.add(cosine(), {100: 0.5}, TrialState.FAIL)


@pytest.mark.parametrize(("warmup", "expected"), [(0.0, 20), (0.1, 40), (0.5, 200), (0.51, 220)])
def test_warmup(warmup: float, expected: int) -> None:
    made = bench(cosine)
    pruner = SchedulePruner(TOTAL, warmup=warmup)
    first = next(s for s in STEPS if made.decide(made.run_up_to(s, cosine(), 1e3), pruner).prune)
    assert first == expected


def test_at_its_end_no_trial_is_pruned() -> None:
    made = bench(cosine)
    assert made.asked(TOTAL - EVERY, cosine(), 1e3).prune
    assert not made.asked(TOTAL, cosine(), 1e3).prune


def test_the_first_trial_of_a_family_is_given_a_better_chance() -> None:
    made = bench(cosine)
    first, second = (made.run_up_to(200, wsd()) for _ in range(2))
    whole = made.decide(second).threshold
    assert made.decide(first).threshold == pytest.approx(FIRST * whole)
    made.study.tell(first, state=TrialState.FAIL)  # then the second is the first
    assert made.decide(second).threshold == pytest.approx(FIRST * whole)
    third = made.run_up_to(200, wsd())
    made.study.tell(second, state=TrialState.PRUNED)  # it had its chance
    assert made.decide(third).threshold == pytest.approx(whole)


def test_the_fewer_trials_are_known_the_more_careful() -> None:
    few, many = bench(cosine), bench(cosine, wsd)
    thresholds = [made.asked(200, cosine()).threshold for made in (few, many)]
    assert thresholds == [pytest.approx(EPSILON * n / (n + CAUTION)) for n in (6, 12)]


def test_a_finished_trial_counts_as_far_as_it_was_reported() -> None:
    made = Bench()
    for i in range(6):
        schedule = cosine(0.01 * i)
        made.add(
            schedule, {s: v for s, v in losses(schedule).items() if s <= 200}
        )  # in some other search
    assert made.asked(200, cosine()).trials == 6
    assert made.asked(220, cosine()).trials == 0


def test_steps_between_the_reports_of_others_are_read_in_proportion() -> None:
    made, other = Bench(), Bench()
    for i in range(6):
        schedule = cosine(0.01 * i)
        line = {s: 1 + 0.1 * i - 0.002 * s for s in STEPS}
        made.add(schedule, line)
        other.add(schedule, {s: v for s, v in line.items() if s % 80 == 0})
    curve = {s: 1.2 - 0.002 * s for s in STEPS}
    found, expected = (b.decide(b.run_up_to(200, cosine(), curve=curve)) for b in (made, other))
    assert found.final == pytest.approx(expected.final, rel=0.05)
    assert found.trials == expected.trials == 6
