"""Tables of trials: who is best, who comes to the finals, how far the peak may be off."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from lrtune.schedule import Schedule
from lrtune.verdict.settings import LossFacts
from lrtune.verdict.summary import (
    ENDS,
    MOST,
    Finalist,
    beside,
    best,
    best_of_each,
    by_end,
    by_family,
    by_host,
    finalists,
    forecasts,
    hosts_in_words,
    lr_sensitivity,
    ranked,
    recommended,
    room_for,
    simplest_first,
)
from tests.documents import ACCURACY, LOSS, RUN, changed
from tests.verdict.test_verdict import searched


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


def test_best_counts_finished_finite_trials_only_and_ties_go_to_the_earlier():
    assert best(MIXED, "minimize")["number"] == 1 and best(MIXED, "maximize")["number"] == 0
    assert best(MIXED[MIXED.family == "c"], "minimize") is None
    assert best(MIXED.iloc[:0], "minimize") is None
    tied = table(("a", "complete", 0.3), ("b", "complete", 0.3)).iloc[::-1]
    for direction in ("minimize", "maximize"):
        assert [*ranked(tied, direction)["number"]] == [0, 1]


def test_what_each_host_trained():
    ran = [["b"], ["a"], ["a", "b"], ["a", "c", "a"], [], *[None] * 4]
    finals = pd.DataFrame({"hosts": [["a"], np.array(["c"])]})
    run = changed(RUN, hosts=["a", "b", "idle"])
    hosts = by_host(MIXED.assign(hosts=ran), finals, run)
    counts = {host: tuple(row) for host, *row in hosts.iloc[:, :4].itertuples(index=False)}
    assert counts == {"a": (3, 1, 2), "b": (2, 0, 1), "idle": (0, 0, 0), "c": (1, 1, 1)}
    assert by_host(MIXED, None, RUN).empty and hosts_in_words(RUN) == ""
    loss = LossFacts(host="b", at="2026-12-01T14:02:00+00:00", why="killed", trials=0)
    many = hosts_in_words(changed(run, losses=[loss] * 5))
    assert many == "3 hosts; host b lost at 14:02 (4 losses before)"


def test_the_best_is_who_is_expected_to_be_not_the_luckiest():
    tried = table(("a", "complete", 0.2), ("b", "complete", 0.3), ("c", "complete", 0.35))
    expected = tried.assign(expected=[0.4, 0.32, np.nan])
    assert [*ranked(expected, "minimize")["family"]] == ["b", "c", "a"]
    assert best(expected, "minimize")["value"] == 0.3
    assert [*ranked(expected, "maximize")["family"]] == ["a", "c", "b"]
    assert by_family(expected, "minimize")["best"].tolist() == [0.32, 0.35, 0.4]


def test_tables_by_family_and_by_end_account_for_every_trial():
    families = by_family(MIXED, "minimize").set_index("family")
    assert [*families.index] == [*by_family(MIXED, "maximize")["family"]] == ["a", "b", "c"]
    known = families.loc["a", ["best", "median"]].tolist()
    assert known == pytest.approx([0.3, 0.4])
    assert (families[[*ENDS]].sum(axis=1) == families["trials"]).all()
    assert np.isnan(families.loc["c", "best"]) and families.loc["c", "updates"] == 20
    assert pd.isna(families.loc["c", "number"])
    ends = by_end(MIXED)
    assert [*ends["end"]] == [*ENDS] and ends["trials"].sum() == len(MIXED)
    assert ends["updates"].sum() == MIXED["updates"].sum()


def test_without_a_complete_trial_the_best_forecast_is_recommended():
    assert recommended(MIXED, "minimize")["number"] == 1  # whatever others were forecast
    states = ["plateaued", "pruned"] * 4 + ["diverged"]
    trials = MIXED.assign(value=np.nan, state=states, evidence="{}")
    assert recommended(trials, "minimize") is None
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
    for curves in ({}, {"val_y": []}, {"val_x": [0.3]}):
        assert np.isnan(beside(pd.Series({"value": 0.3, **curves}), "y"))


# Who comes to the finals.


def believed(family, *rows):
    """Trials of a family by state, value, the final value expected, and the chance to be best."""
    trials = searched({0.1 * (n + 1): value for n, (_, value, *_) in enumerate(rows)}, family)
    states, _, expected, chances = zip(*rows, strict=True)
    return trials.assign(state=states, expected=expected, p_best=chances)


def invited(*tables, objective=LOSS):
    trials = pd.concat(tables, ignore_index=True)
    return finalists(trials.assign(number=range(len(trials))), objective)


def test_a_family_sends_the_schedule_of_which_most_is_expected_not_the_luckiest():
    lucky, solid = ("complete", 0.2, 0.4, 0.1), ("complete", 0.3, 0.3, 0.5)
    forecast = ("pruned", math.nan, 0.25, 0.3)
    one, other = invited(
        believed("linear", lucky, solid, forecast),
        believed("wsd", ("pruned", math.nan, 0.5, 0.0), ("plateaued", math.nan, 0.4, 0.1)),
    )
    assert (one.family, one.searched, one.trial, one.role) == ("linear", 0.3, 1, "leader")
    assert one.schedule.peak_lr == 0.2
    assert (other.family, other.trial) == ("wsd", 4) and math.isnan(other.searched)
    (upwards,) = invited(believed("linear", lucky, solid), objective=ACCURACY)
    assert upwards.searched == 0.2


def test_families_come_by_their_chance_two_at_least_and_no_more_than_a_few():
    def of(**chances):
        rows = {family: ("complete", 0.3, 0.3, chance) for family, chance in chances.items()}
        return [one.family for one in invited(*(believed(f, row) for f, row in rows.items()))]

    assert of(constant=0.001, linear=0.01, wsd=0.03, rex=0.5, step=0.019) == ["rex", "wsd"]
    assert set(of(constant=0.001, linear=0.01, step=0.019)) == {"step", "linear"}
    names = ("wsd", "rex", "step", "linear", "cosine", "spline", "tanh", "polynomial")
    many = of(**{name: 0.2 - 0.02 * place for place, name in enumerate(names)})
    assert many == list(names[:MOST])
    for trainings, yours, room in ((4, 0, 2), (4, 1, 3), (28, 0, 4), (28, 1, 4), (40, 2, 6)):
        assert room_for(trainings, yours) == room


def test_the_simplest_of_those_expected_to_be_as_good_comes_first():
    everyone = [
        Finalist(family="tanh", schedule=Schedule("tanh", 0.1, warmup=0.1, knobs={"ub": 4.0})),
        Finalist(family="wsd", schedule=Schedule("wsd", 0.1)),
        Finalist(family="cosine", schedule=Schedule("cosine", 0.1)),
    ]
    for expected, first in (
        ((0.0, 0.2, 0.2), "cosine"),  # fewer knobs than wsd
        ((0.0, 0.2, 0.4), "wsd"),
        ((0.0, 0.3, 0.3), "tanh"),
        ((0.4, 0.3, 0.0), "cosine"),
    ):
        pick, *others = (one.family for one in simplest_first(everyone, np.array(expected)))
        assert pick == first
        assert others == [one.family for one in everyone if one.family != first]


def test_who_diverged_sends_none_and_who_is_not_known_counts_by_its_value():
    lost = believed("wsd", ("diverged", math.nan, 2.0, 0.4), ("failed", math.nan, 2.0, 0.0))
    assert invited(lost) == []
    rows = [("complete", value, math.nan, math.nan) for value in (0.3, 0.2)]
    found = invited(lost, believed("linear", *rows), believed("rex", rows[0]))
    assert [(one.family, one.searched) for one in found] == [("linear", 0.2), ("rex", 0.3)]
    assert finalists(searched({}).reindex(columns=[*searched({0.1: 0.1}), "p_best"]), LOSS) == []


def test_how_far_the_peak_may_be_off():
    def of(values):
        return lr_sensitivity(searched(values), "cosine", LOSS, effect)

    peaks = np.geomspace(0.01, 1.0, 9)
    parabola = {float(p): 0.2 * math.exp(0.5 * math.log(p / 0.1) ** 2) for p in peaks}
    effect = 0.2 * (math.exp(0.5 * math.log(3) ** 2) - 1)  # at a factor of three, by construction
    found = of(parabola | {2.0: math.nan, 0.001: math.nan})
    assert found.peak_lr == pytest.approx(0.1, rel=1e-3)
    assert found.factor == pytest.approx(3.0, rel=1e-3)
    assert 1 < found.factor_low <= found.factor
    few = of(dict(list(parabola.items())[:4]))
    assert math.isnan(few.factor) and "too few" in few.why
    assert "no optimum" in of({float(p): 0.2 + 0.1 * math.log(p / 0.005) for p in peaks}).why
    assert "about the same" in of({0.1 + i * 1e-4: 0.2 for i in range(8)}).why
