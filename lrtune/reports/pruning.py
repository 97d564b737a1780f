"""Pruning in numbers: which trials were stopped early, what that saved, how often it was wrong.

Columns of `trials` that this reads beside the usual ones: `evidence` (JSON: of a trial that was
pruned or has plateaued, the figures of its forecast) and `audit` (JSON or None: the same of a trial
that was to be pruned and was trained to the end as a check, with `update` and `reason`).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy.stats import beta

from lrtune.format import NARROW, count, number, plural
from lrtune.reports.answer import Run, nothing
from lrtune.reports.blocks import Block, Cell, Heading, Section, Table, Text, drawn
from lrtune.reports.palette import ENDS_LOOK
from lrtune.reports.plot_style import blank
from lrtune.verdict.settings import StoppingFacts
from lrtune.verdict.summary import figures_in, forecasts, ranked

# The rules that end a trial before its horizon: a trial's state, and what to say of it.
RULES = {
    "pruned": "pruned as unlikely to win",
    "plateaued": "plateaued",
    "diverged": "diverged",
}
SURE = 0.95
AUDITS = ("number", "cost", "best", "value", "gain", "wrong")
SHOWN = 40  # rows of the table
NOTE = (
    "Forecast: what a trial would have ended with, and the range that holds it with "
    f"90{NARROW}% probability; the best final value of that time, which it had to beat, and the "
    "chance of that. Reached: by a trial that went on as a check."
)
NONE = "No trial was ended early."
FEW = 20  # audited trials, below which their share says little
BINS = 40  # of the figure, over the horizon


def stopping(trials: pd.DataFrame, run: Run) -> Section:
    """What ended early, why, what that saved, and how often it was wrong."""
    title = "Early stopping"
    if trials.empty:
        return Section("stopping", title, nothing(trials), [Text(nothing(trials))])
    caption = "How many trials ended early, by the update at which they ended."
    said = spared(trials, run.horizon) or NONE
    blocks: list[Block] = [Text(" ".join([said, *_checks(trials, run)]))]
    if said != NONE:
        blocks.append(drawn("lengths", trial_lengths(trials, run.horizon), caption, NONE))
    blocks += _table(trials, run)
    return Section("stopping", title, said, blocks)


def in_words(stopping: StoppingFacts, validations: int) -> str:
    """The rules of early stopping, as the record says them.

    Example:
        >>> off = StoppingFacts(pruner="none", epsilon=None, patience=0, min_delta=0.002, audit=0)
        >>> in_words(off, 20)
        'no pruner; no trial plateaus'
    """
    parts = [_pruner(stopping)]
    if stopping.patience:
        parts.append(
            f"a trial plateaus after {stopping.patience} of {validations} validations without a "
            f"gain of {_percent(stopping.min_delta)}"
        )
    else:
        parts.append("no trial plateaus")
    if stopping.pruner not in NEVER:
        share = stopping.audit
        parts.append(f"{_percent(share)} of what it would prune goes on as a check")
    return "; ".join(parts)


NEVER = ("none", "NopPruner")  # pruners that prune nothing


def _pruner(stopping: StoppingFacts) -> str:
    name = stopping.pruner
    if name in NEVER:
        return "no pruner"
    if name != "schedule":
        return f"pruner {name}"
    return f"pruner schedule, which ends what wins with less than {_percent(stopping.epsilon)}"


def _checks(trials: pd.DataFrame, run: Run) -> list[str]:
    """What the trials say that were to be pruned and were trained to the end."""
    found = audits(trials, run.objective.direction)
    to_be_pruned = int((trials["state"] == "pruned").sum() + is_audited(trials).sum())
    if to_be_pruned == 0:
        return []
    those = plural(to_be_pruned, "trial that was", "trials that were") + " to be pruned"
    if found.empty:
        return [
            f"Of {those}, none has been trained to the end as a check, so how often the pruner was "
            "wrong is not known."
        ]
    wrong, checked = int(found["wrong"].sum()), len(found)
    cost = found["cost"].sum()
    were = "was" if checked == 1 else "were"
    sentence = (
        f"As a check, {checked} of {those} {were} trained to the end, for {count(cost)} updates: "
        f"{_wrong(found)}."
    )
    bound = f"at most {_percent(at_most(wrong, checked), 2)} of the prunings were wrong"
    few = "That is few: with" if checked < FEW else "With"
    return [sentence, f"{few} 95{NARROW}% confidence, {bound}."]


def _wrong(found: pd.DataFrame) -> str:
    """How many of the checked trials would have been the best so far, and by how much."""
    wrong, checked = found[found["wrong"]], len(found)
    who = "it" if checked == 1 else "none of them" if wrong.empty else f"{len(wrong)} of them"
    if wrong.empty:
        return f"{who} would {'not ' if checked == 1 else ''}have been the best so far"
    gains = wrong["gain"].dropna()
    by = f", by {_percent(gains.max(), 2)}" if len(gains) else ""
    most = " at most" if len(gains) > 1 else ""
    return f"{who} would have been the best so far{by}{most}"


def _percent(share: float, digits: int = 3) -> str:
    """A share as a percentage; what is too small to matter as less than that."""
    percent = 100 * share
    if 0 < percent < 0.01:
        return f"under 0.01{NARROW}%"
    return f"{number(percent, digits)}{NARROW}%"


def _table(trials: pd.DataFrame, run: Run) -> list[Block]:
    """The first trials that were audited or ended early, those audited on top."""
    checked = trials[is_audited(trials)].sort_values("number")
    early = ended_early(trials).sort_values("number")
    listed = pd.concat([checked, early[~early["number"].isin(checked["number"])]])
    if listed.empty:
        return []
    facts = audits(trials, run.objective.direction).set_index("number")
    shown, left = listed.head(SHOWN), len(listed) - SHOWN
    rows = [_row(trial, run.horizon, facts) for trial in shown.to_dict("records")]
    forecast = (np.isfinite(forecasts(listed)) | is_audited(listed)).any()
    note = [Text(NOTE)] if forecast else []
    more = [Text(f"and {count(left)} more in trials.parquet")] if left > 0 else []
    heads = ["trial", "family", "ended", "after", "forecast", "to beat", "chance", "reached", "why"]
    table = Table(heads, rows, style="sortable why", numeric=3, until=8)
    return [Heading("Which trials, and why"), *note, table, *more]


def _row(trial: Mapping[Any, Any], horizon: int, facts: pd.DataFrame) -> list[object]:
    done, audit = int(trial["updates"]), figures_in(trial.get("audit"))
    found = audit or figures_in(trial.get("evidence"))
    ends = sorted(found[name] for name in ("low", "high") if found.get(name) is not None)
    chance = found.get("probability")
    return [
        trial["number"],
        trial["family"],
        f"{trial['state']}, checked" if audit else trial["state"],
        Cell(f"{count(done)} ({100 * done / horizon:.0f}{NARROW}%)", done),
        Cell(
            number(found.get("final"), 3),
            found.get("final"),
            below=" to ".join(number(end, 3) for end in ends),
        ),
        Cell(number(found.get("best"), 3), found.get("best")),
        Cell("–" if chance is None else _percent(chance, 2), chance),
        _outcome(trial, facts) if audit else "–",
        str(found.get("reason") or trial["reason"] or RULES.get(trial["state"], "–")),
    ]


def _outcome(trial: Mapping[Any, Any], facts: pd.DataFrame) -> Cell:
    """What an audited trial ended with, and whether pruning it would have been right."""
    if trial["number"] not in facts.index:
        return Cell("–")
    fact = facts.loc[trial["number"]]
    right = "wrong to prune" if fact["wrong"] else "right to prune"
    return Cell(number(fact["value"], 3), fact["value"], below=right)


def ended_early(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials that a rule ended."""
    return trials[trials["state"].isin(RULES)]


