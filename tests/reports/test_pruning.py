"""What early stopping saved, and how often it was wrong."""

import json
import math

import pandas as pd
import pytest

from lrtune.reports.sections import early_stopping, spared, wrongly_pruned
from lrtune.verdict.settings import Objective
from lrtune.verdict.summary import figures_in

HORIZON = 100
LOSS = Objective(name="loss", direction="minimize")
SCORE = Objective(name="score", direction="maximize")
FORECAST = {"final": 0.5, "low": 0.3, "high": 0.7, "best": 0.2, "probability": 0.01}


def row(state, updates, value=math.nan, audit=None):
    return {
        "state": state,
        "updates": updates,
        "value": value,
        "evidence": json.dumps(FORECAST if state == "pruned" else {}),
        "audit": None if audit is None else json.dumps(audit),
    }


def made(*rows):
    frame = pd.DataFrame(rows) if rows else pd.DataFrame([row("complete", 0)]).iloc[:0]
    return frame.assign(number=range(len(frame)))


def audited(value, best, update=40, state="complete"):
    audit = {"update": update, "reason": "why", **FORECAST, "best": best}
    return row(state, HORIZON if state == "complete" else 60, value, audit)


def stated(trials, objective=LOSS):
    return early_stopping(trials, objective.direction, HORIZON)


def test_what_was_saved_is_counted_from_where_each_trial_ended():
    trials = made(row("complete", 100, 0.3), row("pruned", 30), row("plateaued", 60))
    trials = pd.concat([trials, made(row("diverged", 10), row("failed", 5))], ignore_index=True)
    # 70, 40 and 90 were saved; 205 were spent, of which the failed trial's 5.
    assert spared(trials, HORIZON) == (
        "3 of 5 trials ended early: 1 pruned as unlikely to win, 1 plateaued, 1 diverged. "
        "That saved 200 of 405 updates (49 %)."
    )
    for rows in ((), (row("complete", 100, 0.3),), (row("failed", 0),)):
        assert spared(made(*rows), HORIZON) == "" and wrongly_pruned(made(*rows), "minimize").empty


@pytest.mark.parametrize(
    ("objective", "value", "best", "wrong"),
    [
        (LOSS, 0.1, 0.2, True),
        (LOSS, 0.3, 0.2, False),
        (LOSS, 0.2, 0.2, False),
        (LOSS, -0.3, -0.2, True),
        (LOSS, -0.1, 0.0, True),
        (SCORE, 0.9, 0.6, True),
        (SCORE, -0.6, -0.3, False),
        (LOSS, math.nan, 0.2, False),
        (SCORE, math.inf, 0.2, False),
    ],
)
def test_a_pruner_is_wrong_where_the_checked_trial_beats_the_best_then(
    objective, value, best, wrong
):
    found = wrongly_pruned(made(audited(value, best)), objective.direction)
    assert found.tolist() == [wrong]


def test_a_checked_trial_that_diverged_counts_and_one_that_failed_does_not():
    trials = made(audited(math.nan, 0.2, state="diverged"), audited(math.nan, 0.2, state="failed"))
    assert wrongly_pruned(trials, "minimize").tolist() == [False]


@pytest.mark.parametrize(("direction", "wrong"), [("minimize", True), ("maximize", False)])
def test_a_pruner_that_names_no_best_is_held_against_earlier_trials(direction, wrong):
    other = row("complete", 100, 0.3, audit={"update": 40, "reason": "by MedianPruner"})
    trials = made(row("complete", 100, 0.4), other, row("complete", 100, 0.1))
    assert wrongly_pruned(trials, direction).tolist() == [wrong]
    assert wrongly_pruned(made(other), direction).tolist() == [True]


@pytest.mark.parametrize("cell", [None, math.nan, "", "{", "[1]", "null", 3])
def test_a_cell_without_figures(cell):
    assert figures_in(cell) == {}
    trials = made(row("pruned", 30), row("complete", 100, 0.3)).assign(evidence=cell, audit=cell)
    assert "pruned as unlikely to win" in stated(trials)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([row("complete", 100, 0.3)], "No trial was ended early."),
        ([row("pruned", 30)] * 5, "Of 5 trials to be pruned, none was trained to the end"),
        ([row("pruned", 30), audited(0.3, 0.2)], "1 of 2 trials to be pruned was trained to the"),
        ([row("pruned", 30), audited(0.3, 0.2)], "0 would have been the best so far"),
        ([audited(0.1, 0.2), audited(0.15, 0.2)], "2 would have been the best so far."),
        ([audited(-0.1, 0.0)], "1 would have been the best so far."),
    ],
)
def test_it_says_how_often_it_was_wrong(rows, text):
    assert text in stated(made(*rows))
