import json

import numpy as np
import pandas as pd
import pytest

from lrtune.verdict.summary import (
    ENDS,
    beside,
    best,
    best_of_each,
    by_end,
    by_family,
    forecasts,
    ranked,
    recommended,
)


def table(*rows):
    columns = ["number", "family", "state", "value", "peak_lr", "updates", "seconds", "reason"]
    filled = [(n, *row, 0.1, 10, 1.0, "") for n, row in enumerate(rows)]
    return pd.DataFrame(filled, columns=columns)


MIXED = table(
    ("a", "complete", 0.5),
    ("a", "complete", 0.3),
    ("a", "plateaued", 0.05),
    ("b", "complete", 0.4),
    ("b", "pruned", 0.1),
    ("b", "complete", np.nan),
    ("b", "complete", np.inf),
    ("c", "diverged", 0.2),
    ("c", "failed", np.nan),
)


@pytest.mark.parametrize(("direction", "number"), [("minimize", 1), ("maximize", 0)])
def test_best_counts_finished_finite_trials_only(direction, number):
    assert best(MIXED, direction)["number"] == number


def test_no_winner_without_a_value():
    assert best(MIXED[MIXED.family == "c"], "minimize") is None
    assert best(MIXED.iloc[:0], "minimize") is None


def test_ties_go_to_the_earlier_trial():
    tied = table(("a", "complete", 0.3), ("b", "complete", 0.3)).iloc[::-1]
    assert [*ranked(tied, "minimize")["number"]] == [0, 1]
    assert [*ranked(tied, "maximize")["number"]] == [0, 1]


def test_the_best_is_who_is_expected_to_be_not_the_luckiest():
    tried = table(("a", "complete", 0.2), ("b", "complete", 0.3), ("c", "complete", 0.35))
    expected = tried.assign(expected=[0.4, 0.32, np.nan])
    assert [*ranked(expected, "minimize")["family"]] == ["b", "c", "a"]
    assert best(expected, "minimize")["value"] == 0.3
    assert [*ranked(expected, "maximize")["family"]] == ["a", "c", "b"]
    assert by_family(expected, "minimize")["best"].tolist() == [0.32, 0.35, 0.4]


def test_by_family_puts_the_best_first_and_the_lost_last():
    families = by_family(MIXED, "minimize").set_index("family")
    assert [*families.index] == ["a", "b", "c"]
    assert [*by_family(MIXED, "maximize")["family"]] == ["a", "b", "c"]
    assert families.loc["a", ["best", "median", "q1", "q3"]].tolist() == pytest.approx(
        [0.3, 0.4, 0.35, 0.45]
    )
    assert (families[[*ENDS]].sum(axis=1) == families["trials"]).all()
    assert np.isnan(families.loc["c", "best"]) and families.loc["c", "updates"] == 20
    assert pd.isna(families.loc["c", "number"])


def test_by_end_accounts_for_every_update():
    ends = by_end(MIXED)
    assert [*ends["end"]] == [*ENDS]
    assert ends["updates"].sum() == MIXED["updates"].sum()
    assert ends["trials"].sum() == len(MIXED)


PARTIAL = MIXED.assign(
    value=np.nan, state=["plateaued", "pruned"] * 4 + ["diverged"], evidence="{}"
)


def test_without_a_complete_trial_the_best_forecast_is_recommended():
    assert recommended(MIXED, "minimize")["number"] == 1  # whatever others were forecast
    assert recommended(PARTIAL, "minimize") is None
    trials = PARTIAL.copy()
    for number, final in ((0, 0.4), (3, 0.3), (4, None), (8, 0.1)):  # the last one diverged
        trials.loc[number, "evidence"] = json.dumps({"final": final})
    assert forecasts(trials).dropna().to_dict() == {0: 0.4, 3: 0.3}
    chosen = recommended(trials, "minimize")
    assert (chosen["number"], chosen["value"], chosen["state"]) == (3, 0.3, "pruned")
    assert recommended(trials, "maximize")["number"] == 0
    assert best(trials, "minimize") is None and best_of_each(trials, "minimize").empty


def test_beside_reads_the_weights_that_are_judged():
    trial = pd.Series({"val_x": [0.9, 0.3, 0.5], "val_y": [1.0, 2.0, 3.0], "step": [10, 20, 30]})
    assert beside(trial, "y") == 3.0
    for at, value in ((np.nan, 3.0), (None, 3.0), (20, 2.0), (30.0, 3.0)):
        assert beside(pd.concat([trial, pd.Series({"judged_at": at})]), "y") == value


@pytest.mark.parametrize("curves", [{}, {"val_y": []}, {"val_x": [0.3]}])
def test_beside_is_nan_where_nothing_was_recorded(curves):
    assert np.isnan(beside(pd.Series({"value": 0.3, **curves}), "y"))
