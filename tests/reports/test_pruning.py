import html
import json
import math
import re

import numpy as np
import pandas as pd
import pytest

from lrtune.format import NARROW
from lrtune.reports import pruning
from lrtune.reports.blocks import render
from lrtune.reports.palette import ENDS_LOOK
from lrtune.reports.pruning import (
    SHOWN,
    at_most,
    audits,
    in_words,
    spared,
    trial_lengths,
)
from lrtune.verdict.settings import Objective, StoppingFacts
from lrtune.verdict.summary import figures_in
from tests.documents import RUN, changed

HORIZON = 100
LOSS = Objective(name="loss", direction="minimize")
SCORE = Objective(name="score", direction="maximize")
FORECAST = {"final": 0.5, "low": 0.3, "high": 0.7, "best": 0.2, "probability": 0.01}
FORECAST |= {"threshold": 0.2, "ahead": {"fall": 1.0}, "trials": 9}


def row(state, updates, value=math.nan, *, evidence=None, audit=None, **more):
    return {
        "state": state,
        "updates": updates,
        "value": value,
        "reason": {"plateaued": "no better"}.get(state, ""),
        "evidence": json.dumps(evidence or {}),
        "audit": None if audit is None else json.dumps(audit),
        "seconds": 1.0,
        "peak_lr": 0.1,
        "family": "cosine",
        **more,
    }


def made(*rows):
    empty = row("complete", 0)
    frame = pd.DataFrame(rows) if rows else pd.DataFrame([empty]).iloc[:0]
    return frame.assign(number=range(len(frame)))


def audited(value, best, update=40, state="complete", **more):
    audit = {"update": update, "reason": "why", **FORECAST, "best": best}
    return row(state, HORIZON if state == "complete" else 60, value, audit=audit, **more)


def pruned(updates=30, **more):
    return row("pruned", updates, evidence=FORECAST, **more)


def section_of(trials, objective=LOSS):
    """(HTML without the figure, words) of the report's section."""
    section = pruning.stopping(trials, changed(RUN, objective=objective, horizon=HORIZON))
    page = render("section.html", section=section)
    page = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    words = " ".join(html.unescape(re.sub(r"<[^>]+>", "", page.replace("<td", " <td"))).split())
    words = words.replace(NARROW, " ")
    assert page.startswith('<section id="stopping"')
    assert not {"nan", "inf"} & {*re.findall(r"[\w]+", words)}
    return page, words


def test_what_was_saved_is_counted_from_where_each_trial_ended():
    trials = made(row("complete", 100, 0.3), pruned(30), row("plateaued", 60))
    trials = pd.concat([trials, made(row("diverged", 10), row("failed", 5))], ignore_index=True)
    # 70, 40 and 90 were saved; 205 were spent, of which the failed trial's 5.
    assert spared(trials, HORIZON) == (
        "3 of 5 trials ended early: 1 pruned as unlikely to win, 1 plateaued, 1 diverged. "
        "That saved 200 of 405 updates (49 %)."
    )


@pytest.mark.parametrize(
    "trials", [made(), made(row("complete", 100, 0.3)), made(row("failed", 0))]
)
def test_nothing_ended_early(trials):
    assert spared(trials, HORIZON) == ""
    assert not trial_lengths(trials, HORIZON).data
    assert audits(trials, "minimize").empty


@pytest.mark.parametrize(
    ("objective", "value", "best", "wrong", "gain"),
    [
        (LOSS, 0.1, 0.2, True, 0.5),
        (LOSS, 0.3, 0.2, False, -0.5),
        (LOSS, 0.2, 0.2, False, 0.0),
        (LOSS, -0.3, -0.2, True, 0.5),
        (LOSS, -0.1, 0.0, True, math.nan),
        (SCORE, 0.9, 0.6, True, 0.5),
        (SCORE, 0.3, 0.6, False, -0.5),
        (SCORE, -0.3, -0.6, True, 0.5),
        (LOSS, math.nan, 0.2, False, math.nan),
        (SCORE, math.inf, 0.2, False, math.nan),
    ],
)
def test_a_pruner_is_wrong_where_the_checked_trial_beats_the_best_then(
    objective, value, best, wrong, gain
):
    found = audits(made(audited(value, best)), objective.direction)
    assert found["wrong"].tolist() == [wrong]
    assert found["gain"].tolist() == pytest.approx([gain], nan_ok=True)
    assert found["cost"].tolist() == [60]


def test_a_checked_trial_that_diverged_counts_and_one_that_failed_does_not():
    trials = made(audited(math.nan, 0.2, state="diverged"), audited(math.nan, 0.2, state="failed"))
    found = audits(trials, "minimize")
    assert found["number"].tolist() == [0] and not found["wrong"].any()
    words = section_of(trials)[1]
    assert words.count("right to prune") == 1 and "wrong to prune" not in words


@pytest.mark.parametrize(("direction", "wrong"), [("minimize", True), ("maximize", False)])
def test_a_pruner_that_names_no_best_is_held_against_earlier_trials(direction, wrong):
    other = row("complete", 100, 0.3, audit={"update": 40, "reason": "by MedianPruner"})
    trials = made(row("complete", 100, 0.4), other, row("complete", 100, 0.1))
    assert audits(trials, direction)["wrong"].tolist() == [wrong]
    alone = audits(made(other), direction)
    assert alone["wrong"].tolist() == [True] and np.isnan(alone["gain"]).all()


