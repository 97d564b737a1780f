"""What a notebook's cell shows, drawn again in place, without widgets."""

import io
import time
from importlib import import_module
from typing import Any

from rich.console import Console, RenderableType

SECONDS = 0.5  # between two pictures: each is a message to the browser
WIDTH, HEIGHT = 110, 40
CODE = (
    '<pre style="white-space:pre;overflow-x:auto;line-height:normal;'
    "font-family:Menlo,'DejaVu Sans Mono',consolas,monospace\">{code}</pre>"
)


class Cell:
    """One output of a cell; the first drawing makes it, the next ones replace it."""

    def __init__(self) -> None:
        """Draw nothing yet."""
        self._handle: Any = None
        self._drawn = 0.0

    def show(self, content: RenderableType) -> None:
        """Show this, unless something was shown a moment ago."""
        now = time.monotonic()
        if self._handle is not None and now - self._drawn < SECONDS:
            return
        self._drawn = now
        self._put(as_html(content))

    def close(self) -> None:
        """Take it away."""
        if self._handle is not None:
            self._put("")

    def _put(self, html: str) -> None:
        notebook = import_module("IPython.display")  # there is one, or nobody draws in a cell
        if self._handle is None:
            self._handle = notebook.display(notebook.HTML(html), display_id=True)
        else:
            self._handle.update(notebook.HTML(html))


def as_html(content: RenderableType) -> str:
    """What rich would print, as HTML that needs no style sheet."""
    console = Console(
        file=io.StringIO(),
        record=True,
        force_terminal=True,
        force_jupyter=False,
        width=WIDTH,
        height=HEIGHT,
        highlight=False,
        markup=False,
        emoji=False,
    )
    console.print(content)
    return console.export_html(inline_styles=True, code_format=CODE)
