"""Blocks: what a section of the report is made of, as data, and the templates that show them.

Text is escaped there. What is HTML already is a ``markupsafe.Markup``.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lrtune.format import limited
from lrtune.reports.palette import look


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph; style is a class of the style sheet."""

    kind: ClassVar[str] = "text"
    said: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading within a section."""

    kind: ClassVar[str] = "heading"
    said: str


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list of names and what is said of each."""

    kind: ClassVar[str] = "bullets"
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table."""

    shown: object  # its text
    key: object = None  # what it is sorted by, where that is not the text
    below: str = ""  # smaller, under the text: what it rests on
    family: str = ""  # whose colour stands before the text
    end: str = ""  # the way to end whose shade stands before the text
    share: float | None = None  # of 1, drawn as a bar before the text
    style: str = ""  # ``strong`` or ``code``

    @property
    def sorts(self) -> bool:
        """Whether it has a key; NaN is none."""
        return self.key is not None and self.key == self.key


@dataclass(frozen=True, slots=True)
class Table:
    """A table that scrolls by itself; columns from `numeric` to `until` are right-aligned."""

    kind: ClassVar[str] = "table"
    heads: Sequence[str]
    rows: Sequence[Sequence[object]]  # of Cells, or of what they show
    style: str = ""
    numeric: int = 1
    until: int | None = None

    @property
    def right(self) -> range:
        """The columns that are right-aligned."""
        return range(len(self.heads))[self.numeric : self.until]

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows."""
        return [[c if isinstance(c, Cell) else Cell(c) for c in row] for row in self.rows]


@dataclass(frozen=True, slots=True)
class Figure:
    """A plotly figure, as data beside the place where the page's script draws it."""

    kind: ClassVar[str] = "figure"
    name: str
    figure: go.Figure
    caption: str

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.figure.layout.height or 440)

    @property
    def data(self) -> Markup:
        """JSON that cannot end the script element around it."""
        text = self.figure.to_json()
        json.loads(text)
        for char in "<>&":
            text = text.replace(char, f"\\u{ord(char):04x}")
        return Markup(text)


@dataclass(frozen=True, slots=True)
class Code:
    """Source code with a button that copies it; `name` is its anchor."""

    kind: ClassVar[str] = "code"
    name: str
    source: str


@dataclass(frozen=True, slots=True)
class Shares:
    """A bar of the ways to end and the share of each in percent."""

    kind: ClassVar[str] = "shares"
    parts: Sequence[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Fold:
    """What is shown on demand."""

    kind: ClassVar[str] = "fold"
    summary: str
    blocks: "Sequence[Block]"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several, chosen by name, the first one at first; `name` begins their anchors."""

    kind: ClassVar[str] = "choice"
    name: str
    label: str
    options: "Sequence[tuple[str, Sequence[Block]]]"


Block: TypeAlias = Text | Heading | Bullets | Table | Figure | Code | Shares | Fold | Choice


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the page, folded."""

    name: str  # its anchor
    title: str  # its heading
    summary: str  # what it says, in a line
    blocks: Sequence[Block]  # what it holds


def drawn(name: str, figure: go.Figure, caption: str, otherwise: str) -> Block:
    """A figure with its caption, or the sentence that says why there is none."""
    if not any(len(trace.x or ()) for trace in figure.data):
        return Text(otherwise)
    return Figure(name, figure, caption)


_LOADER = PackageLoader("lrtune.reports")


def render(template: str, **context: Any) -> str:
    """A template with its values: plain text is escaped, and cut where it is very long."""
    return _ENVIRONMENT.get_template(template).render(**context)


def _shown(value: object) -> object:
    return value if isinstance(value, Markup) else limited(str(value))


def _unbroken(text: str) -> Markup:
    """A sentence whose options and percentages no line breaks."""
    parts = re.split(r"(--[\w-]+|\d+ %)", limited(text))
    return Markup("").join(
        Markup('<span class="option">{}</span>').format(part) if at % 2 else part
        for at, part in enumerate(parts)
    )


def _source(name: str) -> Markup:
    """A style sheet or a script of ours, as it is."""
    return Markup(_LOADER.get_source(_ENVIRONMENT, name)[0])


_ENVIRONMENT = Environment(
    loader=_LOADER,
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_shown,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters["colour"] = lambda family: look(family).colour
_ENVIRONMENT.filters["unbroken"] = _unbroken
_ENVIRONMENT.globals["source"] = _source
