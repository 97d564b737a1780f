"""The figure of rates above the metric that they led to: of a search's best trials, of finals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrtune.results.canvas import Array, axis_title, canvas, padded, rounded, safe
from lrtune.results.palette import look
from lrtune.results.rates import rate_axis, rates_of
from lrtune.results.summary import best_of_each, curve_of, finals_of

SHOWN = 6  # families drawn at first; the others wait in the legend


@dataclass(frozen=True, slots=True)
class Course:
    """What one family trained with, and what came of it.

    Attributes:
        family: its name.
        rates: updates, the rates there, and how to join them.
        step: updates of the validations.
        metric: there.
        band: the lowest and the highest of several trainings, there.
    """

    family: str
    rates: tuple[Array, Array, str]
    step: Array
    metric: Array
    band: tuple[Array, Array] | None = None


def curves(trials: pd.DataFrame, objective: Mapping[str, Any], horizon: int) -> go.Figure:
    """The best trial of each family: its rate above its validation metric, over updates."""
    several = []
    for _, trial in best_of_each(trials, objective["direction"]).iterrows():
        step = curve_of(trial, "step")
        metric = curve_of(trial, f"val_{objective['name']}")[: step.size]
        rates = rates_of(trial, horizon)
        several.append(Course(trial["family"], rates, step[: metric.size], metric))
    return _courses(several, objective, horizon)


def finals_curves(verdict: Mapping[str, Any], finals: pd.DataFrame) -> go.Figure:
    """The finalists: their rates above their validation metric, the mean of the seeds in a band.

    Trainings that were lost are left out; the rates of a closed loop are those of one seed.
    """
    objective, horizon = verdict["objective"], verdict["horizon"]
    several = []
    for row in verdict["families"]:
        own = finals_of(finals, row, horizon)
        own = own[own["state"] == "complete"]
        if own.empty:
            continue
        metrics = np.stack([curve_of(one, f"val_{objective['name']}") for _, one in own.iterrows()])
        first = own.iloc[0]
        band = (metrics.min(0), metrics.max(0)) if len(metrics) > 1 else None
        rates, step = rates_of(first, horizon), curve_of(first, "step")
        several.append(Course(row["family"], rates, step, metrics.mean(0), band))
    return _courses(several, objective, horizon)


def _courses(several: Sequence[Course], objective: Mapping[str, Any], horizon: int) -> go.Figure:
    figure = canvas((0.5, 0.5))
    rates, metrics = [np.empty(0)], [np.empty(0)]
    for place, course in enumerate(several):
        updates, rate, shape = course.rates
        if place < SHOWN:
            rates.append(rate)
            metrics.append(course.metric[course.step >= horizon / 3])
            metrics += [end[-1:] for end in course.band or ()]
        colour, dash, symbol = look(course.family)
        shared: dict[str, Any] = {
            "name": safe(course.family),
            "legendgroup": safe(course.family),
            "visible": True if place < SHOWN else "legendonly",
        }
        line = {"color": colour, "dash": dash, "width": 2}
        figure.add_scatter(
            x=updates.astype(int).tolist(),
            y=rounded(rate),
            mode="lines",
            line={**line, "shape": shape},
            hovertemplate="update %{x}: %{y:.3g}",
            row=1,
            col=1,
            **shared,
        )
        shared |= {"showlegend": False, "row": 2, "col": 1}
        step = course.step.astype(int).tolist()
        if course.band:
            low, high = course.band
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
            y=rounded(course.metric),
            mode="lines+markers" if len(step) <= 40 else "lines",
            line=line,
            marker={"color": colour, "symbol": symbol, "size": 5},
            hovertemplate="update %{x}: %{y:.4g}",
            **shared,
        )
    figure.update_yaxes(title_text=axis_title(objective), row=2)
    figure.update_yaxes(range=padded(np.concatenate(metrics)), row=2)
    figure.update_xaxes(title_text="updates", row=2)
    rate_axis(figure, np.concatenate(rates))
    return figure.update_layout(height=640)
