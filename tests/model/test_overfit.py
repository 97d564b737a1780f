"""What less training would have come to."""

import numpy as np
import pytest

from lrtune.model.features import PEAK, features
from lrtune.model.forecast import LEAST_OVERFIT, OVERFIT, shorter_training
from lrtune.schedule import Schedule

SCHEDULE = Schedule("constant", 0.1)
X, RATES = features(SCHEDULE), SCHEDULE.rates(100)
STEPS = np.arange(10, 101, 10)


def told(signal: list[float], final: float | None = None):
    return shorter_training(
        X, RATES, STEPS, np.array(signal), signal[-1] if final is None else final
    )


# Of ten validations the best is the third, by a fall of 1: what rises after it may count.
def curve(rise: float) -> list[float]:
    return [1.0, 0.5, 0.0, *np.linspace(0, rise, 8)[1:]]


def test_a_training_that_was_best_on_the_way_tells_of_a_lower_peak() -> None:
    found = told(curve(0.6))
    assert found is not None
    # The median of neighbours, which moves the best one to the next.
    assert found.y == pytest.approx(0.6 / 7, abs=0.01)
    assert found.x[PEAK] - X[PEAK] == pytest.approx(np.log(0.3), abs=0.3)
    assert np.delete(found.x, PEAK) == pytest.approx(np.delete(X, PEAK))
    assert 0 < found.variance < 0.6**2


def test_the_surer_it_is_the_less_it_rose() -> None:
    little, much = told(curve(0.3)), told(curve(3.0))
    assert little is not None and much is not None
    assert little.variance < much.variance


@pytest.mark.parametrize(
    ("why", "signal", "final"),
    [
        ("best at its end", np.linspace(1, 0, 10), None),
        ("no more than noise", curve(0.9 * OVERFIT), None),
        ("hardly falls or rises", [LEAST_OVERFIT * place for place in curve(0.5)], None),
        ("one lucky validation", [1, 0.9, 0.0, 0.8, 0.7, 0.6, 0.5, 0.5, 0.5, 0.5], None),
        ("best before it learnt anything", np.linspace(1, 5, 10), None),
        ("best near its end", [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.1, 0.0, 0.0, 0.5], None),
        ("its best checkpoint is judged", curve(0.6), 0.0),
    ],
)
def test_others_tell_nothing(why: str, signal: list, final: float | None) -> None:
    assert told(list(map(float, signal)), final) is None, why


def test_nothing_was_seen() -> None:
    assert shorter_training(X, RATES, [], np.empty(0), 1.0) is None
