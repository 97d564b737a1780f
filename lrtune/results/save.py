"""A figure as a page that stands alone."""

from pathlib import Path

import plotly.graph_objects as go

from lrtune.errors import InputError

# Plotly 4 has a button that uploads the figure: not for somebody else's results.
_CONFIG = {"displaylogo": False, "modeBarButtonsToRemove": ["sendChartToCloud"]}


def save(figure: go.Figure, path: str | Path) -> Path:
    """Write a figure as a self-contained `.html` file.

    Returns:
        The path written.

    Raises:
        InputError: as `check`, or the file cannot be written.
    """
    path = Path(path)
    check(path)
    try:
        figure.write_html(path, include_plotlyjs=True, config=_CONFIG)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def check(path: Path) -> None:
    """Look whether a figure can be saved there, before one is worked out.

    Raises:
        InputError: another suffix than `.html`, no such folder, or a folder itself.
    """
    if path.suffix.lower() != ".html":
        raise InputError(f"{path}: a figure is saved as .html")
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"{path}: expected a file in a folder that exists")
