"""The tables of a verdict and of a search: made once, shown in terminal, report and notebook."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lrtune.format import Cell, Table, aligned, count, number, plural, words
from lrtune.verdict.settings import Objective, RunSettings
from lrtune.verdict.summary import PARTIAL, beside, by_family
from lrtune.verdict.verdict import FamilyResult, Verdict

DIGITS = 3  # of a figure without an interval; files have more


def families_or_finalists(trials: pd.DataFrame, run: RunSettings, verdict: Verdict | None) -> Table:
    """The finalists once something is decided, before it the families of the search."""
    if verdict is not None and verdict.decided:
        return finalists(verdict)
    return searched_families(trials, run)


def finalists(verdict: Verdict) -> Table:
    """The table of a verdict, one row per finalist."""
    on_test = verdict.split == "test"
    others = list(dict.fromkeys(name for row in verdict.families for name in row.metrics))[:1]
    unit = f" ({verdict.objective.unit})" if verdict.objective.unit else ""
    score = f"{'test' if on_test else 'validation'} {words(verdict.objective.name)}{unit}"
    heads = ["family", "place", score, "behind by", *map(words, others), "seeds", "p"]
    heads += ["validation, finals", "validation, search"] if on_test else ["search"]
    families, rows = verdict.families, []
    means = ranged([(row.mean, row.low, row.high) for row in families])
    behind = ranged([(row.gap, row.gap_low, row.gap_high) for row in families])
    for at, row in enumerate(families):
        leads = at == 0 and not math.isnan(row.gap)
        p = Cell("< 0.001" if row.p < 0.001 else number(row.p, 2), row.p)
        cells: list[object] = [
            Cell(row.family, below="baseline" * (row.role == "baseline"), family=row.family),
            _place(verdict, row),
            means[at],
            "–" if leads else behind[at],
            *(aligned(row.metrics.get(name, math.nan), DIGITS) for name in others),
            row.seeds,
            "–" if leads else p,
            *([aligned(row.validation, DIGITS)] if on_test else []),
            aligned(row.searched, DIGITS),
        ]
        rows.append(cells)
    return Table(heads, rows, "sortable finals", 2)


def _place(verdict: Verdict, row: FamilyResult) -> Cell:
    tied = row.place in ("winner", "tied")
    place = "still in" if tied and verdict.answer.place == "unfinished" else row.place
    lost = f"{row.lost} of {plural(row.seeds, 'seed', 'seeds')}" if row.lost else ""
    return Cell(place, below=lost)


def ranged(rows: Sequence[tuple[float, float, float]]) -> list[Cell]:
    """A column of values above their intervals, as exact as most of these allow."""
    widths = [high - low for _, low, high in rows if high > low]
    middle = float(np.median(widths)) / 2 if widths else 0.0
    digits = max(0, 1 - math.floor(math.log10(middle))) if middle else None

    def fixed(value: float) -> str:
        if digits is None or math.isnan(value):
            return aligned(value, DIGITS)
        return f"{round(value, digits) + 0.0:,.{digits}f}"  # no minus before a zero

    return [
        Cell(fixed(value), value, f"{fixed(low)} to {fixed(high)}" if high > low else "")
        for value, low, high in rows
    ]


def searched_families(trials: pd.DataFrame, run: RunSettings) -> Table:
    """The table of a search, one row per family."""
    second = second_metric(run)
    heads = ["family", "best", "peak_lr", *([words(second.name)] if second else [])]
    heads += ["tried", "finished", *PARTIAL, "lost", "median", "updates"]
    best, rows = trials.set_index("number"), []
    for row in by_family(trials, run.objective.direction).to_dict("records"):
        known = not pd.isna(row["number"])
        other = beside(best.loc[row["number"]], second.name) if second and known else math.nan
        cells: list[object] = [
            Cell(row["family"], family=row["family"]),
            Cell(aligned(row["best"], DIGITS), row["best"], style="strong"),
            number(row["peak_lr"], DIGITS),
            *([aligned(other, DIGITS)] if second else []),
            *(count(row[name]) for name in ("trials", "complete", *PARTIAL)),
            count(row["diverged"] + row["failed"]),
            aligned(row["median"], DIGITS),
            count(row["updates"]),
        ]
        rows.append(cells)
    return Table(heads, rows, "sortable")


def second_metric(run: RunSettings) -> Objective | None:
    """The metric to show beside the objective, such as the accuracy of a classification."""
    others = [m for name, m in run.metrics.items() if name != run.objective.name]
    return others[0] if others else None
