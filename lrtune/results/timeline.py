"""The figure of the search over its budget: how the best improved, and what updates went to."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrtune.results.canvas import INK, axis_title, linked, padded, rounded, safe, value_axis
from lrtune.results.palette import ENDS_LOOK, look
from lrtune.results.summary import ENDS, ranked

BINS = 40


def timeline(trials: pd.DataFrame, objective: Mapping[str, Any]) -> go.Figure:
    """Scores of the finished trials above the shares of updates by end, over the updates spent.

    Trials lie one behind the other in the order in which they were started. Without traces where
    no update was spent.
    """
    figure = linked()
    trials = trials.sort_values("number")
    spent = trials["updates"].to_numpy(float)
    until = np.cumsum(spent)
    if not until.size or until[-1] <= 0:
        return figure
    _scores(figure, trials.assign(until=until), objective)
    edges = np.linspace(0, until[-1], min(BINS, len(trials)) + 1)
    for end in ENDS:
        of_end = np.cumsum(np.where(trials["state"] == end, spent, 0.0))
        if of_end[-1] == 0:
            continue
        in_bin = np.diff(np.interp(edges, np.r_[0, until], np.r_[0, of_end]))
        figure.add_bar(
            x=rounded((edges[:-1] + edges[1:]) / 2, 6),
            y=rounded(100 * in_bin / np.diff(edges), 3),
            name=end,
            marker=ENDS_LOOK[end],
            hovertemplate=f"{end}: %{{y:.3g}} % of these updates<extra></extra>",
            yaxis="y2",
        )
    figure.update_layout(
        barmode="stack",
        bargap=0.04,
        hovermode="closest",
        height=460,
        showlegend=True,
        legend={"traceorder": "normal"},
        yaxis2={"title_text": "share of updates (%)", "range": [0, 100], "domain": [0, 0.3]},
        yaxis={"title_text": axis_title(objective), "domain": [0.36, 1]},
    )
    return figure.update_xaxes(
        title_text="updates spent by the search",
        range=[0, float(until[-1])],
        tickformat=",d",
        showspikes=False,
    )


def _scores(figure: go.Figure, trials: pd.DataFrame, objective: Mapping[str, Any]) -> None:
    """Finished trials, and the best one so far."""
    rows = ranked(trials, objective["direction"]).sort_values("number")
    if rows.empty:
        return
    values = rows["value"].to_numpy(float)
    x = rounded(rows["until"].to_numpy(float), 6)
    looks = [look(str(family)) for family in rows["family"]]
    named = zip(rows["number"], rows["family"], strict=True)
    figure.add_scatter(
        x=x,
        y=rounded(values),
        customdata=[[int(number), safe(family)] for number, family in named],
        mode="markers",
        marker={
            "color": [look.colour for look in looks],
            "symbol": [look.symbol for look in looks],
            "size": 7,
            "opacity": 0.8,
        },
        name="finished, by family",
        showlegend=False,
        hovertemplate="%{customdata[1]}, trial %{customdata[0]}: %{y:.4g}<extra></extra>",
    )
    lowest = objective["direction"] == "minimize"
    so_far = (np.minimum if lowest else np.maximum).accumulate(values)
    figure.add_scatter(
        x=[*x, float(trials["until"].iloc[-1])],
        y=rounded(np.r_[so_far, so_far[-1:]]),
        mode="lines",
        line={"color": INK, "width": 1.5, "shape": "hv"},
        name="best so far",
        hoverinfo="skip",
    )
    axis = value_axis(values)
    figure.update_layout(yaxis={**axis, "range": padded(values, axis["type"])})
