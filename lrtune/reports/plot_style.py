"""What all figures share: the template, axes, curves thinned for the eye, and a page."""

import html
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from lrtune.errors import InputError
from lrtune.verdict.settings import Objective
from lrtune.verdict.wording import words

Array = np.ndarray[Any, np.dtype[np.float64]]

SHADE: dict[str, Any] = {"fillcolor": "rgba(128,128,128,0.14)", "line_width": 0, "layer": "below"}
LABEL = 48  # characters: names come from anyone's files, and a longer label leaves no plot
INK, GRID = "#757575", "rgba(128,128,128,0.22)"  # readable on white and on a dark page

_AXIS = {
    "gridcolor": GRID,
    "linecolor": GRID,
    "zeroline": False,
    "automargin": True,
    "title": {"standoff": 8, "font": {"size": 13}},
    "tickformat": "~g",
}
TEMPLATE = go.layout.Template(
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


def blank() -> go.Figure:
    """An empty figure."""
    return go.Figure(layout={"template": TEMPLATE})


def linked(gap: float = 0.06) -> go.Figure:
    """An empty figure of two panels on one x axis, so that a hover reads off both at once.

    The upper panel's traces are on axis `y`, the lower one's on `y2`.
    """
    figure = blank()
    figure.update_layout(
        hovermode="x unified",
        hoversubplots="axis",
        hoverlabel={"font": {"size": 12}, "namelength": -1},
        yaxis={"domain": [0.5 + gap / 2, 1]},
        yaxis2={"domain": [0, 0.5 - gap / 2], "anchor": "x"},
    )
    spike = {"spikemode": "across", "spikethickness": 1, "spikecolor": INK, "spikedash": "dot"}
    return figure.update_xaxes(anchor="y2", showspikes=True, spikesnap="cursor", **spike)


COLUMNS, PANEL = 2, 215  # panels beside each other, and the pixels of a row of them


def panels(amount: int) -> dict[str, Any]:
    """The layout of panels that share their y axis, on a page of any width."""
    rows = -(-amount // COLUMNS)
    height = PANEL * rows + 40
    room = {"horizontal_spacing": 0.05, "vertical_spacing": 70 / height}  # for titles
    grid = make_subplots(rows, COLUMNS, shared_yaxes="all", **room).layout
    layout: dict[str, Any] = {"height": height}
    for place in range(amount):
        x, y = axes_of(place)
        layout[x] = grid[x].to_plotly_json()
        layout[y] = grid[y].to_plotly_json() | {"showticklabels": place % COLUMNS == 0}
    return layout


def axes_of(place: int) -> tuple[str, str]:
    """The names of a panel's two axes in the layout.

    Example:
        >>> axes_of(0), axes_of(1)
        (('xaxis', 'yaxis'), ('xaxis2', 'yaxis2'))
    """
    number = "" if place == 0 else str(place + 1)
    return f"xaxis{number}", f"yaxis{number}"


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


# Plotly 4 has a button that uploads the figure: not for somebody else's results.
_CONFIG = {"displaylogo": False, "modeBarButtonsToRemove": ["sendChartToCloud"]}


def save(figure: go.Figure, path: str | Path) -> Path:
    """Write a figure as a self-contained `.html` file.

    Returns:
        The path written.

    Raises:
        InputError: as ``check_path``, or the file cannot be written.
    """
    path = Path(path)
    check_path(path)
    try:
        figure.write_html(path, include_plotlyjs=True, config=_CONFIG)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def check_path(path: Path) -> None:
    """Look whether a figure can be saved there, before one is worked out.

    Raises:
        InputError: another suffix than `.html`, no such folder, or a folder itself.
    """
    if path.suffix.lower() != ".html":
        raise InputError(f"{path}: a figure is saved as .html")
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"{path}: expected a file in a folder that exists")
