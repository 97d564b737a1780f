"""The report: one HTML file that needs nothing else, not even a network."""

from pathlib import Path

import pandas as pd
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from lrtune.files import replace
from lrtune.reports import blocks, pruning, sections, tables
from lrtune.reports.answer import Run, subtitle
from lrtune.reports.blocks import Section
from lrtune.reports.finals import standings
from lrtune.reports.first_screen import first_screen
from lrtune.reports.parameters import inside
from lrtune.verdict.verdict import Verdict


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
    folded: list[Section | None] = [
        sections.settings(trials, run, verdict),
        standings(verdict, finals, run) if verdict is not None and finals is not None else None,
        None if verdict is None else tables.target(verdict),
        sections.families(trials, run),
        sections.curves(trials, run),
        sections.against_peak(trials, run, verdict),
        inside(trials, run),
        sections.range_test(run),
        tables.budget(trials, run),
        pruning.stopping(trials, run),
        tables.all_trials(trials, run),
        tables.record(run),
    ]
    return blocks.render(
        "report.html",
        title=run["study"],
        subtitle=subtitle(trials, run),
        first=first_screen(trials, run, verdict, finals),
        sections=[section for section in folded if section is not None],
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