def is_audited(trials: pd.DataFrame) -> "pd.Series[bool]":
    """Which trials were to be pruned and were trained to the end as a check."""
    if "audit" not in trials:
        return pd.Series(False, index=trials.index)
    return trials["audit"].map(lambda cell: bool(figures_in(cell))).astype(bool)


def spared(trials: pd.DataFrame, horizon: int) -> str:
    """What early stopping saved, as a sentence or two; empty where it ended no trial.

    A trial that failed would have cost what it did.

    Example:
        >>> rows = {"state": ["complete", "diverged"], "updates": [100, 40]}
        >>> spared(pd.DataFrame(rows), 100)
        '1 of 2 trials ended early: 1 diverged. That saved 60 of 200 updates (30 %).'
    """
    early = ended_early(trials)
    if early.empty:
        return ""
    counts = early["state"].value_counts()
    rules = ", ".join(f"{counts[end]} {said}" for end, said in RULES.items() if end in counts)
    saved = int((horizon - early["updates"]).clip(lower=0).sum())
    whole = saved + int(trials["updates"].sum())
    return (
        f"{len(early)} of {plural(len(trials), 'trial', 'trials')} ended early: {rules}. "
        f"That saved {saved:,} of {whole:,} updates ({100 * saved / max(whole, 1):.0f} %)."
    )


