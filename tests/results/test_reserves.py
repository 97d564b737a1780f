"""Before a contender is left behind, or where it was lost, its reserve is tried."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lrtune.results.answer import second, sentences
from lrtune.results.plan import Plan, entrants, finalists_in, reserve_name
from lrtune.results.verdict import standing, verdict
from lrtune.schedule import Schedule
from tests.results.contests import drawn, held, places
from tests.results.test_verdict import LOSS, RUN, SEEDS, finalist, finals, searched

LEVELS = {"cosine": 0.10, "linear": 0.10, "wsd": 0.5}


def some(scores, **seeds):
    return {name: row[: seeds.get(name, len(row))] for name, row in scores.items()}


def test_a_reserve_is_asked_for_only_where_its_contender_would_be_left_behind():
    scores = drawn([0, 0, 30, 31])
    asked = held(some(scores, a=5, b=5, c=5, d=0), reserves={"c": "d"})
    assert (asked.why, asked.wanted, [*asked.standings]) == ("more", {"d": 5}, ["a", "b", "c"])
    found = held(some(scores, c=5, d=5), reserves={"c": "d"})
    assert found.why == "open" and places(found) == {"a": "tied", "b": "tied", "c": "behind"}
    assert found.tried == ["c"]
    tie = held(some(drawn([0, 0, 0, 0]), d=0), reserves={"c": "d"})
    assert len(tie.tied) == 3 and tie.wanted == {} and tie.tried == []


@pytest.mark.parametrize("seed", range(20))
def test_seed_by_seed_as_wanted_it_is_the_same_as_with_all_at_once(seed):
    scores = drawn([0, 0.3, 1, 0, 0.3, 0.6], seed=seed)
    reserves = {"a": "d", "b": "e", "c": "f"}
    given, result = dict.fromkeys(scores, 5) | {"d": 0, "e": 0, "f": 0}, None
    while result is None or result.wanted:
        result = held(some(scores, **given), reserves=reserves)
        given |= result.wanted
    whole = held(scores, reserves=reserves)
    assert places(result) == places(whole)
    assert (result.why, result.seeds, result.tried) == (whole.why, whole.seeds, whole.tried)


def test_a_reserve_as_good_as_the_best_takes_the_place():
    found = held(drawn([0, 0, 30, 0]), reserves={"c": "d"})
    assert places(found) == {"a": "tied", "b": "tied", "d": "tied"} and found.seeds == 20


def test_a_reserve_that_does_worse_takes_no_place_however_noisy():
    scores = drawn([0, 0, 5, 0])
    scores["d"] = 6 + 30 * scores["d"]
    assert scores["d"][:10].mean() > 6
    assert places(held(scores, reserves={"c": "d"})) == {"a": "tied", "b": "tied", "c": "behind"}


def test_a_reserve_that_does_better_and_is_behind_stands_for_both():
    found = held(drawn([0, 0, 30, 20]), reserves={"c": "d"})
    assert places(found) == {"a": "tied", "b": "tied", "d": "behind"}
    assert found.standings["d"].p < 0.01 and found.standings["d"].gap == pytest.approx(20, abs=1)


def test_where_a_reserve_becomes_the_best_others_send_theirs():
    scores = drawn([30, 30, 60, 0, 0, 61])
    found = held(scores, reserves={"c": "d", "a": "e", "b": "f"})
    assert places(found) == {"d": "tied", "e": "tied", "b": "behind"}


def test_to_name_a_winner_no_reserve_is_asked_for():
    found = held(drawn([0, 30, 40, 0]), reserves={"b": "d"})
    assert (found.why, found.tied) == ("separated", ["a"])


def test_who_was_lost_sends_its_reserve():
    *_, behind = drawn([0, 0, 0, 0, 30]).values()
    scores = drawn([0, 0, 0, 0])
    scores["c"][7] = math.nan
    asked = held(some(scores, d=0), reserves={"c": "d"})
    assert asked.wanted == {"a": 5, "b": 5, "d": 5} and asked.standings["c"].place == "lost"
    assert places(held(scores, reserves={"c": "d"})) == dict.fromkeys("abd", "tied")
    assert places(held(scores | {"d": behind}, reserves={"c": "d"}))["d"] == "behind"
    lost = scores | {"d": np.full(20, math.nan)}
    assert places(held(lost, reserves={"c": "d"})) == {"a": "tied", "b": "tied", "c": "lost"}


def test_equals_are_left_out_less_often_where_their_settings_differ():
    alone = both = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        off = 0.5 * generator.standard_exponential((12, 1))
        rows = off + generator.standard_normal((12, 20))
        scores = {str(number): row for number, row in enumerate(rows)}
        reserves = {str(number): str(number + 6) for number in range(6)}
        alone += len(held({name: scores[name] for name in reserves}).tied) < 6
        both += len(held(scores, reserves=reserves).tied) < 6
    assert both < alone / 2 and alone > 10


def tried(second_of_wsd, first_of_wsd=0.5, seeds=20, lost=None):
    """Finalists and finals in which wsd has a reserve."""
    reserve = replace(finalist("wsd"), schedule=Schedule("wsd", peak_lr=0.2), trial=7, value=0.4)
    who = [finalist("cosine"), finalist("linear"), replace(finalist("wsd"), reserve=reserve)]
    firsts = finals({"cosine": 0.1, "linear": 0.1, "wsd": first_of_wsd}, seeds)
    if second_of_wsd is None:
        return who, firsts
    own = finals({"wsd": second_of_wsd}, seeds).assign(schedule=reserve.schedule.to_json())
    own.loc[own["seed"] == lost, ["state", "reason", "final_cross_entropy"]] = [
        "diverged",
        "loss is inf",
        math.nan,
    ]
    return who, pd.concat([firsts, own], ignore_index=True)


def judged(second_of_wsd, first_of_wsd=0.5, lost=None):
    who, table = tried(second_of_wsd, first_of_wsd, lost=lost)
    return who, verdict(searched({0.1: 0.3}), table, who, RUN, SEEDS, Plan())


def test_the_verdict_wants_the_reserve_by_a_name_of_its_own():
    who, table = tried(None, seeds=5)
    name = reserve_name("wsd")
    assert standing(table, who, LOSS, SEEDS, Plan()).wanted == {name: 5}
    assert entrants(who)[name] is who[2].reserve and len(entrants(who)) == 4


@pytest.mark.parametrize(
    ("reserve", "first", "place", "said"),
    [
        (0.1, 0.5, "tied", "wsd would be behind with the first setting: what counts is"),
        (0.1, math.nan, "tied", "wsd lost trainings with the first setting: what counts is"),
        (0.6, 0.5, "behind", "wsd is behind with the second best setting too."),
        (0.1, 0.1, "tied", ""),
    ],
)
def test_a_verdict_says_whose_second_setting_counts(reserve, first, place, said):
    who, found = judged(reserve, first)
    row = next(row for row in found["families"] if row["family"] == "wsd")
    chosen = bool(said) and place == "tied"
    assert row["place"] == place and row["second"] is chosen
    assert row["trial"] == (7 if chosen else 1) and row["other"]["trial"] == (1 if chosen else 7)
    assert said in second(found) and bool(said) == bool(second(found))
    assert all(sentences(found))
    assert {row["rival"] for row in found["families"]} <= {"cosine", "linear", "wsd"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    again = sorted(finalists_in(found), key=lambda one: one.family)
    assert again == who


def test_a_verdict_does_not_say_both_where_one_was_lost():
    _, found = judged(0.5, math.nan)
    row = next(row for row in found["families"] if row["family"] == "wsd")
    assert (row["place"], row["second"], row["other"]["lost"]) == ("behind", True, 20)
    assert row["other"]["reasons"] == ["loss is nan"]
    assert second(found).startswith("wsd lost trainings with the first setting")
    assert "too" not in second(found)
    _, found = judged(0.1, 0.5, lost=SEEDS[3])
    row = next(row for row in found["families"] if row["family"] == "wsd")
    assert (row["place"], row["second"], row["other"]["lost"]) == ("behind", False, 1)
    assert second(found) == ""


def test_an_older_verdict_has_no_reserves():
    _, found = judged(0.1)
    for row in found["families"]:
        del row["other"], row["second"]
    assert all(one.reserve is None for one in finalists_in(found)) and sentences(found)