@pytest.mark.parametrize(
    ("wrong", "checked", "bound"), [(0, 1, 0.95), (0, 3, 0.632), (1, 10, 0.394), (2, 2, 1.0)]
)
def test_the_bound_is_clopper_and_pearsons(wrong, checked, bound):
    assert at_most(wrong, checked) == pytest.approx(bound, abs=5e-4)


@pytest.mark.parametrize("cell", [None, math.nan, "", "{", "[1]", "null", 3])
def test_a_cell_without_figures(cell):
    assert figures_in(cell) == {}
    trials = made(pruned(), row("complete", 100, 0.3)).assign(evidence=cell, audit=cell)
    assert "pruned as unlikely to win" in section_of(trials)[1]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "No trial has ended yet."),
        (
            [row("complete", 100, 0.3)],
            "Early stopping No trial was ended early No trial was ended early.",
        ),
        ([pruned()], "1 of 1 trial ended early: 1 pruned as unlikely to win. That saved 70 of 100"),
        ([pruned()] * 5, "Of 5 trials that were to be pruned, none has been trained to the end"),
        ([pruned()] * 5, "how often the pruner was wrong is not known"),
        (
            [pruned(), audited(0.3, 0.2)],
            "1 of 2 trials that were to be pruned was trained to the end, for 60 updates: it would "
            "not have been the best so far. That is few: with 95 % confidence, at most 95 %",
        ),
        ([pruned(), audited(0.1, 0.2)], "it would have been the best so far, by 50 %. That is few"),
        (
            [audited(0.3, 0.2), audited(0.1, 0.2), audited(0.15, 0.2)],
            "2 of them would have been the best so far, by 50 % at most.",
        ),
        ([audited(0.3, 0.2)] * 30, "none of them would have been the best so far. With 95 %"),
        ([audited(-0.1, 0.0)], "it would have been the best so far. That is few"),
        ([row("plateaued", 60)], "1 plateaued. That saved 40"),
        ([row("plateaued", 60)], "0 cosine plateaued 60 (60 %) – – – – no better"),
        (
            [row("plateaued", 60, evidence=FORECAST | {"probability": 0.2})],
            "0 cosine plateaued 60 (60 %) 0.50.3 to 0.7 0.2 20 % – no better",
        ),
    ],
)
def test_the_section_says(rows, said):
    assert said in section_of(made(*rows))[1]


@pytest.mark.parametrize("objective", [LOSS, SCORE])
def test_the_table_says_why(objective):
    sides = {"low": 0.3, "high": 0.7} if objective is LOSS else {"low": 0.7, "high": 0.3}
    trial = row("pruned", 30, evidence=FORECAST | sides)
    words = section_of(made(trial), objective)[1]
    assert "0 cosine pruned 30 (30 %) 0.50.3 to 0.7 0.2 1 % –" in words
    checked = section_of(made(audited(0.1, 0.2), audited(0.3, 0.2)))[1]
    assert "0.1wrong to prune" in checked and "0.3right to prune" in checked


def test_forecasts_without_finite_figures():
    broken = dict.fromkeys(("final", "low", "high", "best", "probability"))
    section_of(made(row("pruned", 30, evidence=broken), audited(0.3, None)))
    section_of(made(row("pruned", 30, evidence=FORECAST | {"low": None, "probability": None})))


@pytest.mark.parametrize("many", [SHOWN, SHOWN + 10])
def test_long_tables_are_cut(many):
    page, words = section_of(made(*[pruned()] * many))
    assert page.count("<tr>") - page.count("<thead>") == SHOWN
    assert ("10 more in trials.parquet" in words) == (many > SHOWN)


def test_the_figure_counts_the_trials_that_ended_early():
    trials = made(
        row("complete", 100, 0.3),
        pruned(30, family="wsd"),
        pruned(50),
        row("plateaued", 60),
        row("diverged", 10, family="step"),
        row("failed", 5),
    )
    figure = trial_lengths(trials, HORIZON)
    counted = {trace.name: [*trace.x] for trace in figure.data}
    assert counted == {"pruned": [30, 50], "plateaued": [60], "diverged": [10]}
    assert figure.layout.barmode == "stack"


RULES = StoppingFacts(pruner="schedule", epsilon=0.2, patience=4, min_delta=0.002, audit=0.03)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {},
            "pruner schedule, which ends what wins with less than 20 %; a trial plateaus after 4 "
            "of 20 validations without a gain of 0.2 %; 3 % of what it would prune goes on as a "
            "check",
        ),
        ({"pruner": "none", "patience": 0}, "no pruner; no trial plateaus"),
        ({"pruner": "halving", "patience": 0}, "pruner halving; no trial plateaus; 3 % of"),
        ({"audit": 0.0}, "; 0 % of what it would prune"),
    ],
)
def test_the_rules_in_words(change, said):
    words = in_words(changed(RULES, **change), 20).replace(NARROW, " ")
    assert words.startswith(said) or (said.startswith(";") and said in words)


def test_every_state_that_ends_early_has_words_and_a_shade():
    assert {*pruning.RULES} < {*ENDS_LOOK}
