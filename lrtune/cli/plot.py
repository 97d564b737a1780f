"""Curves in block characters, one panel each, on common axes."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, log10

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from lrtune.cli.console import named, say

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII = str.maketrans(BLOCKS + "…", " ..::++##~")  # for terminals without them
WIDTH, HEIGHT = 36, 8  # of a curve: two fit side by side on 80 columns
FRAME = 4  # columns of a panel beside its curve
DECADES = 3  # that a log scale shows
APART = 10  # peaks that differ by more than this factor need a log scale


@dataclass(frozen=True, slots=True)
class Curve:
    """What a panel shows: values at even distances, none of them negative."""

    title: str
    values: Sequence[float]
    colour: str = ""


def plot(console: Console, curves: Sequence[Curve], what: str, first: float, last: float) -> None:
    """Draw curves, as many next to each other as the terminal is wide enough for.

    Args:
        console: where to.
        curves: at least one.
        what: the curves show, over what.
        first: what the common horizontal axis begins with.
        last: what it ends with.
    """
    tops = [max(filter(isfinite, curve.values), default=0.0) for curve in curves]
    top = max(tops) or 1.0
    log = min(tops) < top / APART
    bottom, scale = (top / 10**DECADES, ", log scale") if log else (0, "")
    width = max(1, min(WIDTH, console.width - FRAME))
    say(console, f"{what} ({first:.4g} to {last:.4g}); height {bottom:.3g} to {top:.3g}{scale}")
    plain = ASCII if console.options.ascii_only else {}
    panels = []
    for curve in curves:
        drawn = Text(_blocks(curve, top, log, width).translate(plain), curve.colour, no_wrap=True)
        title = Text(named(curve.title, max(1, width - FRAME)).translate(plain), curve.colour)
        panels.append(Panel(drawn, title=title, title_align="left", width=width + FRAME))
    console.print(Columns(panels, padding=0))


def _blocks(curve: Curve, top: float, log: bool, width: int) -> str:
    """The lines of a curve, the highest first."""
    count = len(curve.values)
    picked = [curve.values[i * (count - 1) // max(1, width - 1)] for i in range(width)]
    levels = [round(_height(value, top, log) * HEIGHT * 8) for value in picked]
    return "\n".join(
        "".join(BLOCKS[min(8, max(0, level - row * 8))] for level in levels)
        for row in reversed(range(HEIGHT))
    )


def _height(value: float, top: float, log: bool) -> float:
    """Where a value lies, 0 ... 1."""
    if not isfinite(value) or value <= 0:
        return 0.0
    return max(0.0, 1 + log10(value / top) / DECADES) if log else value / top
