"""Curves in block characters, one or several side by side on common axes."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, log10

from rich.console import Console
from rich.text import Text

from lrtune.screen.console import named

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII = str.maketrans(BLOCKS + "┤└─…", " ..::++##|+-~")  # for terminals without them
AXIS, GAP = 11, 3  # columns of the labels on the left, and between two panels
NARROWEST, WIDEST = 26, 72  # columns of a panel
HEIGHT = 12
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
        what: the common vertical axis shows.
        first: what the common horizontal axis begins with.
        last: what it ends with.
    """
    room = console.width - AXIS
    beside = min(len(curves), max(1, (room + GAP) // (NARROWEST + GAP)))
    width = max(10, min(WIDEST, (room + GAP) // beside - GAP))
    tops = [max(filter(isfinite, curve.values), default=0.0) for curve in curves]
    top = max(tops) or 1.0
    log = min(tops) < top / APART
    for begin in range(0, len(curves), beside):
        row = curves[begin : begin + beside]
        lines = [Text(f"{what}{', log scale' if log else ''}")] if begin == 0 else [Text("")]
        bottom = f"{top / 10**DECADES:.3g}" if log else "0"
        labels = {0: f"{top:.3g}", HEIGHT - 1: bottom}
        panels = [_panel(curve, top, log, width) for curve in row]
        lines.append(_join(" " * AXIS, [named(c.title, width).ljust(width) for c in row], row))
        lines += [
            _join(f"{labels.get(i, ''):>{AXIS - 2}} ┤", [panel[i] for panel in panels], row)
            for i in range(HEIGHT)
        ]
        ends = f"{first:<{width // 2}.4g}{last:>{width - width // 2}.4g}"
        lines.append(Text(" " * (AXIS - 1) + "└" + (" " * GAP).join(["─" * width] * len(row))))
        lines.append(Text(" " * AXIS + (" " * GAP).join([ends] * len(row))))
        for line in lines:
            line.rstrip()
            if console.options.ascii_only:
                line.plain = line.plain.translate(ASCII)
            console.print(line, soft_wrap=True)


def _panel(curve: Curve, top: float, log: bool, width: int) -> list[str]:
    """The lines of a panel, the highest first."""
    count = len(curve.values)
    picked = [curve.values[i * (count - 1) // max(1, width - 1)] for i in range(width)]
    levels = [round(_height(value, top, log) * HEIGHT * 8) for value in picked]
    return [
        "".join(BLOCKS[min(8, max(0, level - row * 8))] for level in levels)
        for row in reversed(range(HEIGHT))
    ]


def _height(value: float, top: float, log: bool) -> float:
    """Where a value lies, 0 ... 1."""
    if not isfinite(value) or value <= 0:
        return 0.0
    return max(0.0, 1 + log10(value / top) / DECADES) if log else value / top


def _join(label: str, cells: Sequence[str], curves: Sequence[Curve]) -> Text:
    line = Text(label)
    for number, (cell, curve) in enumerate(zip(cells, curves, strict=True)):
        line.append(" " * GAP if number else "")
        line.append(cell, curve.colour)
    return line
