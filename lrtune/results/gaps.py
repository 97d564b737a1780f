"""The figure of how far each finalist is behind the recommended one, on the same seeds."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrtune.results.canvas import INK, SHADE, Array, canvas, padded, rounded, safe, words
from lrtune.results.notes import Verdict
from lrtune.results.palette import look
from lrtune.results.prose import Row
from lrtune.results.summary import finals_of

FAR = 4.0  # times the median reach: beyond it a family is left outside the axis, and its gap said


def gaps(verdict: Verdict, finals: pd.DataFrame) -> go.Figure:
    """Each finalist's gap to the recommended one with its 95 % interval, and the single seeds.

    Without traces where there is no second finalist to compare with.
    """
    figure = canvas()
    rows = [row for row in verdict["families"] if row["gap"] is not None]
    if len(rows) < 2:
        return figure
    pairs = [paired(verdict, finals, row, rows[0]) for row in rows]
    for place, (row, pair) in enumerate(zip(rows, pairs, strict=True)):
        _row(figure, place, row, pair)
    delta = verdict["answer"]["margin"]
    if delta:
        figure.add_vrect(-delta, delta, **SHADE)
    figure.add_vline(0, line={"color": INK, "width": 1}, layer="below")
    view = padded(np.concatenate([_near(rows, pairs), [-delta, delta]]))
    assert view is not None
    for place, row in enumerate(rows):
        if row["gap"] > view[1]:
            _outside(figure, place, row)
    tied = sum(row["place"] in ("winner", "tied") for row in rows)
    if 1 < tied < len(rows):
        figure.add_hline(tied - 0.5, line={"color": INK, "width": 1, "dash": "dot"})
    unit = verdict["objective"].get("unit")
    metric = safe(words(verdict["objective"]["name"])) + (f" ({safe(unit)})" if unit else "")
    figure.update_xaxes(title_text=f"behind by, {metric}", range=view)
    figure.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=[safe(row["family"]) for row in rows],
        range=[len(rows) - 0.4, -0.6],
        showgrid=False,
        fixedrange=True,
    )
    return figure.update_layout(showlegend=False, height=110 + 32 * max(len(rows), 3))


def paired(verdict: Verdict, finals: pd.DataFrame, row: Row, best: Row) -> Array:
    """How much worse one is than the other on each seed that both have a score of."""
    name = f"final_{verdict['objective']['name']}"
    direction = verdict["objective"]["direction"]
    if name not in finals:
        return np.empty(0)
    one, other = (
        finals_of(finals, which, verdict["horizon"]).set_index("seed")[name]
        for which in (row, best)
    )
    apart: Array = (one - other).dropna().to_numpy(float)
    return apart if direction == "minimize" else -apart


def _row(figure: go.Figure, place: int, row: Row, pair: Array) -> None:
    colour, _, symbol = look(row["family"])
    jitter = 0.16 * np.sin(2.4 * np.arange(pair.size))  # spread without chance
    if place:
        figure.add_scatter(
            x=rounded(pair),
            y=rounded(place + jitter, 3),
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 5, "opacity": 0.4},
            name=safe(row["family"]),
            hovertemplate="on one seed: %{x:.3g}",
        )
    if row["gap_low"] is not None:
        figure.add_scatter(
            x=rounded(np.array([row["gap_low"], row["gap_high"]])),
            y=[place, place],
            mode="lines",
            line={"color": colour, "width": 3},
            hoverinfo="skip",
        )
    figure.add_scatter(
        x=rounded(np.array([row["gap"]])),
        y=[place],
        mode="markers",
        marker={"color": colour, "symbol": symbol, "size": 12},
        name=safe(row["family"]),
        hovertemplate="%{x:.3g}",
    )


def _near(rows: list[Row], pairs: list[Array]) -> Array:
    """All that is not so far off that it would crush the rest."""
    ends = [row["gap"] if row["gap_high"] is None else row["gap_high"] for row in rows]
    limit = FAR * float(np.median(ends[1:]))
    near = [
        np.array([row["gap"], row["gap_low"] or row["gap"], end, *pair])
        for row, pair, end in zip(rows, pairs, ends, strict=True)
        if end <= limit or row["place"] in ("winner", "tied")
    ]
    return np.concatenate(near)


def _outside(figure: go.Figure, place: int, row: Row) -> None:
    figure.add_annotation(
        x=1,
        xref="x domain",
        xanchor="right",
        y=place,
        text=f"{row['gap']:.3g} →",
        showarrow=False,
        font={"color": INK},
    )
