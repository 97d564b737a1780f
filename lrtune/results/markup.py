"""Small pieces of HTML, escaped by construction: a plain string never becomes a tag."""

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from lrtune.results.palette import look

NARROW = "\N{NARROW NO-BREAK SPACE}"


LONGEST = 2000  # characters of a text that are shown: names come from anyone's files


class Markup(str):
    """HTML that we wrote ourselves; everything else is text."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Any value as text, in its own writing direction; Markup passes as it is.

    Example:
        >>> text("<b>")
        '<bdi>&lt;b&gt;</bdi>'
    """
    if isinstance(value, Markup):
        return value
    return Markup(f"<bdi>{html.escape(limited(str(value)))}</bdi>")


def limited(text: str, most: int = LONGEST) -> str:
    """A text, the beginning of a very long one.

    Example:
        >>> limited("abcdef", 3)
        'abc… (6 characters)'
    """
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def join(parts: Iterable[object], between: str = "") -> Markup:
    """Parts as one piece of HTML."""
    return Markup(between.join(text(part) for part in parts))


def tag(name: str, *parts: object, css: str = "") -> Markup:
    """An element around its parts."""
    attribute = f' class="{css}"' if css else ""
    return Markup(f"<{name}{attribute}>{join(parts)}</{name}>")


def plural(amount: int, one: str, many: str) -> str:
    """An amount and its noun.

    Example:
        >>> plural(1, "family", "families")
        '1 family'
    """
    return f"{count(amount)} {one if amount == 1 else many}"


def number(value: object, digits: int = 4) -> str:
    """A number at that many significant digits; a dash for none."""
    if value is None or isinstance(value, (str, bool, list, dict)):
        return "–" if value is None else str(value)
    amount = float(value)  # type: ignore[arg-type]
    if not np.isfinite(amount):
        return "–"
    return f"{amount:,.0f}" if abs(amount) >= 10**digits - 0.5 else f"{amount:.{digits}g}"


def setting(value: object, digits: int = 4) -> object:
    """A setting as text: lists and nested settings flat, numbers short."""
    if isinstance(value, list):
        return ", ".join(str(setting(item)) for item in value)
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):
        return number(value, digits)
    return "–" if value is None else value


def count(value: float) -> str:
    """A whole number with its thousands apart.

    Example:
        >>> count(12345)
        '12,345'
    """
    return f"{round(value):,}"


def aligned(value: float, digits: int = 4) -> str:
    """A number with all its significant digits, trailing zeros too.

    Example:
        >>> aligned(0.33)
        '0.3300'
    """
    plain = not np.isfinite(value) or abs(value) >= 10 ** (digits - 1) - 0.05
    return number(value, digits) if plain else f"{value:#.{digits}g}"


def measured(value: float, metric: Any, digits: int = 4) -> str:
    """A value with its unit."""
    unit = metric.get("unit")
    shown = aligned(value, digits)
    return f"{shown}{NARROW}{unit}" if unit and np.isfinite(value) else shown


def duration(seconds: float) -> str:
    """Seconds in the two units that a person would say.

    Example:
        >>> duration(4000).split()
        ['1', 'h', '7', 'min']
    """
    if not np.isfinite(seconds) or seconds < 60:
        return f"{number(seconds, 2)}{NARROW}s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes}{NARROW}min"
    return f"{minutes // 60:,}{NARROW}h {minutes % 60}{NARROW}min"


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[object]],
    css: str = "",
    numeric: int = 1,
    until: int | None = None,
) -> Markup:
    """A table in a box that scrolls by itself; columns from `numeric` to `until` right-aligned.

    A cell is text, Markup, or a (shown, sort key) pair.
    """
    right = range(len(heads))[numeric:until]
    head = join(tag("th", h, css="n" if i in right else "") for i, h in enumerate(heads))
    body = join(tag("tr", join(_cell(c, i in right) for i, c in enumerate(row))) for row in rows)
    inner = tag("thead", tag("tr", head)) + tag("tbody", body)
    return tag("div", tag("table", Markup(inner), css=css), css="scroll")


def _cell(cell: object, numeric: bool) -> Markup:
    shown, key = cell if isinstance(cell, tuple) else (cell, None)
    css = ' class="n"' if numeric else ""
    sort = "" if key is None or key != key else f' data-key="{html.escape(str(key))}"'
    return Markup(f"<td{css}{sort}>{text(shown)}</td>")


def section(name: str, title: str, *parts: object) -> Markup:
    """A section of the page, with its anchor."""
    return Markup(f'<section id="{name}"><h2>{html.escape(title)}</h2>{join(parts)}</section>')


def stacked(above: object, below: str) -> Markup:
    """What a cell says, and below it, smaller, what that rests on, if anything."""
    return join([above, tag("small", below)]) if below else text(above)


def swatch(family: str) -> Markup:
    """A family's colour, to stand before its name."""
    return Markup(f'<i class="swatch" style="background:{look(family).colour}"></i>')


def code(name: str, source: str) -> Markup:
    """Code with a button that copies it."""
    return Markup(
        f'<div class="code"><button type="button" data-copy="{name}">Copy</button>'
        f'<pre><code id="{name}">{html.escape(source)}</code></pre></div>'
    )


def embed(name: str, figure: go.Figure, label: str) -> Markup:
    """A figure as data beside the place where the page's script draws it."""
    height = int(figure.layout.height or 440)
    return Markup(
        f'<div class="figure" data-figure="{name}-data" role="img" '
        f'aria-label="{html.escape(label)}" style="min-height:{height}px"></div>'
        f'<script type="application/json" id="{name}-data">{harmless(figure.to_json())}</script>'
    )


def show(name: str, figure: go.Figure, caption: str, otherwise: Markup) -> Markup:
    """A figure with its caption, or the sentence that says why there is none."""
    if not any(len(trace.x or ()) for trace in figure.data):
        return tag("p", otherwise)
    return tag("figure", embed(name, figure, caption), tag("figcaption", caption))


def harmless(json_text: str) -> str:
    """JSON that cannot end the script element around it."""
    json.loads(json_text)
    return json_text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
