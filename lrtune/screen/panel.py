"""What a running search or its finals look like: as much as the terminal has room for."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from rich.console import Console, ConsoleOptions, Group, JustifyMethod, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lrtune.results.palette import BLUE, look
from lrtune.screen.console import harmless, named
from lrtune.screen.standings import Row

MARKS = {"circle": "●", "diamond": "◆", "square": "■"}
# Lines of a terminal that are not families: bar, counts, heads, the rest, what was said before.
OTHERS = 13
FEWEST = 3
NAME, FIGURE = 18, 9  # columns of a family, and of a figure at least
# Columns after those, the most wanted first, and what each takes at least.
WIDTHS = {"behind": FIGURE, "peak_lr": FIGURE, "now": 18}
SETTINGS = 30  # of these at least
WORDS = ("now", "settings")  # columns of these


@dataclass(frozen=True, slots=True)
class Panel:
    """The lines at the bottom of the terminal.

    Attributes:
        share: done, 0 ... 1.
        left: how long it will take, in words.
        counts: lines below the bar.
        rows: the first is the best so far.
        value: what the column of values is called.
        count: what the column of counts is called.
    """

    share: float
    left: str
    counts: Sequence[str]
    rows: Sequence[Row]
    value: str
    count: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render it for a terminal of this size."""
        width, height = options.max_width, options.size.height
        own = 5 + len(self.counts)  # with the blank ones, the heads and the rest
        room = max(height - OTHERS, min(FEWEST, height - own - 1))
        rows = self.rows[:room] if len(self.rows) > room + 1 else self.rows
        parts: list[Table | Text] = [Text(""), self._bar(width)]
        parts += [_line(counts) for counts in self.counts]
        if room > 0:
            parts += [Text(""), self._table(rows, width)]
            parts += [_line(rest(self.rows[len(rows) :]), "dim")] if rows != self.rows else []
        yield Group(*parts)

    def _bar(self, width: int) -> Table:
        bar = Table.grid(padding=(0, 1))
        done = ProgressBar(
            total=1.0,
            completed=self.share,
            width=max(5, min(40, width - 30)),
            complete_style=BLUE,
            finished_style=BLUE,
        )
        bar.add_row(done, f"{self.share:.0%}", _line(self.left, "dim"))
        return bar

    def _table(self, rows: Sequence[Row], width: int) -> Table:
        """The rows, with the columns that there is room for."""
        more = dict.fromkeys(name for row in rows for name in row.more if name != "settings")
        heads, left = [], width - NAME - 2 * FIGURE
        for name in (*WIDTHS, *more):
            if name == "now" and not any(row.now for row in rows):
                continue
            wants = WIDTHS.get(name, max(FIGURE, len(named(name, 20)) + 2))
            if left < wants:
                break
            heads.append(name)
            left -= wants
        heads += (
            ["settings"] if left >= SETTINGS and any("settings" in r.more for r in rows) else []
        )
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        table.add_column("family", no_wrap=True, overflow="ellipsis")
        for name in (self.value, self.count, *heads):
            justify: JustifyMethod = "left" if name in WORDS else "right"
            least = WIDTHS["now"] - 2 if name == "now" else None
            most = left - 2 if name == "settings" else None
            table.add_column(
                named(name, 20),
                justify=justify,
                no_wrap=True,
                overflow="ellipsis",
                min_width=least,
                max_width=most,
            )
        for number, row in enumerate(rows):
            first = number == 0 and isfinite(row.value)
            style = "bold" if first else "dim" if row.out else ""
            cells = {"behind": "–" if first else _figure(row.gap, 2), "now": row.now, **row.more}
            cells["peak_lr"] = _figure(row.peak_lr)
            shown = [_figure(row.value), str(row.count or "–")]
            shown += [harmless(cells.get(name, "–")) for name in heads]
            table.add_row(_family(row.family), *shown, style=style)
        return table


def rest(rows: Sequence[Row]) -> str:
    """The rows that found no room, in a line."""
    tried = [row for row in rows if isfinite(row.value)]
    parts = [", ".join(f"{row.family} {_figure(row.value)}" for row in tried)]
    others = len(rows) - len(tried)
    parts += [f"{others} without a value yet"] * bool(others)
    return f"and {len(rows)} more: {'; '.join(filter(None, parts))}"


def _family(name: str) -> Text:
    """With its mark, in the colour that it has in the report too."""
    seen = look(name)
    return Text.assemble((f"{MARKS[seen.symbol]} ", seen.colour), named(name, 24))


def _line(text: str, style: str = "") -> Text:
    return Text(harmless(text), style=style, no_wrap=True, overflow="ellipsis")


def _figure(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}g}" if isfinite(value) else "–"
