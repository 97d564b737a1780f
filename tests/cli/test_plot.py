"""Curves in the terminal."""

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from lrtune.cli.plot import HEIGHT, Curve, plot

DOWN = Curve("down", [1 - i / 100 for i in range(101)])
LOW = Curve("low", [0.5] * 101)


def drawn(width: int, *curves: Curve, encoding: str = "utf-8") -> list[str]:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding)
    console = Console(file=out, width=width, color_system=None, highlight=False, markup=False)
    plot(console, curves, "rate", 0, 1000)
    out.flush()
    return raw.getvalue().decode(encoding).splitlines()


@pytest.mark.parametrize(("width", "rows"), [(5, 2), (50, 2), (79, 2), (80, 1), (160, 1)])
def test_several_stand_side_by_side_where_there_is_room(width: int, rows: int) -> None:
    head, *lines = drawn(width, DOWN, LOW)
    assert head == "rate (0 to 1000); height 0 to 1"
    assert len(lines) == rows * (HEIGHT + 2) and max(map(cell_len, lines)) <= width
    if rows == 1:  # of two on one axis, one is half as high
        assert "down" in lines[0] and "low" in lines[0]
        top, middle = (lines[i].split("│")[3] for i in (1, 2 + HEIGHT // 2))
        assert "█" in lines[1] and "█" not in top and "█" in middle


def test_peaks_far_apart_are_drawn_on_a_log_scale() -> None:
    lines = drawn(50, DOWN, Curve("tiny", [0.01] * 50))
    assert lines[0].endswith("height 0.001 to 1, log scale")
    assert sum("█" in line for line in lines) == HEIGHT + HEIGHT // 3


def test_a_terminal_without_block_characters() -> None:
    lines = drawn(60, DOWN, Curve("x" * 100, [1.0]), encoding="ascii")
    assert all(line.isascii() for line in lines)
    assert "#" in lines[5] and "?" not in "".join(lines)


def test_short_and_strange_curves() -> None:
    assert any("█" in line for line in drawn(60, Curve("one", [0.1])))
    nothing = drawn(60, Curve("nothing", [0.0, float("nan"), float("inf")]))
    assert len(nothing) == HEIGHT + 3 and "█" not in "".join(nothing)
    assert "\x1b" not in "".join(drawn(60, Curve("\x1b[31m" + "x" * 10_000, [1.0])))
