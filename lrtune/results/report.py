"""The report: one HTML file that needs nothing else, not even a network."""

import os
import tempfile
from importlib import resources
from pathlib import Path

import pandas as pd
from plotly.offline import get_plotlyjs

from lrtune.results import sections, stopping, tables
from lrtune.results.answer import Verdict
from lrtune.results.finals import standings
from lrtune.results.markup import Markup, join, tag
from lrtune.results.prose import Run, headline, subtitle
from lrtune.results.questions import target

_POLICY = (  # the page loads nothing: all that it needs is in it
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)


def render(
    trials: pd.DataFrame,
    run: Run,
    verdict: Verdict | None = None,
    finals: pd.DataFrame | None = None,
) -> str:
    """The report as one HTML page.

    Args:
        trials: The search's table, one row a trial.
        run: What was searched (run.json).
        verdict: What the finals said (verdict.json), if there were any.
        finals: Those that it is of, one row a training; needed where there is a verdict.

    Returns:
        HTML with everything inline: style, plotly and data.
    """
    body = join(
        [
            tag("header", tag("h1", run["study"]), tag("p", subtitle(trials, run), css="quiet")),
            Markup(f'<section id="answer">{headline(trials, run, verdict)}</section>'),
            sections.settings(trials, run, verdict),
            *_verdict(verdict, finals, run),
            sections.families(trials, run),
            sections.curves(trials, run),
            sections.against_peak(trials, run, verdict),
            sections.range_test(run),
            tables.budget(trials),
            stopping.stopping(trials, run),
            tables.all_trials(trials, run),
            tables.record(run),
        ]
    )
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{_title(run['study'])}</title><style>{_resource('report.css')}</style></head>",
            f"<body><main>{body}</main><script>{get_plotlyjs()}</script>",
            f"<script>{_resource('report.js')}</script></body></html>\n",
        ]
    )


def _verdict(verdict: Verdict | None, finals: pd.DataFrame | None, run: Run) -> list[Markup]:
    if verdict is None or finals is None:
        return []
    return [standings(verdict, finals, run), target(verdict)]


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
    page = render(trials, run, verdict, finals)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(page)
        os.chmod(name, 0o644)  # mkstemp made it for its owner alone
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def _title(study: str) -> str:
    return f"{study} – lrtune".replace("&", "&amp;").replace("<", "&lt;")


def _resource(name: str) -> str:
    return resources.files("lrtune.results").joinpath(name).read_text(encoding="utf-8")
