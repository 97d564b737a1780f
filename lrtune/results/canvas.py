"""What all figures share: the empty canvas, words for axes, and curves thinned for the eye."""

import html
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

Array = np.ndarray[Any, np.dtype[np.float64]]

SHADE: dict[str, Any] = {"fillcolor": "rgba(128,128,128,0.14)", "line_width": 0, "layer": "below"}
INK, GRID = "#757575", "rgba(128,128,128,0.22)"  # readable on white and on a dark page

_AXIS = {
    "gridcolor": GRID,
    "linecolor": GRID,
    "zeroline": False,
    "automargin": True,
    "title": {"standoff": 8, "font": {"size": 13}},
    "tickformat": "~g",
}
_TEMPLATE = go.layout.Template(
    layout={
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "legend": {"bgcolor": "rgba(0,0,0,0)", "tracegroupgap": 0},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": INK},
        "margin": {"l": 8, "r": 8, "t": 12, "b": 8},
        "hovermode": "closest",
    }
)


def canvas(heights: tuple[float, ...] = (1.0,), gap: float = 0.06) -> go.Figure:
    """An empty figure of panels one above the other that share their x axis."""
    figure = make_subplots(
        rows=len(heights),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=gap,
        row_heights=list(heights),
    )
    return figure.update_layout(template=_TEMPLATE)


def safe(text: object) -> str:
    """Text as plotly shall show it: plotly reads a little HTML, and TeX, in every label."""
    return html.escape(str(text), quote=False).replace("$", "&#36;")


def words(name: str) -> str:
    """A metric's name as a person writes it.

    Example:
        >>> words("cross_entropy")
        'cross-entropy'
    """
    return name.replace("cross_entropy", "cross-entropy").replace("_", " ")


def axis_title(metric: Mapping[str, Any]) -> str:
    """A validation metric and its unit as the title of an axis."""
    unit = f" ({safe(metric['unit'])})" if metric.get("unit") else ""
    return f"validation {safe(words(metric['name']))}{unit}"


def rounded(values: Array, digits: int = 5) -> list[float]:
    """Values at that many significant digits: what a page should carry."""
    return [float(f"{value:.{digits}g}") for value in np.asarray(values, dtype=float)]


def thin(values: Array, keep: int = 400) -> "np.ndarray[Any, np.dtype[np.intp]]":
    """Where to sample a curve so that it looks the same: more points where it bends.

    Both sides of every jump survive, since a jump is where a curve bends most.

    Returns:
        Increasing indices into `values`, at most `keep` + 2, with both ends.
    """
    if values.size <= keep:
        return np.arange(values.size)
    bend = np.abs(np.diff(values, n=2, prepend=values[0], append=values[-1]))
    bend = np.where(np.isfinite(bend), bend, 0.0)
    weight = np.cumsum(bend / (bend.sum() or 1.0) + 1.0 / values.size)
    inner = np.searchsorted(weight, np.linspace(0, weight[-1], keep), side="left")
    return np.unique(np.r_[0, np.minimum(inner, values.size - 1), values.size - 1])


def value_axis(values: Array) -> dict[str, Any]:
    """A log axis where a linear one would crush the good end: all positive, over a decade."""
    finite = values[np.isfinite(values)]
    spread = finite.size > 0 and finite.min() > 0 and finite.max() > 10 * finite.min()
    return log_axis(finite) if spread else {"type": "linear"}


def log_axis(values: Array) -> dict[str, Any]:
    """A log axis whose labels do not run into each other: 1, 2, 5, or decades alone."""
    finite = values[np.isfinite(values) & (values > 0)]
    ratio = float(finite.max() / finite.min()) if finite.size else 1.0
    return {"type": "log", "dtick": 1 if ratio > 2000 else "D2" if ratio > 4 else None}


def padded(values: Array, kind: str = "linear", pad: float = 0.06) -> list[float] | None:
    """The range of an axis that shows all finite values with room around; None for none."""
    finite = values[np.isfinite(values) & ((values > 0) if kind == "log" else True)]
    if not finite.size:
        return None
    if kind == "log":
        finite = np.log10(finite)
    low, high = float(finite.min()), float(finite.max())
    room = pad * (high - low or abs(high) or 1.0)
    return [low - room, high + room]
