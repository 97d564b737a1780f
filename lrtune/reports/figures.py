"""One function per figure: tables in, a plotly Figure out.

`trials` is the search's table, one row per trial; words and units are those of the `objective`. A
figure with nothing to draw comes back without traces.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrtune.reports.plot_style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    RED,
    SHADE,
    Array,
    axis_title,
    blank,
    log_axis,
    look,
    padded,
    rounded,
    safe,
    thin,
    value_axis,
)
from lrtune.schedule import Schedule
from lrtune.verdict.best import BestSchedule
from lrtune.verdict.recommendation import amount_of
from lrtune.verdict.sequential import ALPHA
from lrtune.verdict.settings import Objective, RangeTestFacts, RunSettings
from lrtune.verdict.summary import best_of_each, curve_of, finals_of, ranked
from lrtune.verdict.verdict import Verdict

SHOWN = 6  # families drawn at first; the others wait in the legend
FAR = 4.0  # times the median gain: beyond it a family lies outside the axis, its gain said
APART = 8.0  # between peaks: from here on a linear axis shows the lower curve as a line at zero
OTHERS = ("dash", "dot", "dashdot")  # lines of what the recommended schedule is compared with
DECADES = 4.0  # of rate that a log axis shows below the highest


def has_data(figure: go.Figure) -> bool:
    """Whether there is anything to see."""
    return any(len(trace.x or ()) for trace in figure.data)


def of_run(
    trials: pd.DataFrame, run: RunSettings, verdict: Verdict | None, finals: pd.DataFrame | None
) -> dict[str, go.Figure]:
    """The figures of a run by their names: of the search, and of the finals if there are any.

    Args:
        trials: the search's table.
        run: what was searched (run.json).
        verdict: what the finals said.
        finals: those that it is of.
    """
    test, best = run.range_test, BestSchedule.of(trials, run, verdict)
    several = [] if best is None else _compared(best.schedule, run, verdict)
    shown = {
        "rates": compared_rates(several, run.horizon, (trials, finals)),
        "curves": curves(trials, run.objective, run.horizon),
        "against_peak": against_peak(
            trials, run.objective, (test.base_lr, test.max_lr) if test else None
        ),
    }
    if verdict is not None and finals is not None:
        shown["gains"] = gains(verdict)
        shown["finals_curves"] = finals_curves(verdict, finals)
    return shown


def _compared(
    best: Schedule, run: RunSettings, verdict: Verdict | None
) -> Sequence[tuple[str, Schedule]]:
    """The schedule to use and what it is compared with, yours or else baselines: what to draw."""
    if verdict is None or not verdict.decided:
        yours = [(f"your {mine.family}", mine) for mine in run.baselines]
        return [(best.family, best), *yours]
    rows = {row.family: row for row in verdict.families}
    pairs = [(gain.what, rows[gain.over]) for gain in verdict.answer.gains]
    others = [pair for pair in pairs if pair[1].role == "yours"] or pairs
    mine = verdict.recommended.role == "yours"
    label = f"your {best.family}" if mine else best.family
    return [(label, best), *((what, row.schedule) for what, row in others)]


def compared_rates(
    several: Sequence[tuple[str, Schedule]], horizon: int, tables: Sequence[pd.DataFrame | None]
) -> go.Figure:
    """The rates of the recommended schedule in colour, beside those that it is compared with.

    Without traces where the recommended ones are not known.

    Args:
        several: what each is called, and the schedule; the recommended one first.
        horizon: updates.
        tables: trials and finals, which know the rates of a closed loop.
    """
    figure, drawn = blank(), []
    for place, (label, schedule) in enumerate(several):
        line = _recorded(schedule, horizon, tables)
        if line is None and not place:
            return figure
        if line is None:
            continue
        updates, rates, shape = line
        style = {"color": look(schedule.family).colour, "shape": shape, "simplify": False}
        style |= {"color": INK, "dash": OTHERS[(place - 1) % len(OTHERS)]} if place else {}
        figure.add_scatter(
            x=updates.astype(int).tolist(),
            y=rounded(rates),
            mode="lines",
            line=style,
            name=safe(label) + (" (recommended)" if not place else ""),
            hovertemplate="update %{x}: %{y:.3g}",
        )
        drawn.append(rates)
    figure.update_xaxes(range=[0, horizon], nticks=5)
    figure.update_yaxes(**_rate_axis(drawn), nticks=5).update_yaxes(title_text="")
    legend = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}
    return figure.update_layout(height=190, showlegend=True, legend=legend)


def _recorded(
    schedule: Schedule, horizon: int, tables: Sequence[pd.DataFrame | None]
) -> tuple[Array, Array, str] | None:
    """Updates, rates and how to join them; of a closed loop from the longest training of it."""
    if not schedule.closed_loop:
        rates = schedule.rates(horizon)
        at = thin(rates)
        return at.astype(float), rates[at], "linear"
    for table in tables:
        if table is not None and len(table) and "rate" in table:
            own = table[table["schedule"] == schedule.to_json()]
            for _, training in own.sort_values("updates").tail(1).iterrows():
                return rates_of(training, horizon)
    return None


def gains(verdict: Verdict) -> go.Figure:
    """What the recommended schedule is better by than each other finalist, on the same seeds.

    With 95 % intervals. Without traces where nothing is recommended, or compared with it.
    """
    figure, objective = blank(), verdict.objective
    others = verdict.families[1:] if verdict.decided else []
    rows = [row for row in others if not math.isnan(row.gap)]
    called = {gain.over: gain.what for gain in verdict.answer.gains}
    for place, row in enumerate(rows):
        sure = "may be chance"
        if row.p < ALPHA:
            sure = "better" if row.gap > 0 else "worse"
        colour = {"better": GREEN, "worse": RED}.get(sure, GREY)
        reach = None
        if not math.isnan(row.gap_low):
            sides = rounded([row.gap_high - row.gap, row.gap - row.gap_low])
            reach = {"array": sides[:1], "arrayminus": sides[1:], "thickness": 3, "width": 0}
        name = called.get(row.family, row.family)
        figure.add_scatter(
            x=rounded([row.gap]),
            y=[place],
            error_x=reach,
            mode="markers",
            marker={"color": colour, "size": 11},
            name=safe(name),
            hovertemplate="%{x:.3g}",
        )
        amount = f"{'+' if row.gap > 0 else ''}{amount_of(objective, row.gap)}"
        where = {"x": 0, "xref": "paper", "y": place, "yshift": 15, "xanchor": "left"}
        text = f"over {safe(name)}: {safe(amount)}, {sure}"
        figure.add_annotation(text=text, showarrow=False, font_color=INK, **where)
    margin = verdict.answer.margin
    if rows and margin > 0:
        figure.add_vrect(-margin, margin, **SHADE)
    figure.add_vline(0, line={"color": INK, "width": 1, "dash": "dot"}, layer="below")
    # A finalist that failed must not make the others a dot; the baselines are what it is about.
    limit = FAR * float(np.median([row.gap for row in rows])) if rows else 0.0
    seen = [row for row in rows if row.family in called or row.gap <= limit]
    ends = [end for row in seen for end in (row.gap, row.gap_low, row.gap_high)]
    near = np.array([0.0, *ends])
    figure.update_xaxes(nticks=6, range=padded(near))
    figure.update_yaxes(visible=False, range=[len(rows) - 0.6, -0.8])
    return figure.update_layout(height=36 + 44 * len(rows), showlegend=False)


def against_peak(
    trials: pd.DataFrame,
    objective: Objective,
    bracket: tuple[float, float] | None = None,
) -> go.Figure:
    """Value against peak rate, family by family; above it, where trials diverged.

    Args:
        trials: the search's table.
        objective: name, direction and unit of the value.
        bracket: the rates between which the range test saw the loss fall, to be shaded.
    """
    rows = ranked(trials, objective.direction)
    figure = blank()
    for place, (family, own) in enumerate(rows.groupby("family", sort=False)):
        style = look(str(family))
        figure.add_scatter(
            x=rounded(own["peak_lr"]),
            y=rounded(own["value"]),
            customdata=own["number"].tolist(),
            mode="markers",
            marker={"color": style.colour, "symbol": style.symbol, "size": 8, "opacity": 0.8},
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
    return figure.update_layout(
        yaxis={"title_text": axis_title(objective), "range": room, **axis},
        yaxis2={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
        height=460,
        showlegend=True,
    )


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What one family trained with, and what came of it."""

    family: str
    rates: tuple[Array, Array, str]  # updates, the rates there, and how to join them
    step: Array  # updates of the validations
    metric: Array  # at these validations
    # between which the middle half of several trainings lies
    band: tuple[Array, Array] | None = None


