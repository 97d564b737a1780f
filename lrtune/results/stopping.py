"""The section of the report on early stopping: what it saved, and what the checks say of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lrtune.format import NARROW, count, number, plural
from lrtune.results.blocks import Block, Cell, Fold, Heading, Section, Table, Text, drawn
from lrtune.results.early import RULES, at_most, audits, ended_early, is_audited, spared
from lrtune.results.ends import ends
from lrtune.results.prose import Run, nothing
from lrtune.results.summary import figures_in, forecasts
from lrtune.results.wording import forecast_range

SHOWN, MOST = 40, 400  # rows of the table, at first and at most
NOTE = (
    "Forecast: what a trial would have ended with, and the range that holds it with "
    f"90{NARROW}% probability; beside it the best final value of that time, which it had to beat."
)
FEW = 20  # audited trials, below which their share says little


def stopping(trials: pd.DataFrame, run: Run) -> Section:
    """What ended early, why, what that saved, and how often it was wrong."""
    title = "Early stopping"
    if trials.empty:
        return Section("stopping", title, nothing(trials), [Text(nothing(trials))])
    figure = ends(trials, run["objective"], run["horizon"])
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
