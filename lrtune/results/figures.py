"""One function per figure: a DataFrame in, a plotly Figure out.

Every function takes the search's `trials` table and, for words and units, the `objective` of
run.json. A figure with nothing to draw comes back without traces.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrtune.results.canvas import (
    SHADE,
    axis_title,
    canvas,
    log_axis,
    rounded,
    safe,
    value_axis,
)
from lrtune.results.courses import SHOWN, curves, finals_curves
from lrtune.results.palette import GREY, look
from lrtune.results.rates import preview, range_test
from lrtune.results.save import save
from lrtune.results.slices import landscape, slices
from lrtune.results.summary import ranked
from lrtune.results.timeline import timeline

__all__ = ["against_peak", "curves", "finals_curves", "landscape", "preview", "range_test"]
__all__ += ["save", "slices", "timeline", "wins"]


def wins(trials: pd.DataFrame, objective: Mapping[str, Any]) -> go.Figure:
    """Each family's finished trials in a row of its own, the best family on top."""
    rows = ranked(trials, objective["direction"])
    order = list(rows["family"].unique())
    figure = canvas()
    for place, family in enumerate(order):
        of_family = rows[rows["family"] == family]
        values = of_family["value"].to_numpy(float)
        colour, _, symbol = look(family)
        hover = {"name": safe(family), "hovertemplate": "trial %{customdata}: %{x:.4g}"}
        jitter = 0.16 * np.sin(2.4 * np.arange(values.size))  # spread without chance
        figure.add_scatter(
            x=rounded(values),
            y=rounded(place + jitter, 3),
            customdata=of_family["number"].tolist(),
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 6, "opacity": 0.65},
            **hover,
        )
        figure.add_scatter(
            x=rounded(np.quantile(values, [0.25, 0.75])),
            y=[place, place],
            mode="lines",
            line={"color": colour, "width": 3},
            hoverinfo="skip",
        )
        figure.add_scatter(
            x=rounded(values[:1]),
            y=[place],
            customdata=[int(of_family["number"].iloc[0])],
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 12},
            **hover,
        )
    figure.update_xaxes(
        title_text=axis_title(objective),
        **value_axis(rows["value"].to_numpy(float)),
    )
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
    objective: Mapping[str, Any],
    bracket: tuple[float, float] | None = None,
) -> go.Figure:
    """Value against peak rate, family by family; above it, where trials diverged.

    Args:
        trials: The search's table.
        objective: Name, direction and unit of the value.
        bracket: The rates between which the range test saw the loss fall, to be shaded.
    """
    rows = ranked(trials, objective["direction"])
    figure = canvas((0.07, 0.93), gap=0.02)
    for place, (family, of_family) in enumerate(rows.groupby("family", sort=False)):
        colour, _, symbol = look(str(family))
        figure.add_scatter(
            x=rounded(of_family["peak_lr"].to_numpy(float)),
            y=rounded(of_family["value"].to_numpy(float)),
            customdata=of_family["number"].tolist(),
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 8, "opacity": 0.8},
            name=safe(family),
            visible=True if place < SHOWN else "legendonly",
            hovertemplate="trial %{customdata}<br>peak %{x:.3g}: %{y:.4g}",
            row=2,
            col=1,
        )
    lost = trials[trials["state"] == "diverged"]
    if rows.empty:
        return figure
    figure.add_scatter(
        x=rounded(lost["peak_lr"].to_numpy(float)),
        y=[0] * len(lost),
        customdata=[[int(n), safe(f)] for n, f in zip(lost["number"], lost["family"], strict=True)],
        mode="markers",
        marker={"color": GREY, "symbol": "x", "size": 7, "opacity": 0.8},
        hovertemplate="%{customdata[1]}, trial %{customdata[0]}<br>peak %{x:.3g}<extra></extra>",
        showlegend=False,
        row=1,
        col=1,
    )
    if bracket:
        named = {"name": "bracket", "showlegend": True}
        figure.add_vrect(*bracket, row=2, col=1, **named, **SHADE)
    values = rows["value"].to_numpy(float)
    figure.update_xaxes(**log_axis(trials["peak_lr"].to_numpy(float)))
    figure.update_xaxes(showgrid=False, row=1)
    figure.update_xaxes(title_text="peak learning rate", row=2)
    figure.update_yaxes(
        tickvals=[0], ticktext=["diverged"], range=[-1, 1], fixedrange=True, row=1, showgrid=False
    )
    figure.update_yaxes(title_text=axis_title(objective), **value_axis(values), row=2)
    return figure.update_layout(height=460, showlegend=True)
