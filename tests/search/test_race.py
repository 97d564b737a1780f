import pytest

from lrtune.search.race import ROUND, SURVIVORS, Standing, next_family, still_racing


def standing(score: float, trials: int) -> Standing:
    found = Standing(started=trials)
    for index in range(trials):
        found.add(index, score + index)
    return found


def test_equal_shares_first() -> None:
    standings = {name: Standing() for name in "abcde"}
    given = []
    for _ in range(5 * ROUND):
        given.append(next_family(standings))
        standings[given[-1]].started += 1
    assert {name: given.count(name) for name in "abcde"} == dict.fromkeys("abcde", ROUND)


def test_the_better_half_stays() -> None:
    standings = {
        name: standing(score, ROUND) for name, score in zip("abcde", range(5), strict=True)
    }
    assert still_racing(standings) == ["a", "b", "c"]
    for name in "abc":
        standings[name] = standing(ord("c") - ord(name), 2 * ROUND)
    assert still_racing(standings) == ["b", "c"]


def test_nobody_drops_out_before_all_have_had_their_round() -> None:
    standings = {name: standing(1.0, ROUND) for name in "abcd"}
    standings["d"] = standing(9.0, ROUND - 1)
    assert still_racing(standings) == list("abcd")


def test_more_tries_do_not_win() -> None:
    standings = {name: standing(1.0, ROUND) for name in "abc"}
    lucky_late = Standing(started=ROUND + 1)
    for index in range(ROUND):
        lucky_late.add(index, 5.0)
    lucky_late.add(ROUND, 0.0)
    assert "z" not in still_racing({**standings, "z": lucky_late})


@pytest.mark.parametrize("families", [1, SURVIVORS])
def test_few_families_all_stay(families: int) -> None:
    standings = {str(i): standing(float(i), 10 * ROUND) for i in range(families)}
    assert still_racing(standings) == list(standings)


def test_families_without_any_value_go_first() -> None:
    standings = {name: standing(1.0, ROUND) for name in "ab"}
    standings["c"] = Standing(ROUND, [(i, float("inf")) for i in range(ROUND)])
    assert still_racing(standings) == ["a", "b"]
