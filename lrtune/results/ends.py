"""The figure of how far each trial was trained, and how it ended."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrtune.results.canvas import INK, canvas, safe
from lrtune.results.early import ended_early, is_audited
from lrtune.results.palette import look
from lrtune.results.summary import by_family, figures_in

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


def ends(trials: pd.DataFrame, objective: Mapping[str, Any], horizon: int) -> go.Figure:
    """Every trial as a bar from 0 to the update at which it ended, family by family, best first.

    Without traces where every trial was trained to its end.
    """
    figure = canvas()
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
