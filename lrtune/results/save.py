"""A figure as a file: a page that stands alone, or a PNG by matplotlib (no browser needed)."""

import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from lrtune.errors import InputError

# Plotly 4 has a button that uploads the figure: not for somebody else's results.
_CONFIG = {"displaylogo": False, "modeBarButtonsToRemove": ["sendChartToCloud"]}
_DASHES: dict[str, Any] = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
_DASHES |= {"longdash": (0, (8, 3)), "longdashdot": (0, (8, 3, 1, 3))}
_MARKERS = {"circle": "o", "diamond": "D", "square": "s", "x": "x"}
_MARKERS |= {"triangle-up": "^", "star": "*"}


def save(figure: go.Figure, path: str | Path) -> Path:
    """Write a figure as `.html` (self-contained) or `.png` (needs `lrtune[png]`).

    Returns:
        The path written.

    Raises:
        InputError: Any other suffix, or matplotlib is missing.
    """
    path = Path(path)
    check(path)
    try:
        if path.suffix.lower() == ".html":
            figure.write_html(path, include_plotlyjs=True, config=_CONFIG)
        else:
            _png(figure, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def check(path: Path) -> None:
    """Look whether a figure can be saved there, before one is worked out.

    Raises:
        InputError: Another suffix than `.html` and `.png`, no such folder, or a folder itself.
    """
    if path.suffix.lower() not in (".html", ".png"):
        raise InputError(f"{path}: a figure is saved as .html or .png")
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"{path}: expected a file in a folder that exists")


def _png(figure: go.Figure, path: Path) -> None:
    """Draw the figure's own lines, markers and bracket with matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(f'{path}: PNG needs matplotlib: pip install "lrtune[png]"') from error

    layout = figure.to_dict()["layout"]
    names = sorted(n for n in layout if re.fullmatch(r"yaxis\d*", n))
    tops = [layout[name].get("domain", (0, 1)) for name in names]
    page = Figure(figsize=(9, layout.get("height", 440) / 90), layout="constrained")
    panels = page.subplots(
        len(names), 1, squeeze=False, sharex=True, height_ratios=[b - a for a, b in tops]
    )[:, 0]
    for panel, name in zip(panels, names, strict=True):
        number = name.removeprefix("yaxis")
        traces = [t for t in figure.data if (t.yaxis or "y") == f"y{number}"]
        for trace in traces:
            if trace.visible is not False and trace.visible != "legendonly":
                _draw(panel, trace)
        for shape in layout.get("shapes", []):
            if shape.get("yref") == f"y{number} domain":
                _shade(panel, shape)
        x = layout.get(f"xaxis{number}") or layout.get("xaxis", {})  # panels may share one
        _axes(panel, x if name == names[-1] else {**x, "title": {}}, layout[name])
        if layout.get("showlegend", True) and panel.get_legend_handles_labels()[1]:
            panel.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    page.savefig(path, dpi=150)


def _draw(panel: Any, trace: Any) -> None:
    """One plotly line or marker trace."""
    mode, line, marker = trace.mode or "lines", trace.line, trace.marker
    y = np.asarray(trace.y, dtype=float)
    panel.plot(
        np.asarray(trace.x, dtype=float),
        y,
        linestyle=_DASHES[line.dash or "solid"] if "lines" in mode else "",
        marker=_MARKERS[marker.symbol or "circle"] if "markers" in mode else "",
        color=line.color or marker.color,
        linewidth=line.width or 2,
        markersize=(marker.size or 6) * 0.75,
        alpha=trace.opacity or marker.opacity or 1,
        drawstyle="steps-pre" if line.shape == "vh" else "default",
        label="_" if trace.showlegend is False else _plain(trace.name or "_"),
    )


def _shade(panel: Any, shape: dict[str, Any]) -> None:
    """A bracket (rect) or a mark (line) over the whole height of a panel."""
    name = _plain(shape.get("name", "_"))
    if shape["type"] == "rect":
        panel.axvspan(shape["x0"], shape["x1"], color="grey", alpha=0.15, linewidth=0, label=name)
    else:
        line = shape["line"]
        panel.axvline(shape["x0"], color=line["color"], ls=_DASHES[line["dash"]], label=name)


def _axes(panel: Any, x: dict[str, Any], y: dict[str, Any]) -> None:
    """Titles, scales, ranges and named ticks of one panel's two axes."""
    for axis, which in ((x, "x"), (y, "y")):
        kind = axis.get("type", "linear")
        panel.set(**{f"{which}label": _plain(axis.get("title", {}).get("text", ""))})
        panel.set(**{f"{which}scale": kind})
        if axis.get("range"):
            limits = np.asarray(axis["range"], dtype=float)
            panel.set(**{f"{which}lim": 10**limits if kind == "log" else limits})
        if axis.get("tickvals"):
            labels = [_plain(text) for text in axis["ticktext"]]
            panel.set(**{f"{which}ticks": axis["tickvals"], f"{which}ticklabels": labels})
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)


def _plain(text: str) -> str:
    """A plotly label as matplotlib shows it: entities undone, no formulas."""
    return html.unescape(text).replace("$", r"\$")
