"""How a contest goes on and ends, how many seeds it takes, and how often it errs."""

import numpy as np
import pytest
from scipy import stats

from lrtune.results.looks import ALPHA
from tests.results.contests import NAMES, ZIGZAG, alike, drawn, held, whole


def test_wanted_grows_and_ends():
    result, given, asked = whole(drawn([0, 0, 30]))
    assert asked == [5, 10, 20] and given == {"a": 20, "b": 20, "c": 5}
    assert (result.why, result.seeds, sorted(result.tied)) == ("open", 20, ["a", "b"])
    assert result.standings["c"].place == "behind" and result.standings["c"].p < 0.001


def test_a_clear_winner_needs_one_look():
    result, given, _ = whole(drawn([0, 30, 40]))
    assert (result.why, result.tied, set(given.values())) == ("separated", ["a"], {5})


def test_later_seeds_of_who_was_left_behind_change_nothing():
    scores = drawn([0, 0, 30])
    assert alike(
        held(scores), whole(scores)[0], "seeds", "sd", "gap", "gap_low", "gap_high", "best"
    )


def test_a_tie_is_settled_where_the_difference_does_not_matter():
    result, _, asked = whole(drawn([0, 0]), indifference=20.0)
    assert (result.why, asked, len(result.tied)) == ("settled", [5], 2)
    assert result.indifference == 20
    assert whole(drawn([0, 0]), indifference=0.0)[0].why == "open"


def test_indifference_is_a_tenth_of_the_median_sd():
    scores = {"a": ZIGZAG[:5], "b": 2 * ZIGZAG[:5], "c": 4 * ZIGZAG[:5]}
    assert held(scores).indifference == pytest.approx(0.2 * np.std(ZIGZAG[:5], ddof=1))


def test_seeds_needed_by_hand():
    """A difference of 0.2 with a standard deviation of 1; up to 0.3 does not matter."""
    spread = ZIGZAG[:20] / ZIGZAG[:20].std(ddof=1)
    scores = {"a": np.zeros(20), "b": 0.2 + spread}
    result = held(scores, first=20, most=20, indifference=0.3)
    outer, inner = stats.norm.isf([ALPHA / 2, 0.2])
    assert result.why == "open"
    assert result.needed == np.ceil(((outer + inner) / 0.2) ** 2 + outer**2 / 2) == 205
    assert result.settling == np.ceil((outer / 0.1) ** 2) == 402
    assert held(scores, first=20, most=20, indifference=0.1).settling is None


def test_the_seeds_said_to_be_needed_have_that_power():
    scores = {"a": np.zeros(4), "b": 0.75 + ZIGZAG[:4] / ZIGZAG[:4].std(ddof=1)}
    needed = held(scores, first=4).needed
    pairs = [drawn([0, 0.75], needed, seed, np.sqrt(0.5)) for seed in range(200)]
    assert 150 <= sum(whole(pair, most=needed)[0].tied == ["a"] for pair in pairs) <= 185


@pytest.mark.parametrize("means", [[0] * 2, [0] * 4, [0, 0, 4, 4]])
def test_of_equals_one_is_called_the_winner_in_at_most_alpha(means):
    """With 5 %, more than 16 of 200 come by chance in 2.4 % of all seeds."""
    best = {name for name, mean in zip(NAMES, means, strict=False) if not mean}
    ended = [whole(drawn(means, seed=seed))[0] for seed in range(200)]
    assert sum(len(result.tied) == 1 for result in ended) <= 16
    assert sum(not best <= {*result.tied} for result in ended) <= 16


def test_a_winner_ahead_by_one_standard_deviation_is_found():
    ended = [whole(drawn([0, 1, 2, 2, 2], seed=seed))[0] for seed in range(200)]
    assert sum(result.tied == ["a"] for result in ended) >= 150


def test_who_is_behind_leaves_earlier_than_a_winner_is_named():
    """At 5 seeds and p = 0.0002: too much to win (0.00004), enough to leave behind (0.0024 / 3)."""
    spread = ZIGZAG[:5] - ZIGZAG[:5].mean()
    spread = spread / spread.std(ddof=1) * np.sqrt(5)
    gap = stats.t.isf(0.0001, 4)
    assert held({"a": np.zeros(5), "b": gap + spread}).why == "more"
    three = held({"a": np.zeros(5), "b": 0.1 + spread, "c": gap + spread})
    assert three.wanted == {"a": 10, "b": 10}
    assert three.standings["c"].place == "behind" and three.standings["c"].rival == "a"
    assert three.standings["c"].p == pytest.approx(3 * 0.0002)


def test_a_claim_on_the_winner_leaves_nobody_behind_at_its_price():
    """At 10 seeds, all of p = 0.008: less than 0.0107, but that is for one pair of the six."""
    spread = ZIGZAG[:10] / ZIGZAG[:10].std(ddof=1) * np.sqrt(10)
    far = {name: stats.t.isf(0.004, 9) + spread for name in "bcd"}
    result = held({"a": np.zeros(10), **far}, first=5, most=20)
    assert result.why == "more" and len(result.wanted) == 4