def audits(trials: pd.DataFrame, direction: str) -> pd.DataFrame:
    """One row for each audited trial that has ended with an answer, in the order of `number`.

    Returns:
        Columns AUDITS: `cost`, the updates after it was to be pruned, `best` final value at that
        time, its own final `value`, `gain` (how far that is better, as a share of `best`, else
        negative; NaN where `best` is 0 or there was none), and whether pruning it would have
        been `wrong`. A trial that diverged would have been pruned rightly; one that failed says
        nothing and is left out.
    """
    rows = []
    counted = is_audited(trials) & (trials["state"] != "failed")
    for _, trial in trials[counted].sort_values("number").iterrows():
        found = figures_in(trial["audit"])
        best, value = _best_then(found, trial, trials, direction), _value(trial)
        ahead = best - value if direction == "minimize" else value - best
        gain = ahead / abs(best) if best else float("nan")
        wrong = ahead > 0 or (np.isnan(best) and np.isfinite(value))
        cost = trial["updates"] - (found.get("update") or 0)
        rows.append((trial["number"], cost, best, value, gain, bool(wrong)))
    return pd.DataFrame(rows, columns=list(AUDITS))


def _value(trial: "pd.Series[Any]") -> float:
    counts = trial["state"] == "complete" and np.isfinite(trial["value"])
    return float(trial["value"]) if counts else float("nan")


def _best_then(
    found: Mapping[str, Any], trial: "pd.Series[Any]", trials: pd.DataFrame, direction: str
) -> float:
    """The best final value as the pruner saw it; of one that does not say, of earlier trials."""
    if found.get("best") is not None:
        return float(found["best"])
    before = ranked(trials[trials["number"] < trial["number"]], direction)["value"]
    return float(before.min() if direction == "minimize" else before.max())


def at_most(wrong: int, checked: int) -> float:
    """The upper bound of a share that was `wrong` of `checked`: Clopper and Pearson's, 95 %.

    Example:
        >>> round(at_most(0, 10), 2)
        0.26
    """
    if wrong >= checked:
        return 1.0
    return float(beta.ppf(SURE, wrong + 1, checked - wrong))


def trial_lengths(trials: pd.DataFrame, horizon: int) -> go.Figure:
    """A histogram of the updates after which trials ended early, stacked by how they ended.

    Without traces where none did.
    """
    figure = blank()
    for state, own in ended_early(trials).groupby("state")["updates"]:
        figure.add_histogram(
            x=own.tolist(),
            xbins={"start": 0, "end": 1.01 * horizon, "size": horizon / BINS},
            name=str(state),
            marker=ENDS_LOOK[str(state)],
            hovertemplate=f"%{{y}} {state}, after %{{x}} updates<extra></extra>",
        )
    figure.update_xaxes(title_text="updates", range=[0, horizon], tickformat=",d")
    figure.update_yaxes(title_text="trials that ended early")
    return figure.update_layout(barmode="stack", height=280, showlegend=True)
