"""The report: one HTML file that needs nothing else, not even a network."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from lrtune.files import replace
from lrtune.format import limited, words
from lrtune.reports import sections
from lrtune.reports.figures import curves, has_data
from lrtune.reports.first_screen import Run, first_screen, nothing, subtitle
from lrtune.reports.plot_style import look
from lrtune.verdict.verdict import Verdict


def render(
    trials: pd.DataFrame,
    run: Run,
    verdict: Verdict | None = None,
    finals: pd.DataFrame | None = None,
) -> str:
    """The report as one HTML page.

    Args:
        trials: the search's table, one row per trial.
        run: what was searched (run.json).
        verdict: what the finals said (verdict.json), if there were any.
        finals: those that it is of, one row per training; needed where there is a verdict.

    Returns:
        HTML with everything inline: style, plotly and data.
    """
    confirmed = None
    if verdict is not None and verdict.families and finals is not None:
        confirmed = sections.finals(verdict, finals, run)
    return fill(
        "report.html",
        title=run.study,
        metric=words(run.objective.name),
        subtitle=subtitle(trials, run),
        first=first_screen(trials, run, verdict, finals),
        nothing=nothing(trials),
        better="lower" if run.objective.direction == "minimize" else "higher",
        settings=sections.settings(trials, run, verdict),
        finals=confirmed,
        families=sections.families(trials, run),
        curves=curves(trials, run.objective, run.horizon),
        peak=sections.against_peak(trials, run, verdict),
        parameters=sections.parameters(trials, run),
        stopping=sections.stopping(trials, run),
        trials=sections.all_trials(trials, run),
        record=sections.record(run),
        plotly=Markup(get_plotlyjs()),
    )


def write(
    path: str | Path,
    trials: pd.DataFrame,
    run: Run,
    verdict: Verdict | None = None,
    finals: pd.DataFrame | None = None,
) -> Path:
    """Write the report in one step: a reader meets the old page or the new one, never half."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = render(trials, run, verdict, finals)
    replace(path, content.encode(errors="backslashreplace"))
    return path


_LOADER = PackageLoader("lrtune.reports")


def fill(template: str, **context: Any) -> str:
    """A template with its values: plain text is escaped, and cut where it is very long."""
    return _ENVIRONMENT.get_template(template).render(**context)


def _limited(value: object) -> object:
    return value if isinstance(value, Markup) else limited(str(value))


def _unbroken(text: str) -> Markup:
    """A sentence whose options and percentages no line breaks."""
    parts = re.split(r"(--[\w-]+|\d+ %)", limited(text))
    return Markup("").join(
        Markup('<span class="option">{}</span>').format(part) if at % 2 else part
        for at, part in enumerate(parts)
    )


def _as_json(figure: go.Figure) -> Markup:
    """A figure as JSON that cannot end the script element around it."""
    text = figure.to_json()
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)


def _source(name: str) -> Markup:
    """A style sheet or a script of ours, as it is."""
    return Markup(_LOADER.get_source(_ENVIRONMENT, name)[0])


_ENVIRONMENT = Environment(
    loader=_LOADER,
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_limited,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters["colour"] = lambda family: look(family).colour
_ENVIRONMENT.filters["unbroken"] = _unbroken
_ENVIRONMENT.filters["as_json"] = _as_json
_ENVIRONMENT.tests["drawn"] = has_data
_ENVIRONMENT.globals["source"] = _source
