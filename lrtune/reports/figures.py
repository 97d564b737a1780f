"""One function per figure: a DataFrame in, a plotly Figure out.

Every function takes the search's `trials` table and, for words and units, the `objective` of
run.json. A figure with nothing to draw comes back without traces.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from optuna.visualization import plot_optimization_history

from lrtune.reports.learning_curves import SHOWN
from lrtune.reports.palette import GREY, look
from lrtune.reports.parameters import study_of
from lrtune.reports.plot_style import (
    INK,
    SHADE,
    TEMPLATE,
    Array,
    axis_title,
    blank,
    log_axis,
    padded,
    rounded,
    safe,
    value_axis,
)
from lrtune.verdict.summary import finals_of, ranked
from lrtune.verdict.verdict import FamilyResult, Verdict
from lrtune.verdict.wording import words

Fields = Mapping[str, Any]  # of run.json
FAR = 4.0  # times the median reach: beyond it a family is left outside the axis, and its gap said


def wins(trials: pd.DataFrame, objective: Fields) -> go.Figure:
    """Each family's finished trials in a row of its own, the best family on top."""
    rows = ranked(trials, objective["direction"])
    order = list(rows["family"].unique())
    figure = blank()
    for place, family in enumerate(order):
        of_family = rows[rows["family"] == family]
        values, numbers = rounded(of_family["value"]), of_family["number"].tolist()
        colour, _, symbol = look(family)
        hover = {"name": safe(family), "hovertemplate": "trial %{customdata}: %{x:.4g}"}
        figure.add_box(
            x=values,
            y=[place] * len(values),
            customdata=numbers,
            orientation="h",
            boxpoints="all",
            pointpos=0,
            hoveron="points",
            line={"color": colour, "width": 1.5},
            marker={"color": colour, "symbol": symbol, "size": 5, "opacity": 0.65},
            **hover,
        )
        figure.add_scatter(
            x=values[:1],
            y=[place],
            customdata=numbers[:1],
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 12},
            **hover,
        )
    figure.update_xaxes(title_text=axis_title(objective), **value_axis(rows["value"]))
    figure.update_yaxes(
        tickvals=list(range(len(order))),
        ticktext=[safe(family) for family in order],
        range=[len(order) - 0.4, -0.6],
        showgrid=False,
        fixedrange=True,
    )
    return figure.update_layout(showlegend=False, height=110 + 26 * max(len(order), 3))


def against_peak(
    trials: pd.DataFrame,
    objective: Fields,
    bracket: tuple[float, float] | None = None,
) -> go.Figure:
    """Value against peak rate, family by family; above it, where trials diverged.

    Args:
        trials: The search's table.
        objective: Name, direction and unit of the value.
        bracket: The rates between which the range test saw the loss fall, to be shaded.
    """
    rows = ranked(trials, objective["direction"])
    figure = blank()
    for place, (family, of_family) in enumerate(rows.groupby("family", sort=False)):
        colour, _, symbol = look(str(family))
        figure.add_scatter(
            x=rounded(of_family["peak_lr"]),
            y=rounded(of_family["value"]),
            customdata=of_family["number"].tolist(),
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 8, "opacity": 0.8},
            name=safe(family),
            visible=True if place < SHOWN else "legendonly",
            hovertemplate="trial %{customdata}<br>peak %{x:.3g}: %{y:.4g}",
        )
    if rows.empty:
        return figure
    lost = trials[trials["state"] == "diverged"]
    figure.add_scatter(
        x=rounded(lost["peak_lr"]),
        y=[0.98] * len(lost),  # of the height: they have no value
        yaxis="y2",
        customdata=[[int(n), safe(f)] for n, f in zip(lost["number"], lost["family"], strict=True)],
        mode="markers",
        marker={"color": GREY, "symbol": "x", "size": 7, "opacity": 0.8},
        name="diverged",
        hovertemplate="%{customdata[1]}, trial %{customdata[0]}<br>peak %{x:.3g}",
    )
    if bracket:
        figure.add_vrect(*bracket, name="bracket", showlegend=True, **SHADE)
    values = rows["value"].to_numpy(float)
    axis = value_axis(values)
    room = padded(values, axis["type"], pad=0.1)  # below the crosses
    figure.update_xaxes(title_text="peak learning rate", **log_axis(trials["peak_lr"]))
    figure.update_layout(
        yaxis={"title_text": axis_title(objective), "range": room, **axis},
        yaxis2={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
    )
    return figure.update_layout(height=460, showlegend=True)


def optimization_history(trials: pd.DataFrame, objective: Fields) -> go.Figure:
    """Optuna's history of a search: each finished trial in its family's look, and the best so far.

    Without traces where no trial has a value.
    """
    rows = ranked(trials, objective["direction"]).sort_values("number")
    if rows.empty:
        return blank()
    values, looks = rounded(rows["value"]), [look(str(family)) for family in rows["family"]]
    study = study_of(rows, {}, values, objective["direction"])
    figure = plot_optimization_history(study)
    scores, best = figure.data = figure.data[:2]
    best.update(name="best so far", line={"color": INK, "width": 1.5, "shape": "hv"})
    best.update(x=rows["number"].tolist(), hoverinfo="skip")
    scores.update(
        x=rows["number"].tolist(),
        customdata=[safe(family) for family in rows["family"]],
        marker={
            "color": [one.colour for one in looks],
            "symbol": [one.symbol for one in looks],
            "size": 7,
        },
        name="finished, by family",
        hovertemplate="%{customdata}, trial %{x}: %{y:.4g}<extra></extra>",
    )
    axis = value_axis(np.array(values))
    axis |= {"title_text": axis_title(objective), "range": padded(np.array(values), axis["type"])}
    figure.update_layout(template=TEMPLATE, title=None, xaxis_title_text="trial", height=360)
    return figure.update_layout(yaxis=axis, showlegend=True)


def paired_differences(verdict: Verdict, finals: pd.DataFrame) -> go.Figure:
    """Each finalist's gap to the best with its 95 % interval, and the single seeds.

    Without traces where there is no second finalist to compare with the best.
    """
    figure = blank()
    rows = [row for row in verdict.families if not math.isnan(row.gap)]
    if len(rows) < 2:
        return figure
    pairs = [paired(verdict, finals, row, rows[0]) for row in rows]
    for place, (row, pair) in enumerate(zip(rows, pairs, strict=True)):
        _row(figure, place, row, pair)
    delta = verdict.answer.margin
    if delta > 0:
        figure.add_vrect(-delta, delta, **SHADE)
    figure.add_vline(0, line={"color": INK, "width": 1}, layer="below")
    view = padded(np.concatenate([_near(rows, pairs), [-delta, delta]]))
    assert view is not None
    for place, row in enumerate(rows):
        if row.gap > view[1]:
            _outside(figure, place, row)
    tied = sum(row.place in ("winner", "tied") for row in rows)
    if 1 < tied < len(rows):
        figure.add_hline(tied - 0.5, line={"color": INK, "width": 1, "dash": "dot"})
    unit = verdict.objective.unit
    metric = safe(words(verdict.objective.name)) + (f" ({safe(unit)})" if unit else "")
    figure.update_xaxes(title_text=f"behind by, {metric}", range=view)
    figure.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=[safe(row.family) for row in rows],
        range=[len(rows) - 0.4, -0.6],
        showgrid=False,
        fixedrange=True,
    )
    return figure.update_layout(showlegend=False, height=110 + 32 * max(len(rows), 3))


