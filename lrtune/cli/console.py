"""How sentences, names of others, tables and curves are printed in a terminal."""

import os
import re
import textwrap
from collections.abc import Sequence
from math import isfinite
from typing import IO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from lrtune.format import Cell, Table

LONGEST = 60  # characters of a name within a line
PIPED = 160  # columns where the output is no terminal: nobody folds it, and few tables need more
MARKS = {"circle": "●", "diamond": "◆", "square": "■"}  # of a family, as in the report
BLOCKS = " ▁▂▃▄▅▆▇█"
WIDTH = 48  # columns of a curve
ESSENTIAL = 4  # columns of a table whose words are folded before one of them is left out
HEAD = 15  # columns of a head, which has several lines where it is longer

# Control characters, which a terminal obeys; those that turn the writing direction around; line
# ends that are not "\n"; halves of characters, which no encoding takes.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Go on without a reader, who may be ``head -1``: the results are in files."""
        unread(self.file)


def unread(file: IO[str]) -> None:
    """Let what is written from now on go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, file.fileno())
    os.close(nowhere)


def console_of(*, stderr: bool = False) -> Console:
    """A console that prints names as they are: no markup, no emoji codes, no coloured digits."""
    console = _Console(
        highlight=False, markup=False, emoji=False, stderr=stderr, force_jupyter=False
    )
    if not console.is_terminal:
        console.width = max(PIPED, console.width)
    return console


def harmless(text: object) -> str:
    r"""Text with control characters spelled out, so that no terminal obeys them.

    >>> print(harmless("a\x1b[31mb\nc"))
    a\x1b[31mb\nc
    """
    return _UNSAFE.sub(lambda unsafe: ascii(unsafe[0])[1:-1], str(text))


def named(text: object, most: int = LONGEST) -> str:
    """A harmless name, shortened in the middle to fit a line.

    >>> named("a" * 30 + "z" * 30, most=9)
    'aaaa…zzzz'
    """
    shown = harmless(text)
    half = (most - 1) // 2
    return shown if len(shown) <= most else f"{shown[:half]}…{shown[-half:]}"


def say(console: Console, sentence: object, hanging: int = 0) -> None:
    """Print a sentence: folded between words on a terminal, on one line elsewhere.

    Further lines keep the indent, and are ``hanging`` columns further in. A word wider than the
    terminal, such as a path, stays whole, so that it can be copied.
    """
    text = harmless(sentence)
    if console.is_terminal and text.strip():
        indent = " " * (len(text) - len(text.lstrip(" ")) + hanging)
        lines = textwrap.wrap(
            text,
            max(20, console.width),
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        text = "\n".join(lines)
    console.print(text, soft_wrap=True)


def copyable(console: Console, line: object) -> None:
    """Print what a person copies, such as a command: only the terminal itself may fold it."""
    console.print(harmless(line), soft_wrap=True)


def print_table(console: Console, table: Table, rows: int | None = None) -> None:
    """Print a table, or its first rows."""
    console.print(fitted(console, table, rows))


def fitted(console: Console, table: Table, most: int | None = None) -> RichTable:
    """A table, or its first rows, with as many of its columns as there is room for.

    Words are folded only where the first few columns need it.
    """
    unbounded = console.options.update(max_width=10_000)
    for columns in range(len(table.heads), 1, -1):
        drawn = _drawn(table, table.cells[:most], columns)
        width = console.measure(drawn, options=unbounded)
        if (width.maximum if columns > ESSENTIAL else width.minimum) <= console.width:
            break
    if (rest := len(table.rows) - drawn.row_count) > 0:
        drawn.caption, drawn.caption_justify = f"and {rest} more", "left"
    return drawn


def _drawn(table: Table, rows: Sequence[Sequence[Cell]], columns: int) -> RichTable:
    """Columns of words are folded where need be, columns of figures are not."""
    drawn = RichTable(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    texts = [[_text(cell) for cell in row[:columns]] for row in rows]
    for at, head in enumerate(table.heads[:columns]):
        lines = textwrap.wrap(named(head), HEAD, break_on_hyphens=False)
        title = "\n".join(lines)
        if at < table.numeric:
            drawn.add_column(title, overflow="fold")
            continue
        lines += [line for row in texts for line in row[at].plain.split("\n")]
        width = max(map(cell_len, lines))
        drawn.add_column(title, justify="right", no_wrap=True, min_width=width)
    for row in texts:
        drawn.add_row(*row)
    return drawn


def _text(cell: Cell) -> Text:
    text, indent = Text(), "  " if cell.family else ""
    if cell.family:
        from lrtune.reports.plot_style import look

        style = look(cell.family)
        text.append(f"{MARKS[style.symbol]} ", style.colour)
    text.append(named(cell.shown) if cell.family else harmless(cell.shown))
    return text.append(f"\n{indent}{harmless(cell.below)}", "dim") if cell.below else text


def sparkline(values: Sequence[float]) -> str:
    """A curve as a line of blocks, of which the highest is the highest value.

    Args:
        values: at even distances, none of them negative.

    Example:
        >>> sparkline([0, 1, 2, 4])[::16]
        ' ▂▄'
    """
    last = len(values) - 1
    picked = [values[i * last // (WIDTH - 1)] for i in range(WIDTH)]
    top = max(filter(isfinite, picked), default=0.0)
    heights = [value / top if top and isfinite(value) else 0.0 for value in picked]
    return "".join(BLOCKS[max(0, round(8 * height))] for height in heights)
