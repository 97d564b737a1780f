"""The figure of rates above the metric that they led to: of a search's best trials, of finals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrtune.reports.palette import look
from lrtune.reports.plot_style import Array, axis_title, linked, padded, rounded, safe
from lrtune.reports.rates import rate_axis, rates_of
from lrtune.verdict.summary import best_of_each, curve_of, finals_of
from lrtune.verdict.verdict import Verdict

SHOWN = 6  # families drawn at first; the others wait in the legend


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What one family trained with, and what came of it."""

    family: str
    rates: tuple[Array, Array, str]  # updates, the rates there, and how to join them
    step: Array  # updates of the validations
    metric: Array  # at these validations
    # between which the middle half of several trainings lies
    band: tuple[Array, Array] | None = None


def curves(trials: pd.DataFrame, objective: Mapping[str, Any], horizon: int) -> go.Figure:
    """The best trial of each family: its rate above its validation metric, over updates."""
    several = []
    for _, trial in best_of_each(trials, objective["direction"]).iterrows():
        step = curve_of(trial, "step")
        metric = curve_of(trial, f"val_{objective['name']}")[: step.size]
        rates = rates_of(trial, horizon)
        several.append(Trajectory(trial["family"], rates, step[: metric.size], metric))
    return _figure(several, objective, horizon)


def finals_curves(verdict: Verdict, finals: pd.DataFrame) -> go.Figure:
    """The finalists: their rates above their validation metric, the mean of the seeds in a band.

    The band holds the middle half of the seeds: from the lowest to the highest, bands would hide
    each other.

    Trainings that were lost are left out; the rates of a closed loop are those of one seed.
    """
    objective, horizon = verdict.objective, verdict.horizon
    several = []
    for row in verdict.families:
        own = finals_of(finals, row.schedule, horizon)
        own = own[own["state"] == "complete"]
        if own.empty:
            continue
        metrics = np.stack([curve_of(one, f"val_{objective.name}") for _, one in own.iterrows()])
        first = own.iloc[0]
        low, high = np.quantile(metrics, [0.25, 0.75], axis=0)
        band = (low, high) if len(metrics) > 1 else None
        rates, step = rates_of(first, horizon), curve_of(first, "step")
        several.append(Trajectory(row.family, rates, step, metrics.mean(0), band))
    return _figure(several, objective.to_json(), horizon)


def _figure(several: Sequence[Trajectory], objective: Mapping[str, Any], horizon: int) -> go.Figure:
    figure = linked()
    rates, metrics = [np.empty(0)], [np.empty(0)]
    for place, one in enumerate(several):
        if place < SHOWN:
            rates.append(one.rates[1])
            metrics.append(one.metric[one.step >= horizon / 3])
            metrics += [end[-1:] for end in one.band or ()]
        _draw(figure, one, "legendonly" if place >= SHOWN else True)
    title = axis_title(objective)
    figure.update_layout(yaxis2={"title_text": title, "range": padded(np.concatenate(metrics))})
    hover = {"unifiedhovertitle_text": "update %{x:,d}"}
    figure.update_xaxes(title_text="updates", hoverformat=",d", **hover)
    rate_axis(figure, np.concatenate(rates))
    return figure.update_layout(height=640, showlegend=True)


def _draw(figure: go.Figure, one: Trajectory, visible: bool | str) -> None:
    colour, dash, symbol = look(one.family)
    name, step = safe(one.family), one.step.astype(int).tolist()
    shared: dict[str, Any] = {"name": name, "legendgroup": name, "visible": visible}
    line = {"color": colour, "dash": dash, "width": 2}
    updates, rate, shape = one.rates
    figure.add_scatter(
        x=updates.astype(int).tolist(),
        y=rounded(rate),
        mode="lines",
        line={**line, "shape": shape},
        hoverinfo="none",  # said beside the metric: one line a family
        **shared,
    )
    shared |= {"showlegend": False, "yaxis": "y2"}
    if one.band:
        low, high = one.band
        figure.add_scatter(
            x=[*step, *step[::-1]],
            y=rounded(np.r_[low, high[::-1]]),
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor=colour,
            opacity=0.14,
            hoverinfo="skip",
            **shared,
        )
    figure.add_scatter(
        x=step,
        y=rounded(one.metric),
        mode="lines+markers" if len(step) <= 40 else "lines",
        line=line,
        marker={"color": colour, "symbol": symbol, "size": 5},
        customdata=rounded(np.interp(one.step - 1, updates, rate), 3) if updates.size else None,
        hovertemplate="%{y:.4g} at rate %{customdata:.3g}",
        **shared,
    )
