"""What a notebook shows of a run: the answer in words, the families as a table, the figures."""

from pathlib import Path
from typing import Protocol

import pandas as pd
import plotly.graph_objects as go

from lrtune.errors import InputError
from lrtune.reports import figures
from lrtune.reports.first_screen import Answer, Run, answer, subtitle
from lrtune.reports.page import fill
from lrtune.reports.sections import families_or_finalists, finalists
from lrtune.verdict import verdict as judged
from lrtune.verdict.recommendation import of_verdict
from lrtune.verdict.settings import RunSettings


class Verdict(judged.Verdict):
    """A verdict that prints as what it says; its attributes are ``lrtune.verdict.Verdict``'s."""

    @property
    def lines(self) -> list[str]:
        """What to use, what it gains, how sure that is."""
        return of_verdict(self)

    def __repr__(self) -> str:
        return "\n".join(self.lines)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        use, *others = self.lines
        lines = [(label, text) for label, _, text in (line.partition(": ") for line in others)]
        answer = Answer(use, lines, [], [])
        return fill("notebook.html", title=[], answer=answer, table=finalists(self))


def summary(trials: pd.DataFrame, run: Run, verdict: judged.Verdict | None) -> str:
    """The answer in words and the table of families, as HTML."""
    return fill(
        "notebook.html",
        title=[run.study, *subtitle(trials, run)],
        answer=answer(trials, run, verdict),
        table=families_or_finalists(trials, run, verdict),
    )


class Results(Protocol):
    """What a run has to draw; ``lrtune.run.folder.Run`` is one."""

    folder: Path
    settings: RunSettings

    def trials(self) -> pd.DataFrame:
        """One row per trial."""

    def finals(self) -> pd.DataFrame:
        """One row per final."""

    def verdict(self, total: int | None = None) -> Verdict | None:
        """The verdict on a horizon, the search's own where None."""


class Figures:
    """The figures of a run as plotly Figures, which show themselves in a notebook.

    One without traces has nothing to draw.
    """

    def __init__(self, run: Results) -> None:
        self._run = run
        self._objective = run.settings.objective

    def __repr__(self) -> str:
        named = {name: member for name, member in vars(Figures).items() if name[0] != "_"}
        lines = (f"{name:<21} {(one.__doc__ or '').splitlines()[0]}" for name, one in named.items())
        return "\n".join(["The figures of a run:", *lines])

    def wins(self) -> go.Figure:
        """Each family's finished trials in a row of its own, the best family on top."""
        return figures.wins(self._run.trials(), self._objective)

    def curves(self) -> go.Figure:
        """The best trial of each family: its rate above its validation metric."""
        horizon = self._run.settings.horizon
        return figures.curves(self._run.trials(), self._objective, horizon)

    def against_peak(self) -> go.Figure:
        """Value against peak rate by family, and the range test's bracket."""
        test = self._run.settings.range_test
        bracket = (test.base_lr, test.max_lr) if test else None
        return figures.against_peak(self._run.trials(), self._objective, bracket)

    def paired_differences(self, total: int | None = None) -> go.Figure:
        """How far each finalist is behind the best; of another horizon with total."""
        return figures.paired_differences(self._verdict(total), self._run.finals())

    def finals_curves(self, total: int | None = None) -> go.Figure:
        """The finals: rates above the validation metric; of another horizon with total."""
        return figures.finals_curves(self._verdict(total), self._run.finals())

    def _verdict(self, total: int | None) -> Verdict:
        found = self._run.verdict(total)
        if found is None:
            where = "" if total is None else f" on {total} updates"
            raise InputError(f"{self._run.folder}: has no verdict{where} yet: lrtune.confirm")
        return found
