"""What the finals say of early stopping."""

import json

import numpy as np
import pytest

from lrtune.results.hindsight import behind_until, hindsight, mean_curves
from tests.results.conftest import STEPS
from tests.results.test_finals_report import make


def crossing(many, late, kind="winner"):
    """Finals in which the winner is the worst of all up to the validation `late`."""
    trials, _, found, finals = make(kind, *many)
    level = dict(zip(("wsd", "linear", "plateau", "constant", "cosine"), range(5), strict=True))
    curves = []
    for family in finals["family"]:
        curve = 1.0 + 0.1 * level[family] + np.zeros(len(STEPS))
        if family == "wsd":
            curve[:late] = 9.0
        curves.append(curve.tolist())
    return trials, found, finals.assign(val_cross_entropy=curves)


@pytest.mark.parametrize("late", [0, 1, 7, 19])
def test_a_winner_that_lay_behind_is_named_with_when(many, late):
    trials, found, finals = crossing(many, late)
    behind = behind_until(found, mean_curves(found, finals))
    assert behind == ({"wsd": late / 20} if late > 2 else {})
    said = " ".join(hindsight(trials, found, finals))
    if late > 2:
        assert f"wsd as late as {100 * late / 20:.0f}\N{NARROW NO-BREAK SPACE}% of the run" in said
        assert "could have ended it" in said
    else:
        assert "none that came out on top was ever in the worse half" in said


def test_two_finalists_have_no_worse_half(many):
    trials, _, found, finals = make("no target", *many)
    assert behind_until(found, mean_curves(found, finals)) == {}
    assert hindsight(trials.assign(state="complete"), found, finals) == []


def test_where_most_are_on_top_it_says_nothing_that_some_lay_behind(many):
    trials, found, finals = crossing(many, 7)
    for row in found["families"][:3]:
        row["place"] = "tied"
    assert behind_until(found, mean_curves(found, finals)) == {}
    assert "worse half" not in " ".join(hindsight(trials, found, finals))


def test_close_calls_are_counted_by_the_spread_between_seeds(many):
    trials, found, finals = crossing(many, 0)
    found = {**found, "amount": 0.02}
    pruned = trials.index[trials["state"] == "pruned"]
    gaps = dict.fromkeys(pruned, 0.5) | dict.fromkeys(pruned[:3], 0.01)
    trials["evidence"] = [
        json.dumps({"final": 0.3 + gaps[at], "best": 0.3}) if at in gaps else "{}"
        for at in trials.index
    ]
    said = " ".join(hindsight(trials, found, finals))
    assert f"3 of {len(pruned)} pruned trials with a forecast were to end less than 0.020" in said
    higher = {**found, "objective": {**found["objective"], "direction": "maximize"}}
    assert f"{len(pruned)} of {len(pruned)} pruned" in " ".join(hindsight(trials, higher, finals))
    assert "close calls" not in " ".join(hindsight(trials, {**found, "amount": None}, finals))
