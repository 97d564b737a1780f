import pytest

from lrtune.search.race import (
    ROUND,
    SURVIVORS,
    Standing,
    chances_to_win,
    next_family,
    still_racing,
)


def standing(score: float, trials: int, spread: float = 0.02) -> Standing:
    """Trials around a score, the better half within a share of it, the others far off."""
    found = Standing(started=trials)
    for index in range(trials):
        found.add(index, score * (1 + spread * index if index < trials / 2 else 2.0))
    return found


def forecasts(score: float, factor: float) -> Standing:
    """One whole trial, the others pruned: forecast to end there, within a factor."""
    found = Standing(started=ROUND)
    found.add(0, score)
    for index in range(1, ROUND):
        found.add(index, score, score / factor, score * factor)
    return found


def test_equal_shares_first() -> None:
    standings = {name: Standing() for name in "abcde"}
    given = []
    for _ in range(5 * ROUND):
        given.append(next_family(standings))
        standings[given[-1]].started += 1
    assert {name: given.count(name) for name in "abcde"} == dict.fromkeys("abcde", ROUND)


def test_who_can_hardly_win_drops_out() -> None:
    standings = {"a": standing(1.0, ROUND), "b": standing(1.02, ROUND), "c": standing(3.0, ROUND)}
    assert still_racing(standings) == ["a", "b"]


def test_who_may_still_win_stays() -> None:
    standings = {name: standing(1 + 0.005 * n, ROUND) for n, name in enumerate("abcde")}
    assert still_racing(standings) == list("abcde")


def test_what_a_forecast_leaves_open_counts() -> None:
    standings = {"a": standing(1.0, ROUND), "b": standing(1.02, ROUND)}
    sure, unsure = forecasts(2.0, 1.05), forecasts(2.0, 3.0)
    assert still_racing({**standings, "z": sure}) == ["a", "b"]
    assert "z" in still_racing({**standings, "z": unsure})


def test_a_family_of_which_nothing_is_whole_waits() -> None:
    standings = {name: standing(1.0, ROUND) for name in "abc"}
    pruned = Standing(started=ROUND)
    for index in range(ROUND):
        pruned.add(index, 9.0, 8.9, 9.1)
    assert still_racing({**standings, "z": pruned}) == ["a", "b", "c", "z"]


def test_the_chance_falls_with_the_distance() -> None:
    families = {str(n): standing(1 + 0.1 * n, ROUND).outcomes for n in range(5)}
    chances = list(chances_to_win(families).values())
    assert chances[0] == 1 and chances == sorted(chances, reverse=True) and chances[-1] < 0.1


def test_nobody_drops_out_before_all_have_had_their_round() -> None:
    standings = {name: standing(1.0, ROUND) for name in "abcd"}
    standings["d"] = standing(9.0, ROUND - 1)
    assert still_racing(standings) == list("abcd")


def test_more_tries_do_not_win() -> None:
    standings = {name: standing(1.0, ROUND) for name in "abc"}
    lucky_late = standing(5.0, ROUND)
    lucky_late.add(ROUND, 0.1)
    assert "z" not in still_racing({**standings, "z": lucky_late})


@pytest.mark.parametrize("families", [1, SURVIVORS])
def test_few_families_all_stay(families: int) -> None:
    standings = {str(i): standing(1.0 + i, 10 * ROUND) for i in range(families)}
    assert still_racing(standings) == list(standings)


def test_families_without_any_value_go_first() -> None:
    standings = {name: standing(1.0, ROUND) for name in "ab"}
    standings["c"] = Standing(ROUND)
    for index in range(ROUND):
        standings["c"].add(index, float("inf"))
    assert still_racing(standings) == ["a", "b"]