def curves(trials: pd.DataFrame, objective: Objective, horizon: int) -> go.Figure:
    """The best trial of each family: its rate above its validation metric, over updates."""
    several = []
    for _, trial in best_of_each(trials, objective.direction).iterrows():
        step = curve_of(trial, "step")
        metric = curve_of(trial, f"val_{objective.name}")[: step.size]
        rates = rates_of(trial, horizon)
        several.append(Trajectory(trial["family"], rates, step[: metric.size], metric))
    return _two_panels(several, objective, horizon)


def finals_curves(verdict: Verdict, finals: pd.DataFrame) -> go.Figure:
    """The finalists: their rates above their validation metric, the mean of the seeds in a band.

    The band holds the middle half of the seeds: from the lowest to the highest, bands would hide
    each other. Trainings that were lost are left out; the rates of a closed loop are those of one
    seed.
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
    return _two_panels(several, objective, horizon)


def _two_panels(several: Sequence[Trajectory], objective: Objective, horizon: int) -> go.Figure:
    """Rates above the metric on one x axis, so that a hover reads off both at once."""
    figure = blank()
    metrics = [np.empty(0)]
    for place, one in enumerate(several):
        if place < SHOWN:
            metrics.append(one.metric[one.step >= horizon / 3])
            metrics += [end[-1:] for end in one.band or ()]
        _add_trajectory(figure, one, True if place < SHOWN else "legendonly")
    figure.update_layout(
        hovermode="x unified",
        hoversubplots="axis",
        hoverlabel={"font": {"size": 12}, "namelength": -1},
        yaxis={"domain": [0.53, 1], **_rate_axis([one.rates[1] for one in several[:SHOWN]])},
        yaxis2={
            "domain": [0, 0.47],
            "anchor": "x",
            "title_text": axis_title(objective),
            "range": padded(np.concatenate(metrics)),
        },
        height=640,
        showlegend=True,
    )
    spike = {"spikemode": "across", "spikethickness": 1, "spikecolor": INK, "spikedash": "dot"}
    hover = {"unifiedhovertitle_text": "update %{x:,d}", "hoverformat": ",d"}
    return figure.update_xaxes(
        title_text="updates", anchor="y2", showspikes=True, spikesnap="cursor", **spike, **hover
    )


def _add_trajectory(figure: go.Figure, one: Trajectory, visible: bool | str) -> None:
    style = look(one.family)
    name, step = safe(one.family), one.step.astype(int).tolist()
    shared: dict[str, Any] = {"name": name, "legendgroup": name, "visible": visible}
    line = {"color": style.colour, "dash": style.dash, "width": 2}
    updates, rate, shape = one.rates
    figure.add_scatter(
        x=updates.astype(int).tolist(),
        y=rounded(rate),
        mode="lines",
        line={**line, "shape": shape},
        hoverinfo="none",  # said beside the metric: one line per family
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
            fillcolor=style.colour,
            opacity=0.14,
            hoverinfo="skip",
            **shared,
        )
    figure.add_scatter(
        x=step,
        y=rounded(one.metric),
        mode="lines+markers" if len(step) <= 40 else "lines",
        line=line,
        marker={"color": style.colour, "symbol": style.symbol, "size": 5},
        customdata=rounded(np.interp(one.step - 1, updates, rate), 3) if updates.size else None,
        hovertemplate="%{y:.4g} at rate %{customdata:.3g}",
        **shared,
    )


def rates_of(trial: "pd.Series[Any]", horizon: int) -> tuple[Array, Array, str]:
    """The updates, the rates a trial used there, and how to join them."""
    schedule = Schedule.from_json(trial["schedule"])
    if schedule.closed_loop:  # its rates depend on the metric: only the record knows them
        step, rate = curve_of(trial, "step"), curve_of(trial, "rate")
        return np.r_[0, step], np.r_[rate[:1], rate], "vh"
    table = schedule.rates(horizon)[: int(trial["updates"])]
    at = thin(_log(table))
    return at.astype(float), table[at], "linear"


def _log(rates: Array) -> Array:
    """Log rates, with zeros far below instead of at minus infinity."""
    return np.log10(np.maximum(rates, max(float(rates.max(initial=0.0)), 1e-30) * 1e-6))


def far_apart(curves: Sequence[Array]) -> bool:
    """Whether the peaks of these rates need a log axis to be seen side by side."""
    peaks = [float(rates.max(initial=0.0)) for rates in curves]
    return bool(peaks) and max(peaks) > APART * min(peaks) > 0


def _rate_axis(curves: Sequence[Array]) -> dict[str, Any]:
    """An axis of rates: linear where each curve is seen on it, else logarithmic."""
    rates = np.concatenate([np.empty(0), *curves])
    title, top = {"title_text": "learning rate"}, float(rates.max(initial=0.0))
    if not far_apart(curves):
        return title | {"range": [0, 1.06 * top] if top > 0 else None}
    shown = np.maximum(rates, top * 10**-DECADES)
    return title | log_axis(shown) | {"range": padded(shown, "log")}


def range_test(result: RangeTestFacts) -> go.Figure:
    """The range test: loss against rate, one line per seed, and the rates that were read off it."""
    figure, rates = blank(), np.asarray(result.rates, dtype=float)
    for seed, line in enumerate(result.losses):
        figure.add_scatter(
            x=rounded(rates[: len(line)]),
            y=rounded(line),
            mode="lines",
            line={"color": BLUE, "width": 1.5},
            opacity=0.75,
            name="loss, by seed",
            showlegend=seed == 0,
            hovertemplate=f"seed {seed}<br>rate %{{x:.3g}}: %{{y:.4g}}<extra></extra>",
        )
    figure.add_vrect(result.base_lr, result.max_lr, name="bracket", showlegend=True, **SHADE)
    for name, colour in (("steepest", RED), ("valley", GREEN), ("peak_lr", INK)):
        rate, style = getattr(result, name), {"color": colour, "dash": "dash", "width": 1.5}
        figure.add_vline(rate, name=f"{name} {rate:.2g}", showlegend=True, line=style)
    losses = np.concatenate([np.asarray(line, dtype=float) for line in result.losses])
    start, low = np.nanmedian([line[0] for line in result.losses]), np.nanmin(losses)
    view = padded(losses[losses <= start + 0.6 * (start - low or abs(start))])  # not the blow-up
    figure.update_xaxes(title_text="learning rate", **log_axis(rates))
    figure.update_yaxes(title_text="training loss", range=view)
    return figure.update_layout(height=400)
