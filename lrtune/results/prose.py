"""The sentences of the report: who won, by how much, and how far to trust it."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lrtune.results.markup import (
    Markup,
    count,
    join,
    number,
    plural,
    tag,
    text,
)
from lrtune.results.notes import Verdict
from lrtune.results.recommendation import recommendation
from lrtune.results.summary import (
    PARTIAL,
    by_end,
)
from lrtune.results.wording import since

Run = Mapping[str, Any]
Metric = Mapping[str, Any]
Row = Mapping[str, Any]  # of a verdict's families


def headline(trials: pd.DataFrame, run: Run, verdict: Verdict | None = None) -> Markup:
    """The answer: its lines and its warnings; or why there is none."""
    found = recommendation(trials, run, verdict)
    if found is None:
        no_winner = tag("p", "No winner. ", nothing(trials), css="answer")
        return join([no_winner, tag("p", _way_out(trials, run))])
    (_, use), *others = found.lines
    lines = [join([tag("dt", label), tag("dd", said)]) for label, said in others]
    warnings = [tag("li", warning) for warning in found.warnings]
    newer = "" if verdict is None else since(verdict, len(trials))
    return join(
        [
            tag("p", use, css="answer"),
            tag("dl", *lines, css="lines"),
            tag("ul", *warnings, css="warnings") if warnings else Markup(""),
            tag("p", newer, css="caveat") if newer else Markup(""),
        ]
    )


def nothing(trials: pd.DataFrame) -> Markup:
    """Why there is no winner and nothing to draw."""
    if trials.empty:
        return Markup("No trial has ended yet.")
    ends = by_end(trials)
    how = ", ".join(f"{n} {end}" for end, n in zip(ends["end"], ends["trials"], strict=True) if n)
    return Markup(f"None of the {plural(len(trials), 'trial', 'trials')} ran to a value: {how}.")


def _way_out(trials: pd.DataFrame, run: Run) -> Markup:
    """What to try when nothing finished."""
    if trials.empty:
        return Markup("")
    ends = trials["state"].value_counts()
    if ends.get("diverged", 0) >= len(trials) / 2:
        low, high = (number(rate, 3) for rate in run["peak_lr"])
        return join(
            [Markup("Most trials diverged: search lower peak rates than "), f"{low} to {high}."]
        )
    where = "<a href='#budget'>where the budget went</a>"
    if ends.index.isin(PARTIAL).any():
        where += " and <a href='#stopping'>early stopping</a>"
    return Markup(f"The reasons are listed under {where}.")


def second_metric(run: Run) -> dict[str, Any] | None:
    """The metric to print beside the objective, if the task has another."""
    others = [m for name, m in run["metrics"].items() if name != run["objective"]["name"]]
    return others[0] if others else None


def subtitle(trials: pd.DataFrame, run: Run) -> Markup:
    """What was searched, on one line."""
    task = run["task"]
    tried = plural(len(trials), "trial", "trials")
    kinds = plural(trials["family"].nunique(), "family", "families")
    horizon = f"{count(run['horizon'])} updates ({number(run['epochs'], 3)} epochs)"
    return join([text(task["data"]), text(task["model"]), horizon, f"{tried} of {kinds}"], " · ")
