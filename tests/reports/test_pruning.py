"""What early stopping saved, and how often it was wrong."""

import json
import math

import pandas as pd
import pytest

from lrtune.reports.sections import early_stopping, spared
from lrtune.verdict.summary import figures_in

HORIZON = 100
FORECAST = {"final": 0.5, "low": 0.3, "high": 0.7, "probability": 0.01}


def row(state, updates, value=math.nan, audit=None):
    evidence = json.dumps(FORECAST if state == "pruned" else {})
    audit = None if audit is None else json.dumps(audit)
    found = {"state": state, "updates": updates, "value": value}
    return found | {"evidence": evidence, "audit": audit}


def made(*rows):
    frame = pd.DataFrame(rows) if rows else pd.DataFrame([row("complete", 0)]).iloc[:0]
    return frame.assign(number=range(len(frame)))


def audited(value, best, state="complete"):
    audit = {"update": 40, "reason": "why", **FORECAST, "best": best}
    return row(state, HORIZON if state == "complete" else 60, value, audit)


def test_what_was_saved_is_counted_from_where_each_trial_ended():
    trials = made(row("complete", 100, 0.3), row("pruned", 30), row("plateaued", 60))
    trials = pd.concat([trials, made(row("diverged", 10), row("failed", 5))], ignore_index=True)
    # 70, 40 and 90 were saved; 205 were spent, of which the failed trial's 5.
    assert spared(trials, HORIZON) == (
        "3 of 5 trials ended early: 1 pruned as unlikely to win, 1 plateaued, 1 diverged. "
        "That saved 200 of 405 updates (49 %)."
    )
    for rows in ((), (row("complete", 100, 0.3),), (row("failed", 0),)):
        assert early_stopping(made(*rows), "minimize", HORIZON) == "No trial was ended early."


@pytest.mark.parametrize(
    ("direction", "value", "best", "state", "wrong"),
    [
        ("minimize", 0.1, 0.2, "complete", 1),
        ("minimize", 0.3, 0.2, "complete", 0),
        ("minimize", 0.2, 0.2, "complete", 0),
        ("minimize", -0.1, 0.0, "complete", 1),
        ("maximize", 0.9, 0.6, "complete", 1),
        ("maximize", -0.6, -0.3, "complete", 0),
        ("maximize", math.inf, 0.2, "complete", 0),
        ("minimize", math.nan, 0.2, "diverged", 0),
        ("minimize", math.nan, 0.2, "failed", None),
        ("minimize", 0.1, None, "complete", None),  # a pruner that names no best
    ],
)
def test_a_pruner_is_wrong_where_the_checked_trial_beats_the_best_then(
    direction, value, best, state, wrong
):
    trials = made(row("pruned", 30), audited(value, best, state))
    said = early_stopping(trials, direction, HORIZON)
    check = f"As a check, 1 of 2 trials to be pruned was trained to the end: {wrong} would have"
    unknown = "How often that was wrong for 2 trials to be pruned is not known."
    assert (unknown if wrong is None else check) in said


@pytest.mark.parametrize("cell", [None, math.nan, "", "{", "[1]", "null", 3])
def test_a_cell_without_figures(cell):
    assert figures_in(cell) == {}
    trials = made(row("pruned", 30), row("complete", 100, 0.3)).assign(evidence=cell, audit=cell)
    assert "pruned as unlikely to win" in early_stopping(trials, "minimize", HORIZON)
