"""Pruning in numbers: which trials were stopped early, what that saved, how often it was wrong.

Columns of `trials` that this reads beside the usual ones: `evidence` (JSON: of a trial that was
pruned or has plateaued, the figures of its forecast) and `audit` (JSON or None: the same of a trial
that was to be pruned and was trained to the end as a check, with `update` and `reason`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy.stats import beta

from lrtune.format import NARROW, count, number, plural
from lrtune.results.answer import Run, nothing
from lrtune.results.blocks import Block, Cell, Fold, Heading, Section, Table, Text, drawn
from lrtune.results.palette import look
from lrtune.results.plot_style import INK, blank, safe
from lrtune.results.summary import by_family, figures_in, forecasts, ranked
from lrtune.results.wording import forecast_range

# The rules that end a trial before its horizon: a trial's state, and what to say of it.
RULES = {
    "pruned": "pruned as unlikely to win",
    "plateaued": "plateaued",
    "diverged": "diverged",
}
SURE = 0.95
AUDITS = ("number", "cost", "best", "value", "gain", "wrong")
SHOWN, MOST = 40, 400  # rows of the table, at first and at most
NOTE = (
    "Forecast: what a trial would have ended with, and the range that holds it with "
    f"90{NARROW}% probability; beside it the best final value of that time, which it had to beat."
)
FEW = 20  # audited trials, below which their share says little
# A trial's state and its mark; "audited" is where a trial was to be pruned that went on.
MARKS = {
    "complete": "circle",
    "plateaued": "square",
    "pruned": "x",
    "diverged": "triangle-up",
    "failed": "star",
    "audited": "diamond",
}
TALL = 460.0  # pixels for all trials together, where they need no more
ROW, LEAST_ROW = 14.0, 1.5  # pixels a trial, at most and at least
LEGIBLE = 6.0  # pixels of a mark whose shape can be told
NAME, GAP = 16.0, 6.0  # pixels that a family's name needs, and between two families


def stopping(trials: pd.DataFrame, run: Run) -> Section:
    """What ended early, why, what that saved, and how often it was wrong."""
    title = "Early stopping"
    if trials.empty:
        return Section("stopping", title, nothing(trials), [Text(nothing(trials))])
    figure = trial_lengths(trials, run["objective"], run["horizon"])
    caption = (
        "A bar is a trial, over the updates it was trained; a family's trials lie in the order in "
        "which they were tried, the best family on top. The mark says how a trial ended, a diamond "
        "where one was to be pruned that went on as a check."
    )
    said = spared(trials, run["horizon"]) or "No trial was ended early."
    blocks: list[Block] = [Text(" ".join([said, *_checks(trials, run)]))]
    if figure.data:
        blocks += [drawn("ends", figure, caption, nothing(trials)), *_table(trials, run)]
    return Section("stopping", title, said, blocks)


def in_words(stopping: Mapping[str, Any], validations: int) -> str:
    """The rules of early stopping, as the record says them.

    Example:
        >>> off = {"pruner": "none", "patience": 0, "min_delta": 0.002, "audit": 0.03}
        >>> in_words(off, 20)
        'no pruner; no trial plateaus'
    """
    parts = [_pruner(stopping)]
    if stopping["patience"]:
        parts.append(
            f"a trial plateaus after {stopping['patience']} of {validations} validations without a "
            f"gain of {_percent(stopping['min_delta'])}"
        )
    else:
        parts.append("no trial plateaus")
    if stopping["pruner"] not in NEVER:
        share = stopping["audit"]
        parts.append(f"{_percent(share)} of what it would prune goes on as a check")
    return "; ".join(parts)


NEVER = ("none", "NopPruner")  # pruners that prune nothing


def _pruner(stopping: Mapping[str, Any]) -> str:
    name = stopping["pruner"]
    if name in NEVER:
        return "no pruner"
    if name != "schedule":
        return f"pruner {name}"
    return f"pruner schedule, which ends what wins with less than {_percent(stopping['epsilon'])}"


def _checks(trials: pd.DataFrame, run: Run) -> list[str]:
    """What the trials say that were to be pruned and were trained to the end."""
    found = audits(trials, run["objective"]["direction"])
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
    """The trials that ended early or were audited: those first, some shown and the rest folded."""
    checked = trials[is_audited(trials)].sort_values("number")
    early = ended_early(trials).sort_values("number")
    listed = pd.concat([checked, early[~early["number"].isin(checked["number"])]])
    if listed.empty:
        return []
    facts = audits(trials, run["objective"]["direction"]).set_index("number")
    shown = listed.head(MOST)
    rows = [_row(trial, run["horizon"], facts) for trial in shown.to_dict("records")]
    forecast = (np.isfinite(forecasts(listed)) | is_audited(listed)).any()
    note = [Text(NOTE)] if forecast else []
    parts: list[Block] = [Heading("Which trials, and why"), *note, _rows(rows[:SHOWN])]
    if len(rows) > SHOWN:
        more = plural(len(rows) - SHOWN, "more trial", "more trials")
        left = len(listed) - len(rows)
        rest = [Text(f"and {count(left)} more in trials.parquet")] if left else []
        parts.append(Fold(more, [_rows(rows[SHOWN:]), *rest]))
    return parts


def _rows(rows: Sequence[list[object]]) -> Table:
    heads = ["trial", "family", "ended", "after", "why"]
    return Table(heads, rows, style="sortable why", numeric=3, until=4)


def _row(trial: Mapping[Any, Any], horizon: int, facts: pd.DataFrame) -> list[object]:
    done = int(trial["updates"])
    audit = figures_in(trial.get("audit"))
    state = f"{trial['state']}, checked" if audit else trial["state"]
    shown = f"{count(done)} ({100 * done / horizon:.0f}{NARROW}%)"
    why = _audit(audit, trial, facts) if audit else _reason(trial)
    return [trial["number"], trial["family"], state, Cell(shown, done), why]


def _reason(trial: Mapping[Any, Any]) -> str:
    found = figures_in(trial.get("evidence"))
    why = str(trial["reason"] or RULES.get(trial["state"], "–"))
    if found.get("final") is None:
        return why
    return f"{why}; {_forecast(found)}" if trial["state"] == "plateaued" else _forecast(found)


def _forecast(found: Mapping[str, Any]) -> str:
    """A forecast in words: where it would end, what it had to beat, how likely that was."""
    said = f"forecast {number(found['final'], 3)}{forecast_range(found)}"
    if found.get("best") is None or found.get("probability") is None:
        return said
    chance, least = (_percent(found.get(name) or 0.0, 2) for name in ("probability", "threshold"))
    if chance == least and found["probability"] < found["threshold"]:
        chance = f"just under {least}"
    return f"{said}; {chance} chance to beat {number(found['best'], 3)}"


def _audit(audit: Mapping[str, Any], trial: Mapping[Any, Any], facts: pd.DataFrame) -> str:
    """What was forecast of an audited trial, and what it ended with."""
    why = str(audit.get("reason") or "–") if audit.get("final") is None else _forecast(audit)
    after = f"to be pruned after {count(audit['update'])}: " if audit.get("update") else ""
    return f"{after}{why}. {_outcome(trial, facts)}"


def _outcome(trial: Mapping[Any, Any], facts: pd.DataFrame) -> str:
    if trial["number"] not in facts.index:
        return "It failed, which says nothing"
    fact = facts.loc[trial["number"]]
    if pd.isna(fact["value"]):
        return "It diverged: pruning it would have been right"
    ended = f"It ended with {number(fact['value'], 3)}"
    if fact["wrong"]:
        by = "" if pd.isna(fact["gain"]) else f", {_percent(fact['gain'], 2)} better than the best"
        return f"{ended}{by}: pruning it would have been wrong"
    return f"{ended}: pruning it would have been right"


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


def trial_lengths(trials: pd.DataFrame, objective: Mapping[str, Any], horizon: int) -> go.Figure:
    """Every trial as a bar from 0 to the update at which it ended, family by family, best first.

    Without traces where every trial was trained to its end.
    """
    figure = blank()
    if ended_early(trials).empty and not is_audited(trials).any():
        return figure
    order = [str(name) for name in by_family(trials, objective["direction"])["family"]]
    row = min(ROW, max(LEAST_ROW, TALL / len(trials)))
    rows, middles, height = _laid_out(trials, order, row)
    for family in order:
        _bars(figure, rows[rows["family"] == family], family, row)
    for state in MARKS:
        # Bars to the very end speak for themselves: where all are thin, so are their marks.
        least = LEAST_ROW if state == "complete" else LEGIBLE
        _marks(figure, rows, state, min(9.0, max(least, row)))
    figure.update_xaxes(title_text="updates", range=[0, 1.02 * horizon])
    figure.update_yaxes(
        tickvals=middles,
        ticktext=[safe(family) for family in order],
        range=[height, -GAP],
        showgrid=False,
        fixedrange=True,
    )
    figure.update_layout(legend_itemsizing="constant", showlegend=True)
    return figure.update_layout(height=round(height) + 80)


def _laid_out(
    trials: pd.DataFrame, order: list[str], row: float
) -> tuple[pd.DataFrame, list[float], float]:
    """The trials with their `y`, the middle of each family, and the height: all in pixels."""
    y, middles, top = pd.Series(0.0, index=trials.index), [], 0.0
    for family in order:
        own = trials[trials["family"] == family].sort_values("number")
        room = max(NAME, row * len(own))
        first = top + (room - row * len(own) + row) / 2
        y.loc[own.index] = (first + row * np.arange(len(own))).round(2)
        middles.append(round(top + room / 2, 2))
        top += room + GAP
    return trials.assign(y=y), middles, top


def _bars(figure: go.Figure, own: pd.DataFrame, family: str, row: float) -> None:
    x: list[int | None] = []
    y: list[float | None] = []
    for end, height in zip(own["updates"], own["y"], strict=True):
        x += [0, int(end), None]  # one trace for all: a gap after each
        y += [float(height), float(height), None]
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": look(family).colour, "width": max(1.0, 0.4 * row)},
        opacity=0.75,
        name=safe(family),
        hoverinfo="skip",
        showlegend=False,
    )


def _marks(figure: go.Figure, rows: pd.DataFrame, state: str, size: float) -> None:
    own = rows[is_audited(rows)] if state == "audited" else rows[rows["state"] == state]
    if own.empty:
        return
    x, said = own["updates"].tolist(), f"{state} after"
    if state == "audited":
        x = [figures_in(cell).get("update") for cell in own["audit"]]
        said = "went on as a check, to be pruned after"
    named = zip(own["number"], own["family"], strict=True)
    figure.add_scatter(
        x=x,
        y=own["y"].tolist(),
        customdata=[[int(number), safe(family)] for number, family in named],
        mode="markers",
        marker={"color": INK, "symbol": MARKS[state], "size": size},
        name={"audited": "check began"}.get(state, state),
        hovertemplate="%{customdata[1]}, trial %{customdata[0]}<br>"
        f"{said} %{{x:,}} updates<extra></extra>",
    )
