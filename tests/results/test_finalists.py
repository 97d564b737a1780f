"""Who comes to the finals."""

import math
from dataclasses import replace

import pandas as pd

from lrtune.results.finalists import candidates, qualified
from tests.results.test_verdict import ACCURACY, LOSS, searched


def test_who_comes_to_the_finals() -> None:
    table = pd.concat(
        [
            searched({0.1: 0.3, 0.2: 0.2}, "cosine"),
            searched({0.1: 0.4}, "constant"),
            searched({0.1: 0.25}, "linear"),
            searched({0.1: 0.35}, "spline"),
            searched({0.1: math.nan}, "wsd"),
            searched({0.1: math.nan, 0.3: math.nan}, "step").assign(
                state="pruned", evidence=['{"final": 0.5}', '{"final": 0.4}']
            ),
            searched({0.1: math.nan}, "rex").assign(state="pruned"),
        ],
        ignore_index=True,
    ).assign(val_cross_entropy=[[0.9, 0.8]] * 9)
    racing = ["linear", "step", "wsd", "rex"]
    several = candidates(table, racing, LOSS)
    assert [one.family for one in several].count("cosine") == 2
    none = pd.DataFrame({"schedule": [], "seed": []})
    found = {f.family: f for f in qualified(several, none, LOSS, [1])}
    assert list(found) == ["cosine", "linear", "spline", "constant", "step", "rex"]
    assert found["cosine"].schedule.peak_lr == 0.2 and found["cosine"].role == "anchor"
    assert found["constant"].role == "anchor" and found["spline"].role == "ceiling"
    assert found["step"].schedule.peak_lr == 0.3 and found["step"].value is None
    assert found["cosine"].params == {"peak_lr": 0.2}
    assert candidates(searched({0.1: math.nan}), ["cosine"], LOSS) == []
    twice = pd.concat([searched({0.1: 0.2}), searched({0.1: 0.3})], ignore_index=True)
    assert [one.value for one in candidates(twice, ["cosine"], LOSS)] == [0.2]


def test_the_best_of_the_qualifiers_goes_on() -> None:
    several = candidates(searched({0.1: 0.2, 0.2: 0.3, 0.4: 0.4, 0.8: 0.5}), ["cosine"], LOSS)
    assert [one.value for one in several] == [0.2, 0.3, 0.4]
    rows = [
        {
            "schedule": one.schedule.to_json(),
            "seed": seed,
            "final_cross_entropy": value + seed / 100,
        }
        for one, value in zip(several, (0.5, 0.3, 0.4), strict=True)
        for seed in (1, 2)
    ]
    table = pd.DataFrame(rows)
    first, second, third = several
    upwards = ACCURACY | {"name": "cross_entropy"}
    assert qualified(several, table, LOSS, [1, 2]) == [replace(second, reserve=third)]
    assert qualified(several, table, upwards, [1, 2]) == [replace(first, reserve=third)]
    assert qualified(several, table[:-1], LOSS, [1, 2]) == [first]  # one is missing
    table.loc[2, "final_cross_entropy"] = math.nan  # one was lost
    assert qualified(several, table, LOSS, [1, 2]) == [replace(third, reserve=first)]
    table.loc[0, "final_cross_entropy"] = math.nan
    assert qualified(several, table, LOSS, [1, 2]) == [third]


def test_who_dropped_out_is_recalled_with_a_better_trial_than_one_still_in() -> None:
    found = {"cosine": 0.1, "linear": 0.2, "step": 0.3, "wsd": 0.4}
    table = pd.concat([searched({0.1: v}, f) for f, v in found.items()], ignore_index=True)
    invited = {one.family: one.role for one in candidates(table, ["step", "cosine"], LOSS)}
    assert invited == {"cosine": "racing", "linear": "recalled", "step": "racing"}
    upwards = candidates(table.assign(value=1 - table["value"]), ["step"], ACCURACY)
    assert [one.family for one in upwards] == ["cosine", "linear", "step"]
    assert {one.role for one in candidates(table, ["wsd"], LOSS)} == {
        "anchor",
        "recalled",
        "racing",
    }
