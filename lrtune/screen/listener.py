"""Listeners: what a command tells while it works, and to whom: a person, a script, or nobody."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console

from lrtune.screen.block import Block
from lrtune.screen.cell import Cell
from lrtune.screen.console import console_of, in_notebook, is_live, say
from lrtune.screen.pace import Pace, clock
from lrtune.screen.panel import Panel
from lrtune.screen.standings import families, finals
from lrtune.search import Board
from lrtune.tally import Tally
from lrtune.tasks import Task

if TYPE_CHECKING:
    from lrtune.run import Run

LINE_SECONDS = 10.0  # between two lines where nothing can be drawn in place
DRAWN_SECONDS = 0.1  # between two pictures of the board: it changes more often than is seen
ENDS = {"complete": "done", "plateaued": "plateaued", "pruned": "pruned"}  # and what to call them
ENDS |= {"diverged": "diverged", "failed": "failed"}


class Listener(Protocol):
    """Who is told."""

    def started(self, task: Task, facts: Mapping[str, Any]) -> None:
        """The data are there, and the work begins."""

    def tell(self, line: str) -> None:
        """A line on what is being done."""

    def search(self, board: Board) -> None:
        """The search as it stands, after each segment and each trial's end."""

    def finals(self, tally: Tally) -> None:
        """The finals as they stand, after each segment."""

    def finished(self, run: "Run", total: int | None) -> None:
        """All is written; the verdict is on this horizon, the search's own where None."""

    def close(self) -> None:
        """Nothing more comes, whatever the reason."""


class Quiet:
    """Prints the result, and nothing before it."""

    def __init__(self, console: Console) -> None:
        """Print on this console."""
        self._console = console

    def started(self, task: Task, facts: Mapping[str, Any]) -> None:
        """Say nothing."""

    def tell(self, line: str) -> None:
        """Say nothing."""

    def search(self, board: Board) -> None:
        """Say nothing."""

    def finals(self, tally: Tally) -> None:
        """Say nothing."""

    def finished(self, run: "Run", total: int | None) -> None:
        """Print what came out."""
        from lrtune.screen.result import print_result, print_verdict

        verdict = run.verdict(total)
        if total is None or verdict is None:
            print_result(run, self._console)
        else:
            print_verdict(verdict, self._console, len(run.trials()))

    def close(self) -> None:
        """Nothing is left to take away."""


class Screen(Quiet):
    """Draws how things stand in place where that is possible, else prints a line now and then."""

    def __init__(self, console: Console) -> None:
        """Print on this console: of a terminal, a notebook, a file."""
        super().__init__(console)
        self._block: Block | Cell | None = None
        if in_notebook():
            self._block = Cell()
        elif is_live(console):
            self._block = Block(console)
        self._pace: Pace | None = None
        self._share = 0.0
        self._last = -LINE_SECONDS

    @classmethod
    def here(cls) -> "Screen":
        """On what this process prints to."""
        return cls(console_of())

    def started(self, task: Task, facts: Mapping[str, Any]) -> None:
        """Remember what is compared."""
        objective = task.objective
        self._objective = objective.name
        self._minimize = objective.direction == "minimize"
        self._value = objective.name.replace("_", "-")
        self._judged = "test" if task.test is not None else "validation"
        self._better = "lower" if self._minimize else "higher"

    def tell(self, line: str) -> None:
        """Print it above what is drawn."""
        say(self._console, line)

    def search(self, board: Board) -> None:
        """Draw how the families stand."""
        if self._pace is None:
            self._pace = Pace(board.share, board.trials)
        if not self._due():
            return
        left = _left(self._pace.left(board.share))
        counts = [spent(board, self._pace), ends(board)]
        rows = families(board, self._objective)
        if self._block is not None:
            said = (
                f"best of each family: validation {self._value}, one seed; {self._better} is better"
            )
            panel = Panel(board.share, left, [*counts, said], rows, "best", "trials")
            self._block.show(panel)
            return
        best, leader = board.best, ""
        if best is not None:
            leader = f"; best: {best.schedule.family}, {self._value} {best.value:.3g}"
        self.tell(f"{board.share:4.0%}  {counts[0]}, {left}{leader}")

    def finals(self, tally: Tally) -> None:
        """Draw how the finalists stand."""
        share = tally.share
        if self._pace is None or share < self._share:
            self._pace = Pace(share)  # a round of its own
        self._share = share
        if not self._due():
            return
        left = _left(self._pace.left(share))
        said = f"finals  {int(tally.done)} of {tally.jobs} trainings"
        rows = finals(tally, self._minimize)
        if self._block is not None:
            on = f"so far: {self._judged} {self._value}, mean over seeds; {self._better} is better"
            self._block.show(Panel(share, left, [said, on], rows, "mean", "seeds"))
        else:
            self.tell(f"{share:4.0%}  {said}, {left}")

    def finished(self, run: "Run", total: int | None) -> None:
        """Put the result in the place of what was drawn."""
        self.close()
        super().finished(run, total)

    def close(self) -> None:
        """Take away what is drawn."""
        if self._block is not None:
            self._block.close()

    def _due(self) -> bool:
        """Whether it is time for the next picture, or the next line."""
        now = time.monotonic()
        due = now - self._last >= (LINE_SECONDS if self._block is None else DRAWN_SECONDS)
        self._last = now if due else self._last
        return due


def spent(board: Board, pace: Pace) -> str:
    """The budget, and how fast it goes."""
    _, updates, seconds = board.spent
    budget, said = board.budget, []
    if budget.trials is not None:
        said.append(f"{board.trials:,} of {budget.trials:,} trials")
    if budget.updates is not None:
        said.append(f"{updates:,.0f} of {budget.updates:,.0f} updates")
    if budget.seconds is not None:
        said.append(f"{clock(seconds)} of {clock(budget.seconds)}")
    if budget.trials is None:
        said.append(f"{board.trials:,} trials")
    speed = pace.per_minute(board.trials)
    return ", ".join([*said, f"{speed:.3g} a minute"] if speed else said)


def ends(board: Board) -> str:
    """How the trials ended."""
    parts = [f"{board.ended[end]} {word}" for end, word in ENDS.items() if board.ended[end]]
    return ", ".join([*parts, f"{len(board.running)} running"])


def _left(seconds: float | None) -> str:
    return "time left: measuring" if seconds is None else f"{clock(seconds)} left"
