"""Listeners: what a command tells while it works, and to whom: a person, a script, or nobody."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lrtune.search import Board
from lrtune.tally import Tally
from lrtune.tasks import Task

if TYPE_CHECKING:
    from lrtune.run import Run


class Listener:
    """Is told what happens, and says nothing."""

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


class Quiet(Listener):
    """Prints the result, and nothing before it."""

    def __init__(self, console: Console) -> None:
        """Print on this console."""
        self._console = console

    def finished(self, run: "Run", total: int | None) -> None:
        """Print what came out."""
        from lrtune.screen.result import print_result, print_verdict

        verdict = run.verdict(total)
        if total is None or verdict is None:
            print_result(run, self._console)
        else:
            print_verdict(verdict, self._console, len(run.trials()))
