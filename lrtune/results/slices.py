"""The figures inside one family: score over each knob, and over two of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrtune.results.canvas import (
    GRID,
    INK,
    TEMPLATE,
    Array,
    axes_of,
    axis_title,
    canvas,
    log_axis,
    panels,
    rounded,
    safe,
    value_axis,
)
from lrtune.results.knobs import FEWEST, Importance, Knob, importance, knobs_of, scored
from lrtune.results.palette import look
from lrtune.results.summary import ranked

CELLS = 28  # of the shade, a side
REACH = 0.12  # of the searched range: how far a trial's score is taken to say something
LEAST = 2.0  # trials' worth of weight that must lie around a cell for it to be shaded


def slices(trials: pd.DataFrame, family: str, objective: Mapping[str, Any]) -> go.Figure:
    """Score over each knob of a family, a panel a knob; without traces where none has a score."""
    own = scored(trials, family)
    knobs = knobs_of(own, family)
    layout = panels(len(knobs)) | {"template": TEMPLATE, "showlegend": False}
    values = own["value"].to_numpy(float)
    shown, numbers, marker = rounded(values), own["number"].tolist(), _marks(own, family, objective)
    data = []
    for place, knob in enumerate(knobs):
        x, y = axes_of(place)
        name = safe(knob.name)
        layout[x] |= {"title": {"text": name}, **_scale(knob)}
        layout[y] |= value_axis(values)
        point = f"{name} %{{x}}" if knob.choices else f"{name} %{{x:.3g}}"
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": _shown(knob),
                "y": shown,
                "customdata": numbers,
                "marker": marker,
                "name": name,
                "hovertemplate": f"trial %{{customdata}}<br>{point}: %{{y:.4g}}<extra></extra>",
                "xaxis": x.replace("axis", ""),
                "yaxis": y.replace("axis", ""),
            }
        )
    if knobs:
        title = axis_title(objective).removeprefix("validation ")  # a panel is not high
        layout["yaxis"] |= {"title": {"text": title}}
    return go.Figure(data, layout)


def _marks(own: pd.DataFrame, family: str, objective: Mapping[str, Any]) -> dict[str, Any]:
    """Filled: finished; open: ended before, as forecast; large: the best."""
    colour, _, symbol = look(family)
    finished = own["finished"].to_numpy(bool)
    best = own.index.isin(ranked(own, objective["direction"]).head(1).index)
    return {
        "color": colour,
        "symbol": np.where(finished, symbol, f"{symbol}-open").tolist(),
        "size": np.where(best, 12, np.where(finished, 7, 6)).tolist(),
        "opacity": np.where(finished, 0.85, 0.55).tolist(),
        "line": {"width": np.where(finished, 0, 1).tolist()},
    }


def landscape(
    trials: pd.DataFrame, family: str, objective: Mapping[str, Any], found: Importance | None = None
) -> go.Figure:
    """Score over the two numbers that mattered most; of few trials, over the peak and another.

    The shade is a local mean of the finished trials, and only where enough of them lie around; a
    trial's own colour is its own score.

    Args:
        trials: the search's table.
        family: whose.
        objective: name, direction and unit of the value.
        found: what mattered, if that was worked out before.
    """
    own = scored(trials, family)
    numbers = {knob.name: knob for knob in knobs_of(own, family) if not knob.choices}
    if len(numbers) < 2 or len(own) < 3:
        return canvas()
    found = importance(own, family, objective) if found is None else found
    others = [name for name in numbers if name not in ("peak_lr", "warmup")]
    order = [*found.names, "peak_lr", *others, "warmup"]
    x, y = [numbers[name] for name in dict.fromkeys(order) if name in numbers][:2]
    if y.name == "peak_lr":
        x, y = y, x
    finished = own["finished"].to_numpy(bool)
    minimize = objective["direction"] == "minimize"
    scores, ticks = _coloured(own["value"].to_numpy(float), minimize)
    colours = _colours(look(family).colour, minimize)
    least, most = ticks["tickvals"][0], ticks["tickvals"][-1]
    data: list[dict[str, Any]] = []
    if finished.sum() >= FEWEST:
        across, up, shade = _shade(x.places[finished], y.places[finished], scores[finished])
        data.append(
            {
                "type": "contour",
                "x": rounded(10**across if x.log else across),
                "y": rounded(10**up if y.log else up),
                "z": np.clip(shade, least, most).astype(np.float32),
                "colorscale": colours,
                "zmin": least,
                "zmax": most,
                "contours": {"coloring": "heatmap", "showlines": True},
                "ncontours": 8,
                "line": {"width": 0.6, "color": GRID},
                "showscale": False,
                "connectgaps": False,
                "hoverinfo": "skip",
            }
        )
    said = [f"{value:.4g}" for value in own["value"]]
    title = {"text": axis_title(objective), "side": "right", "font": {"size": 13}}
    data.append(
        {
            "type": "scatter",
            "x": _shown(x),
            "y": _shown(y),
            "customdata": [list(pair) for pair in zip(own["number"].tolist(), said, strict=True)],
            "mode": "markers",
            "marker": {
                "color": rounded(scores),
                "colorscale": colours,
                "cmin": least,
                "cmax": most,
                "symbol": look(family).symbol,
                "size": np.where(finished, 10, 6).tolist(),
                "line": {"color": INK, "width": np.where(finished, 1.2, 0.5).tolist()},
                "colorbar": {"title": title, "thickness": 14, "outlinewidth": 0, **ticks},
            },
            "hovertemplate": "trial %{customdata[0]}: %{customdata[1]}<br>"
            f"{safe(x.name)} %{{x:.3g}}, {safe(y.name)} %{{y:.3g}}<extra></extra>",
        }
    )
    layout = {
        "template": TEMPLATE,
        "xaxis": {"title": {"text": safe(x.name)}, **_scale(x)},
        "yaxis": {"title": {"text": safe(y.name)}, **_scale(y)},
        "height": 380,
        "showlegend": False,
    }
    return go.Figure(data, layout)


def _shown(knob: Knob) -> list[Any]:
    if knob.choices:
        return [safe(word) for word in knob.values]
    return rounded(knob.values.to_numpy(float))


def _scale(knob: Knob) -> dict[str, Any]:
    if knob.choices:
        return {"type": "category", "categoryarray": [safe(word) for word in knob.choices]}
    if not knob.log:
        return {"type": "linear", "nticks": 5}
    axis = log_axis(knob.values.to_numpy(float))  # of panels so small, decades are enough
    return axis | {"dtick": 1} if np.ptp(knob.places) > 1 else axis


def _coloured(values: Array, minimize: bool) -> tuple[Array, dict[str, Any]]:
    """Values on the scale of their axis, and the ticks of a colour bar: the worst quarter is one.

    A few that are far off must not take all the shades there are.
    """
    log = value_axis(values)["type"] == "log"
    places = np.log10(values) if log else values
    best, worst = np.quantile(places, [0, 0.75] if minimize else [1, 0.25])
    ticks = np.linspace(min(best, worst), max(best, worst), 4)
    shown = [f"{10**tick if log else tick:.3g}" for tick in ticks]
    shown[-1 if minimize else 0] += " or worse"
    return places, {"tickvals": rounded(ticks), "ticktext": shown}


def _colours(colour: str, minimize: bool) -> list[list[Any]]:
    """From faint to the family's full colour, which is that of the best."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    ends = [f"rgba({red},{green},{blue},{opacity})" for opacity in (0.95, 0.06)]
    return [[0.0, ends[0]], [1.0, ends[1]]] if minimize else [[0.0, ends[1]], [1.0, ends[0]]]


def _shade(x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
    """A local mean over a grid: NaN where too few trials lie around."""
    sides = [np.linspace(side.min(), side.max(), CELLS) for side in (x, y)]
    across, up = (
        (grid[:, None] - side) / np.ptp(side) for grid, side in zip(sides, (x, y), strict=True)
    )
    weight = np.exp(-(across[None] ** 2 + up[:, None] ** 2) / (2 * REACH**2))  # (CELLS, CELLS, n)
    total = weight.sum(-1)
    mean = weight @ z / np.maximum(total, 1e-12)
    return sides[0], sides[1], np.where(total >= LEAST, mean, np.nan)
