"""The figures that a study carries for optuna-dashboard: few, small, on a page of any colour."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrtune.results.canvas import thin
from lrtune.results.courses import SHOWN, curves, finals_curves
from lrtune.results.figures import against_peak, wins
from lrtune.results.notes import Verdict
from lrtune.results.plan import decided
from lrtune.results.prose import Run
from lrtune.results.summary import best_of_each, ranked

# The dashboard's page asks for all of them every ten seconds.
TRIALS = 12  # of a family: its best
DIVERGED = 60  # of all families
POINTS = 48  # of a curve
HEIGHT = 440  # of the box in which the dashboard draws
INK = "#7e7e7e"  # as far from white as from the dashboard's dark


def posters(
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
    if verdict is not None and decided(verdict):
        short = {**verdict, "families": verdict["families"][:SHOWN]}
        drawn["lrtune-curves"] = ("The finals", lambda: finals_curves(short, finals))
    figures = {name: _fitted(draw(), title) for name, (title, draw) in drawn.items()}
    return {
        name: figure
        for name, figure in figures.items()
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
    for trace in figure.data:
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
