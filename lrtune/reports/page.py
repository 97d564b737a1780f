"""The report, one HTML file that needs no network; and what a notebook shows of a run."""

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
from lrtune.reports import figures, sections
from lrtune.reports.first_screen import Answer, answer, exports, nothing, subtitle
from lrtune.reports.plot_style import look
from lrtune.verdict import verdict as judged
from lrtune.verdict.best import BestSchedule
from lrtune.verdict.recommendation import of_verdict
from lrtune.verdict.settings import RunSettings
from lrtune.verdict.tables import families_or_finalists, finalists


def render(
    trials: pd.DataFrame,
    run: RunSettings,
    verdict: judged.Verdict | None = None,
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
    best = BestSchedule.of(trials, run, verdict)
    confirmed = None
    if verdict is not None and verdict.families and finals is not None:
        confirmed = sections.finals(verdict, finals, run)
    return fill(
        "report.html",
        title=run.study,
        metric=words(run.objective.name),
        subtitle=subtitle(trials, run),
        answer=answer(trials, run, verdict),
        exports=[] if best is None else exports(best),
        nothing=nothing(trials),
        better="lower" if run.objective.direction == "minimize" else "higher",
        figures=figures.of_run(trials, run, verdict, finals),
        settings=None if best is None else sections.settings(best, verdict),
        finals=confirmed,
        families=sections.families(trials, run),
        peak=sections.against_peak(run, verdict),
        stopping=sections.stopping(trials, run),
        trials=sections.all_trials(trials, run),
        hosts=sections.hosts(trials, finals, run),
        record=sections.record(run),
        plotly=Markup(get_plotlyjs()),
    )


def write(
    path: str | Path,
    trials: pd.DataFrame,
    run: RunSettings,
    verdict: judged.Verdict | None = None,
    finals: pd.DataFrame | None = None,
) -> Path:
    """Write the report in one step: a reader meets the old page or the new one, never half."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = render(trials, run, verdict, finals)
    replace(path, content.encode(errors="backslashreplace"))
    return path


class Verdict(judged.Verdict):
    """A verdict that prints as what it says; its attributes are ``lrtune.verdict.Verdict``'s."""

    @property
    def lines(self) -> list[str]:
        """What to use, what it gains, how sure that is."""
        return of_verdict(self)

    def __repr__(self) -> str:
        return "\n".join(self.lines)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        use, *others = self.lines
        lines = [(label, text) for label, _, text in (line.partition(": ") for line in others)]
        said = Answer(use, lines, [], [])
        return fill("notebook.html", title=[], answer=said, table=finalists(self))


def summary(trials: pd.DataFrame, run: RunSettings, verdict: judged.Verdict | None) -> str:
    """What a notebook shows of a run: the answer in words and the table of families."""
    return fill(
        "notebook.html",
        title=[run.study, *subtitle(trials, run)],
        answer=answer(trials, run, verdict),
        table=families_or_finalists(trials, run, verdict),
    )


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
_ENVIRONMENT.tests["drawn"] = figures.has_data
_ENVIRONMENT.globals["source"] = _source