def paired(
    verdict: Verdict,
    finals: pd.DataFrame,
    row: FamilyResult,
    best: FamilyResult,
) -> Array:
    """How much worse one is than the other on each seed that both have a score of."""
    name = f"final_{verdict.objective.name}"
    direction = verdict.objective.direction
    if name not in finals:
        return np.empty(0)
    one, other = (
        finals_of(finals, which.schedule, verdict.horizon).set_index("seed")[name]
        for which in (row, best)
    )
    apart: Array = (one - other).dropna().to_numpy(float)
    return apart if direction == "minimize" else -apart


def _row(figure: go.Figure, place: int, row: FamilyResult, pair: Array) -> None:
    colour, _, symbol = look(row.family)
    jitter = 0.16 * np.sin(2.4 * np.arange(pair.size))  # spread without chance
    if place:
        figure.add_scatter(
            x=rounded(pair),
            y=rounded(place + jitter, 3),
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 5, "opacity": 0.4},
            name=safe(row.family),
            hovertemplate="on one seed: %{x:.3g}",
        )
    reach = None
    if not math.isnan(row.gap_low):
        sides = rounded([row.gap_high - row.gap, row.gap - row.gap_low])
        reach = {"array": sides[:1], "arrayminus": sides[1:], "thickness": 3, "width": 0}
    figure.add_scatter(
        x=rounded([row.gap]),
        y=[place],
        error_x=reach,
        mode="markers",
        marker={"color": colour, "symbol": symbol, "size": 12},
        name=safe(row.family),
        hovertemplate="%{x:.3g}",
    )


def _near(rows: list[FamilyResult], pairs: list[Array]) -> Array:
    """All that is not so far off that it would crush the rest."""
    ends = [row.gap if math.isnan(row.gap_high) else row.gap_high for row in rows]
    limit = FAR * float(np.median(ends[1:]))
    near = [
        np.array([row.gap, row.gap if math.isnan(row.gap_low) else row.gap_low, end, *pair])
        for row, pair, end in zip(rows, pairs, ends, strict=True)
        if end <= limit or row.place in ("winner", "tied")
    ]
    return np.concatenate(near)


def _outside(figure: go.Figure, place: int, row: FamilyResult) -> None:
    figure.add_annotation(
        x=1,
        xref="x domain",
        xanchor="right",
        y=place,
        text=f"{row.gap:.3g} →",
        showarrow=False,
        font={"color": INK},
    )
