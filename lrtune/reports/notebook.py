"""What a notebook shows of a run: the answer in words, the families as a table, the figures."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import plotly.graph_objects as go

from lrtune.errors import InputError
from lrtune.format import aligned, number
from lrtune.reports import figures, learning_curves, parameters, pruning, rates
from lrtune.reports.answer import Answer, answer, nothing, subtitle
from lrtune.reports.blocks import Cell, Table, render
from lrtune.verdict import verdict as judged
from lrtune.verdict.recommendation import of_verdict
from lrtune.verdict.summary import by_family
from lrtune.verdict.wording import words


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
        lines = [(label, said) for label, _, said in (line.partition(": ") for line in others)]
        return render(
            "notebook.html", title=[], answer=Answer(use, lines, (), []), table=_finalists(self)
        )


class Results(Protocol):
    """What a run has to draw; ``lrtune.run.folder.Run`` is one."""

    folder: Path
    settings: dict[str, Any]

    def trials(self) -> pd.DataFrame:
        """One row per trial."""

    def finals(self) -> pd.DataFrame:
        """One row per final."""

    def verdict(self, total: int | None = None) -> Verdict | None:
        """The verdict on a horizon, the search's own where None."""


class Figures:
    """The figures of a run as plotly Figures, which show themselves in a notebook.

    Where there is nothing to draw, the figure says why.
    """

    def __init__(self, run: Results) -> None:
        self._run = run
        self._objective = run.settings["objective"]
        self._horizon = run.settings["horizon"]

    def __repr__(self) -> str:
        named = {name: member for name, member in vars(Figures).items() if name[0] != "_"}
        lines = (f"{name:<21} {(one.__doc__ or '').splitlines()[0]}" for name, one in named.items())
        return "\n".join(["The figures of a run:", *lines])

    def wins(self) -> go.Figure:
        """Each family's finished trials in a row of its own, the best family on top."""
        trials = self._run.trials()
        return _or_say(figures.wins(trials, self._objective), nothing(trials))

    def curves(self) -> go.Figure:
        """The best trial of each family: its rate above its validation metric."""
        trials = self._run.trials()
        return _or_say(
            learning_curves.curves(trials, self._objective, self._horizon), nothing(trials)
        )

    def against_peak(self) -> go.Figure:
        """Value against peak rate by family, and the range test's bracket."""
        trials, test = self._run.trials(), self._run.settings["range_test"]
        bracket = (test["base_lr"], test["max_lr"]) if test else None
        figure = figures.against_peak(trials, self._objective, bracket)
        return _or_say(figure, nothing(trials))

    def range_test(self) -> go.Figure:
        """The range test's losses, and the bracket that was read off them."""
        test = self._run.settings["range_test"] or {"rates": [], "losses": []}
        why = "The peak rates were given: no range test was made."
        return _or_say(rates.range_test(test), why)

    def trial_lengths(self) -> go.Figure:
        """After how many updates trials ended early, and how."""
        trials = self._run.trials()
        why = "No trial was ended early." if len(trials) else nothing(trials)
        return _or_say(pruning.trial_lengths(trials, self._horizon), why)

    def optimization_history(self) -> go.Figure:
        """Scores of the finished trials in the order of the search, and the best so far."""
        trials = self._run.trials()
        return _or_say(figures.optimization_history(trials, self._objective), nothing(trials))

    def slices(self, family: str) -> go.Figure:
        """Of one family: value against each of its parameters."""
        figure = parameters.slices(self._trials_of(family), family, self._objective)
        return _or_say(figure, f"No two trials of {family} with a score differ in a parameter.")

    def rank(self, family: str) -> go.Figure:
        """Of one family: rank over the two parameters that matter most."""
        figure = parameters.rank(self._trials_of(family), family, self._objective)
        return _or_say(figure, f"Too few trials of {family} have a score.")

    def paired_differences(self, total: int | None = None) -> go.Figure:
        """How far each finalist is behind the best; of another horizon with total."""
        why = "There is no second finalist with a score on every seed."
        return _or_say(figures.paired_differences(self._verdict(total), self._run.finals()), why)

    def finals_curves(self, total: int | None = None) -> go.Figure:
        """The finals: rates above the validation metric; of another horizon with total."""
        figure = learning_curves.finals_curves(self._verdict(total), self._run.finals())
        return _or_say(figure, "No final was trained to its end.")

    def _trials_of(self, family: str) -> pd.DataFrame:
        """All trials, once it is sure that some are of this family."""
        trials = self._run.trials()
        known = sorted(set(trials["family"]))
        if family not in known:
            raise InputError(f"family {family!r}: has no trials here; there are {known}")
        return trials

    def _verdict(self, total: int | None) -> Verdict:
        found = self._run.verdict(total)
        if found is None:
            where = "" if total is None else f" on {total} updates"
            raise InputError(f"{self._run.folder}: has no verdict{where} yet: lrtune.confirm")
        return found


def summary(trials: pd.DataFrame, settings: Mapping[str, Any], verdict: Verdict | None) -> str:
    """The answer in words and the table of families, as HTML."""
    if verdict is not None and verdict.decided:
        table = _finalists(verdict)
    else:
        table = _families(trials, settings["objective"])
    return render(
        "notebook.html",
        title=[settings["study"], *subtitle(trials, settings)],
        answer=answer(trials, settings, verdict),
        table=table,
    )


def _finalists(verdict: judged.Verdict) -> Table:
    """The finals as a table."""
    split = "test" if verdict.split == "test" else "validation"
    score = f"{split} {words(verdict.objective.name)}"
    rows = []
    for row in verdict.families:
        reach = "–" if math.isnan(row.low) else f"{number(row.low)} to {number(row.high)}"
        gap = number(row.gap, 3) if row.gap else "–"
        name = Cell(row.family, family=row.family)
        rows.append([name, row.place, aligned(row.mean), reach, gap, row.seeds])
    heads = ["family", "place", score, "95 % interval", "behind by", "seeds"]
    return Table(heads, rows, numeric=2)


def _families(trials: pd.DataFrame, objective: Mapping[str, Any]) -> Table:
    """The search as a table."""
    counts = ("trials", "pruned", "diverged")
    rows = [
        [
            Cell(row["family"], family=row["family"]),
            *(aligned(row[name]) for name in ("best", "median")),
            number(row["peak_lr"], 3),
            *(row[name] for name in counts),
        ]
        for row in by_family(trials, objective["direction"]).to_dict("records")
    ]
    name = words(objective["name"])
    heads = ["family", f"best validation {name}", "median", "its peak rate", *counts]
    return Table(heads, rows)


def _or_say(figure: go.Figure, why: str) -> go.Figure:
    """The figure, or in its place the sentence that says why there is nothing to draw."""
    if any(len(trace.x or ()) for trace in figure.data):
        return figure
    figure = go.Figure(layout={"template": figure.layout.template, "height": 120})
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    where = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper", "showarrow": False}
    return figure.add_annotation(text=str(why), **where)
