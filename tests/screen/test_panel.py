"""The running search on terminals of all sizes."""

import io
import math
import re
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from lrtune.schedule import FAMILIES
from lrtune.screen.block import Block
from lrtune.screen.panel import Panel, rest
from lrtune.screen.standings import Row

SEARCHED = [name for name, family in FAMILIES.items() if family.searchable]
MORE = {"plateaued": "1", "pruned": "2", "accuracy": "0.95", "settings": "warmup 0.1, eta_min 0"}
ROWS = [
    Row(name, 0.1 + i / 100, i / 100, 0.05, 6, "45%, 12%", more=MORE)
    for i, name in enumerate(SEARCHED)
]
PANEL = Panel(0.42, "3 min 05 s left", ["45 of 108 trials", "20 done"], ROWS, "best", "trials")


def drawn(width: int, height: int, panel: Panel = PANEL, **options) -> str:
    out = io.StringIO()
    options = {"color_system": None, "force_terminal": True, **options}
    console = Console(file=out, width=width, height=height, **options)
    console.print(panel)
    return out.getvalue()


@pytest.mark.parametrize("height", [5, 10, 24, 50])
@pytest.mark.parametrize("width", [12, 40, 60, 80, 100, 160, 300])
def test_it_fits(width: int, height: int) -> None:
    lines = drawn(width, height).splitlines()
    assert len(lines) < max(height, 6)
    assert max(map(cell_len, lines)) <= width
    assert "42%" in lines[1]


def test_the_leading_few_and_the_rest_in_a_line() -> None:
    few, all_of_them = drawn(80, 24), drawn(160, 50)
    shown = [name for name in SEARCHED if re.search(rf"\b{name}  ", few)]
    assert shown == SEARCHED[: len(shown)] and 8 <= len(shown) < len(SEARCHED)
    assert f"and {len(SEARCHED) - len(shown)} more: {SEARCHED[len(shown)]} " in few
    assert all(re.search(rf"\b{name}  ", all_of_them) for name in SEARCHED)
    assert "more:" not in all_of_them


def test_a_wider_terminal_is_told_more() -> None:
    heads = [drawn(width, 50).splitlines()[5].split() for width in (40, 60, 80, 110, 160)]
    assert heads[0] == ["family", "best", "trials"]
    assert heads[2] == ["family", "best", "trials", "behind", "peak_lr", "now"]
    assert heads[4][-4:] == ["plateaued", "pruned", "accuracy", "settings"]
    assert "…" not in drawn(160, 50) + drawn(80, 50)
    assert [len(h) for h in heads] == sorted(len(h) for h in heads)


def test_the_rest_says_what_became_of_it() -> None:
    nan = math.nan
    rows = [
        Row("a", 0.5, 0.1, 0.1, 6),
        Row("b", nan, nan, nan, 0),
        Row("c", 0.9, 0.5, 0.1, 6, "no more seeds", True),
    ]
    assert rest(rows) == "and 3 more: a 0.5, c 0.9; 1 without a value yet"


def test_the_first_stands_out_though_it_gets_no_more() -> None:
    first = Row("wsd", 0.1, 0.0, 0.05, 6, "1 lost", True)
    shown = drawn(80, 24, replace(PANEL, rows=[first, *ROWS]), color_system="truecolor")
    (line,) = [line for line in shown.splitlines() if "1 lost" in line]
    assert "\x1b[1m" in line and "\x1b[2m" not in line


def test_without_colours_no_colour_and_with_them_the_reports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "38;2;31;126;194" in drawn(80, 24, color_system="truecolor")  # cosine's blue
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[\d;]*(3[0-9]|38)[;m]", drawn(80, 24, color_system="truecolor"))


def test_a_narrower_terminal_is_left_clean() -> None:
    """Lines that the terminal has folded since are gone back over."""
    out = io.StringIO()
    console = Console(file=out, width=120, height=24, force_terminal=True, color_system=None)
    block = Block(console)
    block.show(PANEL)
    block.close()
    block.show(PANEL)
    console.width = 60
    before = len(out.getvalue())
    block.lines()
    wide = [cell_len(line) for line in drawn(120, 24).splitlines()]
    folded = sum((cells - 1) // 60 for cells in wide if cells > 60)
    block.close()
    assert folded > 5
    assert out.getvalue()[before:].count("\x1b[2K\x1b[1A" * folded) >= 1
