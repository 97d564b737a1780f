"""The figures of rates alone (range test, preview), and the rate axis that all figures share."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrtune.reports.palette import BLUE, GREEN, RED, look
from lrtune.reports.plot_style import (
    GRID,
    INK,
    SHADE,
    Array,
    blank,
    log_axis,
    padded,
    rounded,
    safe,
    thin,
)
from lrtune.schedule import Schedule
from lrtune.verdict.settings import RangeTestFacts
from lrtune.verdict.summary import curve_of

DECADES = 4.0  # of rate that a figure shows at first, below the highest


def range_test(result: RangeTestFacts, loss: str = "training loss") -> go.Figure:
    """The range test: loss against rate, one line a seed, and the bracket that was read off it.

    Args:
        result: as run.json keeps it.
        loss: What the losses are, with their unit, for the axis.
    """
    figure = blank()
    rates = np.asarray(result.rates, dtype=float)
    lines = [np.asarray(line, dtype=float) for line in result.losses]
    for seed, line in enumerate(lines):
        figure.add_scatter(
            x=rounded(rates[: line.size]),
            y=rounded(line[: rates.size]),
            mode="lines",
            line={"color": BLUE, "width": 1.5},
            opacity=0.75,
            name="loss, by seed",
            showlegend=seed == 0,
            hovertemplate=f"seed {seed}<br>rate %{{x:.3g}}: %{{y:.4g}}<extra></extra>",
        )
    if not lines:
        return figure
    low, high = result.base_lr, result.max_lr
    figure.add_vrect(low, high, name="bracket", showlegend=True, **SHADE)
    for name, colour in (("steepest", RED), ("valley", GREEN), ("peak_lr", INK)):
        look_of = {"color": colour, "dash": "dash", "width": 1.5}
        said = f"{name} {getattr(result, name):.2g}"
        figure.add_vline(getattr(result, name), name=said, showlegend=True, line=look_of)
    figure.update_xaxes(title_text="learning rate", **log_axis(rates))
    figure.update_yaxes(title_text=safe(loss), range=_before_blow_up(lines))
    return figure.update_layout(height=400)


def preview(schedules: Schedule | Sequence[Schedule], total: int) -> go.Figure:
    """The rates of one or several schedules over `total` updates.

    A closed-loop schedule is drawn as it starts: at its peak until the metric says otherwise.
    """
    several = [schedules] if isinstance(schedules, Schedule) else list(schedules)
    figure = blank()
    everything = [np.empty(0)]
    for number, schedule in enumerate(several):
        rates = _table(schedule, total)
        at = thin(_log(rates), 1000)
        colour, dash, _ = look(schedule.family)
        twins = sum(other.family == schedule.family for other in several[:number])
        figure.add_scatter(
            x=at.tolist(),
            y=rounded(rates[at]),
            mode="lines",
            line={"color": colour, "dash": ("dashdot", "longdash", "longdashdot")[(twins - 1) % 3]}
            if twins
            else {"color": colour, "dash": dash},
            name=safe(schedule.family) + (f" {twins + 1}" if twins else ""),
            hovertemplate="update %{x}: %{y:.3g}",
        )
        everything.append(rates)
    figure.update_xaxes(title_text="updates")
    rate_axis(figure, np.concatenate(everything))
    return figure.update_layout(height=440, showlegend=True)


def rates_of(trial: "pd.Series[Any]", horizon: int) -> tuple[Array, Array, str]:
    """The updates, the rates a trial used there, and how to join them."""
    schedule = Schedule.from_json(trial["schedule"])
    if schedule.closed_loop:  # its rates depend on the metric: only the record knows them
        step, rate = curve_of(trial, "step"), curve_of(trial, "rate")
        return np.r_[0, step], np.r_[rate[:1], rate], "vh"
    table = schedule.rates(horizon)[: int(trial["updates"])]
    at = thin(_log(table))
    return at.astype(float), table[at], "linear"


def rate_axis(figure: go.Figure, rates: Array) -> None:
    """A log axis of rates for the top panel, with buttons to make it linear and back."""
    top = float(rates.max(initial=0.0))
    figure.update_layout(yaxis={"title_text": "learning rate", "type": "log"})
    if not np.isfinite(top) or top <= 0:
        return
    shown = np.maximum(rates, top * 10**-DECADES)
    log = log_axis(shown) | {"range": padded(shown, "log")}
    figure.update_layout(yaxis=log)
    linear = {"yaxis.type": "linear", "yaxis.range": [0, 1.06 * top], "yaxis.dtick": None}
    kinds = {"log": {f"yaxis.{k}": v for k, v in log.items()}, "linear": linear}
    buttons = [
        {"label": kind, "method": "relayout", "args": [axis]} for kind, axis in kinds.items()
    ]
    menu = {"type": "buttons", "direction": "right", "x": 0, "y": 1.02, "yanchor": "bottom"}
    look_of = {"xanchor": "left", "bordercolor": GRID, "font": {"size": 12}, "pad": {"t": 0}}
    figure.update_layout(updatemenus=[{**menu, **look_of, "buttons": buttons}], margin_t=44)


def _table(schedule: Schedule, total: int) -> Array:
    """A schedule's rates; for a closed loop those before it has seen the metric."""
    if schedule.closed_loop:
        return np.asarray(schedule.controller(total).rates, dtype=float)
    return np.asarray(schedule.rates(total), dtype=float)


def _log(rates: Array) -> Array:
    """Log rates, with zeros far below instead of at minus infinity."""
    return np.log10(np.maximum(rates, max(float(rates.max(initial=0.0)), 1e-30) * 1e-6))


def _before_blow_up(lines: Sequence[Array]) -> list[float] | None:
    """A range that shows the losses' fall and the start of their blow-up, not its height."""
    everything = np.concatenate(lines)
    starts = np.array([line[0] for line in lines if line.size])
    if not np.isfinite(starts).any():
        return padded(everything)
    start = float(np.nanmedian(starts))
    low = float(np.nanmin(np.where(np.isfinite(everything), everything, np.nan)))
    shown = everything[everything <= start + 0.6 * (start - low or abs(start))]
    return padded(shown)
