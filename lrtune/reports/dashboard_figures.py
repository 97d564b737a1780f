"""What a study carries for optuna-dashboard: a note in Markdown, and a few small figures."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrtune.format import aligned, count, limited, number
from lrtune.reports.answer import Answer, Run, answer, subtitle
from lrtune.reports.figures import against_peak, wins
from lrtune.reports.learning_curves import SHOWN, curves, finals_curves
from lrtune.reports.plot_style import thin
from lrtune.verdict.summary import best_of_each, by_family, ranked
from lrtune.verdict.verdict import FamilyResult, Verdict

LONGEST = 300  # characters of somebody's name: the note is sent at every poll
SENTENCE = 1000  # characters of ours, with theirs in it
WRITTEN = "*lrtune writes this note again with the report. What is below this line stays.*"

_MARKS = re.compile(r"([\\`*_{}\[\]()<>#|~!$&:@])")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_OPEN_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")


def note(trials: pd.DataFrame, run: Run, verdict: Verdict | None, report: str) -> str:
    """The answer in words, the families, and how to get all of it again.

    Args:
        trials: The search's table, one row a trial.
        run: What was searched (run.json), without passwords.
        verdict: What the finals said, if there were any.
        report: Where the report is.
    """
    parts = [
        f"# {plain(run['study'])}",
        " · ".join(plain(part, SENTENCE) for part in subtitle(trials, run)),
        *_answer(answer(trials, run, verdict)),
        "## Families",
        _families(trials, run, verdict),
        "## The command that made it",
        _fenced(run["command"]),
        f"The whole report: {plain(report)}",
        "---",
        WRITTEN,
    ]
    return "\n\n".join(part for part in parts if part)


def beside_theirs(ours: str, there: str) -> str:
    """Our note, and below it what somebody has written into the one that is there."""
    _, mark, below = there.partition(WRITTEN)
    theirs = below if mark else there
    return f"{ours}\n\n{theirs.strip()}" if theirs.strip() else ours


def plain(value: object, longest: int = LONGEST) -> str:
    r"""Any value as Markdown that shows it as it is, cut where it is very long.

    Example:
        >>> print(plain("a_b <i>"))
        a\_b \<i\>
    """
    text = _clean(str(value))
    if len(text) > longest:
        text = f"{text[:longest]}… ({count(len(text))} characters)"
    return _MARKS.sub(r"\\\1", text)


def _clean(text: str) -> str:
    """Text on a line that any storage takes and that turns no other text around."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return _OPEN_BIDI.sub("", _CONTROLS.sub(" ", text))


def _answer(answer: Answer) -> list[str]:
    """Its paragraphs and lists."""
    listed = [f"{label}: {said}" for label, said in answer.lines]
    lists = (
        "\n".join(f"- {plain(said, SENTENCE)}" for said in items)
        for items in (listed, answer.warnings)
    )
    return [plain(answer.use, SENTENCE), *lists, *(plain(said, SENTENCE) for said in answer.notes)]


def _families(trials: pd.DataFrame, run: Run, verdict: Verdict | None) -> str:
    if verdict is not None and verdict.decided:
        heads = ("family", "place", "mean", "95 % interval", "seeds", "peak rate")
        return _table(heads, (_finalist(row) for row in verdict.families))
    table = by_family(trials, run["objective"]["direction"])
    heads = ("family", "best", "median", "trials", "diverged", "peak rate")
    names = ["family", "best", "median", "trials", "diverged", "peak_lr"]
    rows = table[names].itertuples(index=False) if len(table) else ()
    return _table(
        heads,
        ([name, _value(best), _value(median), *rest] for name, best, median, *rest in rows),
    )


def _finalist(row: FamilyResult) -> list[object]:
    reach = "–" if math.isnan(row.low) else f"{_value(row.low)} to {_value(row.high)}"
    mean, peak = _value(row.mean), row.schedule.peak_lr
    return [row.family, row.place, mean, reach, row.seeds, peak]


def _value(value: float) -> str:
    return aligned(value) if value == value else "–"


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [heads, [":--", *["--:"] * (len(heads) - 1)]]
    lines += [[plain(number(cell, 3)) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if len(lines) > 2 else ""


def _fenced(text: str) -> str:
    """Text as a block of code, in a fence that it does not hold itself."""
    text = limited(_clean(text))
    runs = [len(run) for run in re.findall("`+", text)]
    fence = "`" * max(3, *(length + 1 for length in runs), 0)
    return f"{fence}\n{text}\n{fence}"


# The dashboard's page asks for all of them every ten seconds.
TRIALS = 12  # of a family: its best
DIVERGED = 60  # of all families
POINTS = 48  # of a curve
HEIGHT = 440  # of the box in which the dashboard draws
INK = "#7e7e7e"  # as far from white as from the dashboard's dark


def figures(
    trials: pd.DataFrame, run: Run, verdict: Verdict | None, finals: pd.DataFrame
) -> dict[str, go.Figure]:
    """Figures by the names under which the study keeps them; those with nothing to draw left out.

    Args:
        trials: The search's table, one row a trial.
        run: What was searched (run.json).
        verdict: What the finals said, if there were any.
        finals: Those that it is of, one row a training.
    """
    objective = run["objective"]
    few = _few(trials, objective["direction"])
    drawn: dict[str, tuple[str, Callable[[], go.Figure]]] = {
        "lrtune-families": ("The best trials of each family", lambda: wins(few, objective)),
        "lrtune-peaks": ("Score against peak rate", lambda: against_peak(few, objective)),
        "lrtune-curves": (
            "The best trial of each family",
            lambda: curves(_first_families(few, objective), objective, run["horizon"]),
        ),
    }
    if verdict is not None and verdict.decided:
        short = verdict.model_copy(update={"families": verdict.families[:SHOWN]})
        drawn["lrtune-curves"] = ("The finals", lambda: finals_curves(short, finals))
    fitted = {name: _fitted(draw(), title) for name, (title, draw) in drawn.items()}
    return {
        name: figure
        for name, figure in fitted.items()
        if any(len(trace.x or ()) for trace in figure.data)
    }


def _few(trials: pd.DataFrame, direction: str) -> pd.DataFrame:
    """The best trials of each family, and some of those that diverged."""
    best = ranked(trials, direction).groupby("family", sort=False).head(TRIALS)
    lost = trials[trials["state"] == "diverged"].head(DIVERGED)
    return pd.concat([best, lost]).sort_values("number")


def _first_families(trials: pd.DataFrame, objective: Mapping[str, Any]) -> pd.DataFrame:
    first = best_of_each(trials, objective["direction"])["family"].head(SHOWN)
    return trials[trials["family"].isin(first)]


def _fitted(figure: go.Figure, title: str) -> go.Figure:
    """A figure with a title, in the dashboard's box, each curve at few points."""
    for trace in figure.select_traces({"type": "scatter"}):
        if "lines" not in (trace.mode or "") or len(trace.x or ()) <= POINTS:
            continue
        at = thin(np.asarray(trace.y, dtype=float), POINTS)
        trace.update(x=[trace.x[i] for i in at], y=[trace.y[i] for i in at])
    return figure.update_layout(
        title={"text": title, "font": {"size": 16}, "x": 0, "xref": "container", "pad": {"l": 8}},
        font={"color": INK},
        height=HEIGHT,
        margin={"t": 48},
        updatemenus=[],
    )
