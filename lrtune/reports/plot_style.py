"""What all figures share: one look per family, the template, axes, thinned curves, a saved page.

Seven hues after Okabe and Ito (2008), which colour-blind readers can tell apart, their lightness
moved so that each stands out at 3:1 on white and on a dark page alike; three dashes and marker
shapes make twenty-one looks of them. The families that people compare most come first.
"""

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from lrtune.format import words
from lrtune.verdict.settings import Objective

if TYPE_CHECKING:  # takes half a second, and the terminal needs the colours alone
    import plotly.graph_objects as go

Array = np.ndarray[Any, np.dtype[np.float64]]


class Look(NamedTuple):
    """How one family is drawn."""

    colour: str
    dash: str
    symbol: str


BLUE, ORANGE, GREEN, RED = "#1f7ec2", "#cc8400", "#00976e", "#d95f0e"
PINK, SKY, GREY = "#c4669a", "#3f9fd6", "#8a8a8a"

# Each hue once before a hue comes again, with another dash and another symbol.
_HUES = (BLUE, ORANGE, GREEN, RED, PINK, SKY, GREY)
_ORDER = "cosine one_cycle wsd linear step plateau constant cosine_restarts cyclic polynomial "
_ORDER += "exponential multistep greedy inverse_time tanh rex spline inverse_sqrt sequence custom"
_ORDER += " schedule_free"
_LINES = (("solid", "circle"), ("dash", "diamond"), ("dot", "square"))
LOOKS = {
    family: Look(_HUES[at % len(_HUES)], *_LINES[at // len(_HUES)])
    for at, family in enumerate(_ORDER.split())
}
UNKNOWN = Look(GREY, "dot", "square")


def look(family: str) -> Look:
    """The look of a family; one shared grey look for names that the table does not hold.

    Example:
        >>> look("cosine").dash
        'solid'
    """
    return LOOKS.get(family, UNKNOWN)


SHADE: dict[str, Any] = {"fillcolor": "rgba(128,128,128,0.14)", "line_width": 0, "layer": "below"}
INK, GRID = "#757575", "rgba(128,128,128,0.22)"  # readable on white and on a dark page
LABEL = 48  # characters: names come from anyone's files, and a longer label leaves no plot

_AXIS = {
    "gridcolor": GRID,
    "linecolor": GRID,
    "zeroline": False,
    "automargin": True,
    "title": {"standoff": 8, "font": {"size": 13}},
    "tickformat": "~g",
}
TEMPLATE: dict[str, Any] = {
    "layout": {
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
}


def blank() -> "go.Figure":
    """An empty figure in our template."""
    import plotly.graph_objects as go

    return go.Figure(layout={"template": TEMPLATE})


def safe(text: object) -> str:
    """Text as plotly shall show it: plotly reads a little HTML, and TeX, in every label.

    Example:
        >>> safe("<b>")
        '&lt;b&gt;'
    """
    shown = " ".join(str(text).split())
    shown = shown if len(shown) <= LABEL else f"{shown[: LABEL - 1]}…"
    return html.escape(shown, quote=False).replace("$", "&#36;")


def axis_title(metric: Objective) -> str:
    """A validation metric and its unit as the title of an axis."""
    unit = f" ({safe(metric.unit)})" if metric.unit else ""
    return f"validation {safe(words(metric.name))}{unit}"


def rounded(values: ArrayLike, digits: int = 5) -> list[float]:
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


def value_axis(values: ArrayLike) -> dict[str, Any]:
    """A log axis where a linear one would crush the good end: all positive, over a decade."""
    values = np.asarray(values, dtype=float)
    finite = values[np.isfinite(values)]
    spread = finite.size > 0 and finite.min() > 0 and finite.max() > 10 * finite.min()
    return log_axis(finite) if spread else {"type": "linear"}


def log_axis(values: ArrayLike) -> dict[str, Any]:
    """A log axis whose labels do not run into each other: 1, 2, 5, or decades alone."""
    values = np.asarray(values, dtype=float)
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


def save(figure: "go.Figure", path: Path) -> str:
    """Write a figure as a page of its own that needs no network; returns what to tell."""
    # Plotly 4 has a button that uploads the figure: not for somebody else's results.
    config = {"displaylogo": False, "modeBarButtonsToRemove": ["sendChartToCloud"]}
    figure.write_html(path, include_plotlyjs=True, config=config)
    return f"wrote {path}"
