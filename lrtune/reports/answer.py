"""The sentences of the report: what to use, or why there is nothing to use."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lrtune.format import count, number, plural
from lrtune.verdict.recommendation import recommendation
from lrtune.verdict.summary import PARTIAL, by_end
from lrtune.verdict.verdict import Verdict
from lrtune.verdict.wording import since

Run = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a run says, in words."""

    use: str  # what to use, or that there is no winner
    lines: list[tuple[str, str]]  # labels and what is said of each: gain, sure, valid, cost, use it
    warnings: tuple[str, ...]  # sentences, the gravest first
    notes: list[str]  # what to do next


def answer(trials: pd.DataFrame, run: Run, verdict: Verdict | None = None) -> Answer:
    """The answer: its lines and its warnings; or why there is none."""
    found = recommendation(trials, run, verdict)
    if found is None:
        way_out = _way_out(trials, run)
        return Answer(f"No winner. {nothing(trials)}", [], (), [way_out] if way_out else [])
    (_, use), *lines = found.lines
    newer = "" if verdict is None else since(verdict, len(trials))
    return Answer(use, lines, found.warnings, [newer] if newer else [])


def nothing(trials: pd.DataFrame) -> str:
    """Why there is no winner and nothing to draw."""
    if trials.empty:
        return "No trial has ended yet."
    ends = by_end(trials)
    how = ", ".join(f"{n} {end}" for end, n in zip(ends["end"], ends["trials"], strict=True) if n)
    return f"None of the {plural(len(trials), 'trial', 'trials')} ran to a value: {how}."


def _way_out(trials: pd.DataFrame, run: Run) -> str:
    """What to try when nothing finished."""
    if trials.empty:
        return ""
    ends = trials["state"].value_counts()
    if ends.get("diverged", 0) >= len(trials) / 2:
        low, high = (number(rate, 3) for rate in run["peak_lr"])
        return f"Most trials diverged: search lower peak rates than {low} to {high}."
    where = "Where the budget went"
    if ends.index.isin(PARTIAL).any():
        where += " and Early stopping"
    return f"The reasons are listed under {where}."


def second_metric(run: Run) -> dict[str, Any] | None:
    """The metric to print beside the objective, if the task has another."""
    others = [m for name, m in run["metrics"].items() if name != run["objective"]["name"]]
    return others[0] if others else None


def subtitle(trials: pd.DataFrame, run: Run) -> list[str]:
    """What was searched: the data, the model, the horizon, how much was tried."""
    task = run["task"]
    tried = plural(len(trials), "trial", "trials")
    kinds = plural(trials["family"].nunique(), "family", "families")
    horizon = f"{count(run['horizon'])} updates ({number(run['epochs'], 3)} epochs)"
    return [task["data"], task["model"], horizon, f"{tried} of {kinds}"]
