"""Curves in the terminal."""

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from lrtune.screen.plot import HEIGHT, Curve, plot

DOWN = Curve("down", [1 - i / 100 for i in range(101)])
LOW = Curve("low", [0.5] * 101)


def drawn(width: int, *curves: Curve, encoding: str = "utf-8") -> list[str]:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding)
    console = Console(file=out, width=width, color_system=None, highlight=False, markup=False)
    plot(console, curves, "rate", 0, 1000)
    out.flush()
    return raw.getvalue().decode(encoding).splitlines()


@pytest.mark.parametrize(("width", "rows"), [(40, 2), (80, 1), (160, 1)])
def test_several_share_the_axes_where_there_is_room(width: int, rows: int) -> None:
    lines = drawn(width, DOWN, LOW)
    assert sum("┤" in line for line in lines) == rows * HEIGHT
    assert max(map(cell_len, lines)) <= width
    assert sum(line.count("1000") for line in lines) == 2
    labels = [line.split("┤")[0].strip() for line in lines if "┤" in line]
    assert labels == ["1", *[""] * (HEIGHT - 2), "0"] * rows
    if rows == 1:
        top, middle = lines[2], lines[2 + HEIGHT // 2]
        half = top.index("█") + (cell_len(lines[-2]) - 11) // 2 + 2
        assert "█" not in top[half:] and "█" in middle[half:]


def test_peaks_far_apart_are_drawn_on_a_log_scale() -> None:
    lines = drawn(80, DOWN, Curve("tiny", [0.01] * 50))
    assert lines[0] == "rate, log scale"
    assert lines[2].startswith("        1 ┤") and lines[1 + HEIGHT].startswith("    0.001 ┤")
    assert drawn(80, DOWN, LOW)[0] == "rate"


def test_a_terminal_without_block_characters() -> None:
    lines = drawn(60, DOWN, encoding="ascii")
    assert all(line.isascii() for line in lines)
    assert "#" in lines[5] and "?" not in "".join(lines)


def test_short_and_strange_curves() -> None:
    assert drawn(60, Curve("one", [0.1]))
    assert drawn(60, Curve("nothing", [0.0, float("nan"), float("inf")]))
    assert "\x1b" not in "".join(drawn(60, Curve("\x1b[31m" + "x" * 10_000, [1.0])))
