"""The terminal while a search runs."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lrtune.confirmation import Tally
from lrtune.search import Board, Record

ENDS = {"complete": "done", "stalled": "stalled", "pruned": "pruned"}  # and what to call them
ENDS |= {"diverged": "diverged", "failed": "failed"}
QUIET_SECONDS = 10.0  # between two lines where the output is not a terminal


class _Shown:
    """In place on a terminal, as a line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last_line = 0.0
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()


class Display(_Shown):
    """Shows a Board."""

    def __init__(self, console: Console, objective: str) -> None:
        super().__init__(console)
        self._objective = objective
        self._start: tuple[float, float] | None = None  # (time, share spent before)

    def __call__(self, board: Board) -> None:
        """Show the board as it is now."""
        now = time.monotonic()
        if self._start is None:
            self._start = (now, board.share)
        if self._console.is_terminal:
            self._live.update(self._panel(board))
        elif now - self._last_line >= QUIET_SECONDS:
            self._last_line = now
            line = f"{board.share:4.0%}  {self._counts(board)}  {self._best(board)}"
            self._console.print(line, soft_wrap=True)

    def _panel(self, board: Board) -> Group:
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=1.0, completed=board.share, width=30),
            f"{board.share:.0%}",
            Text(self._time_left(board), style="dim"),
        )
        now = ", ".join(
            f"{r.schedule.family} {r.updates / len(r.rates):.0%}" for r in board.running.values()
        )
        return Group(
            bar,
            Text(self._counts(board)),
            Text(f"running  {now}", style="dim", overflow="ellipsis", no_wrap=True),
            Text(self._best(board), style="bold"),
        )

    def _counts(self, board: Board) -> str:
        parts = [f"{board.ended[end]} {word}" for end, word in ENDS.items()]
        return "trials  " + ", ".join([*parts, f"{len(board.running)} running"])

    def _best(self, board: Board) -> str:
        best = board.best
        return f"best    {describe(best, self._objective) if best else ' none yet'}"

    def _time_left(self, board: Board) -> str:
        assert self._start is not None
        began, before = self._start
        done = board.share - before
        if done <= 0.01:
            return "time left: measuring"
        left = (time.monotonic() - began) / done * (1 - board.share)
        return f"{clock(left)} left"


class FinalsDisplay(_Shown):
    """Shows how far qualifiers and finals are."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._round: tuple[str, int] | None = None  # which one this is
        self._began = self._done = 0.0

    def __call__(self, tally: Tally) -> None:
        """Show the finals as they are now."""
        now, this = time.monotonic(), (tally.stage, tally.jobs)
        if this != self._round or tally.done < self._done:
            self._round, self._began = this, now
        self._done = tally.done
        share = tally.done / tally.jobs
        spent = now - self._began
        left = f"{clock(spent / share * (1 - share))} left" if share > 0.02 else "measuring"
        said = f"{tally.stage}  {int(tally.done)} of {tally.jobs} trainings"
        if self._console.is_terminal:
            bar = Table.grid(padding=(0, 1))
            progress = ProgressBar(total=1.0, completed=share, width=30)
            bar.add_row(progress, f"{share:.0%}", Text(left, style="dim"))
            self._live.update(Group(bar, Text(said)))
        elif now - self._last_line >= QUIET_SECONDS:
            self._last_line = now
            self._console.print(f"{share:4.0%}  {said}, {left}", soft_wrap=True)


def describe(record: Record, objective: str) -> str:
    """A trial in one line: family, value, the other metrics, peak rate, number."""
    metrics, value = record.curves.metrics, record.value
    assert value is not None
    others = [f"{name} {curve[-1]:.4g}" for name, curve in metrics.items() if name != objective]
    figures = ", ".join([f"{objective} {value:.4g}", *others])
    where = f"peak_lr {record.schedule.peak_lr:.3g}, trial {record.number}"
    return f"{record.schedule.family}: {figures}  ({where})"


def clock(seconds: float) -> str:
    """Seconds as ``45 s``, ``3 min 05 s`` or ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
