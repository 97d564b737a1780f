"""The section of the report on the finals: who is how far behind the recommended one."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lrtune.format import aligned, count, duration, measured, number, plural
from lrtune.reports.answer import Run, second_metric
from lrtune.reports.blocks import Block, Bullets, Cell, Section, Table, Text, drawn
from lrtune.reports.figures import paired_differences as gaps
from lrtune.reports.learning_curves import finals_curves
from lrtune.verdict.notes import notes
from lrtune.verdict.verdict import FamilyResult, Verdict
from lrtune.verdict.wording import listed, words

BASELINE = "Baseline: unlikely to be the best after the search, trained again for comparison."
ABSENT = {
    "close": "as good, as far as the search tells",
    "behind": "behind, as the search tells",
    "open": "the search does not tell",
    "diverged": "no trial that did not diverge or fail",
}
NOTE = (
    "Each schedule is compared with the recommended one on the same seeds. The test looked several "
    "times: the interval of one that was decided early is wider. p pays for that too, and for a "
    "recommended schedule that was chosen by these scores."
)
ONE_SEED = "One seed says nothing about how much a score moves: no intervals, and no test."


def standings(verdict: Verdict, finals: pd.DataFrame, run: Run) -> Section | None:
    """Every finalist beside the recommended one: table, gaps, curves; None without finalists.

    Args:
        verdict: the verdict.
        finals: see ``lrtune.search.confirmation.read_finals``.
        run: what was searched (run.json).
    """
    if not verdict.families:
        return None
    alone = "There is no second finalist with a score on every seed: no gap to show."
    none = "No final was trained to its end."
    blocks: list[Block] = [
        Text(_what(verdict, finals, run)),
        _table(verdict, run),
        Text(NOTE if _several(verdict) else ONE_SEED, "note"),
        *(Text(said, "note") for said in notes(verdict)),
        *_lost(verdict),
        *_absent(verdict),
        drawn("gaps", gaps(verdict, finals), _of_gaps(verdict), alone),
        drawn("finals-curves", finals_curves(verdict, finals), _of_curves(verdict), none),
    ]
    return Section("finals", "Finals", _summary(verdict), blocks)


def _summary(verdict: Verdict) -> str:
    """Who was trained again, and who came out on top."""
    families = verdict.families
    seeds = max(row.seeds for row in families)
    finalists = plural(len(families), "finalist", "finalists")
    who = f"{finalists} on {plural(seeds, 'fresh seed', 'fresh seeds')}"
    top = verdict.answer.families
    if not verdict.decided:
        return f"{who}: no winner"
    return f"{who}: {listed(top)} {'wins' if len(top) == 1 else 'cannot be told apart'}"


def _several(verdict: Verdict) -> bool:
    """Whether there is more than one seed, and so an interval."""
    return any(not math.isnan(row.low) for row in verdict.families)


def _of_gaps(verdict: Verdict) -> str:
    """The caption of the gaps."""
    families, delta = verdict.families, verdict.answer.margin
    said = [f"How much worse each finalist is than {families[0].family}, on the same seeds."]
    if _several(verdict):
        said.append("A small dot is one seed, the large mark their mean with its 95 % interval.")
    if {row.place for row in families} >= {"tied", "behind"}:
        said.append("Above the dotted line: those that cannot be told apart from it.")
    if delta > 0:
        least = measured(delta, verdict.objective, 2)
        said.append(f"Grey: differences up to {least}, taken not to matter.")
    return " ".join(said)


def _of_curves(verdict: Verdict) -> str:
    """The caption of the curves."""
    said = ["The finals on the validation split."]
    if _several(verdict):
        said.append(
            "A line is the mean of the seeds, in a band that holds the middle half of them."
        )
    if any(row.schedule.closed_loop for row in verdict.families):
        said.append("The rates of a closed loop are those of one seed.")
    said.append("A click on the legend shows or hides a family.")
    return " ".join(said)


def _what(verdict: Verdict, finals: pd.DataFrame, run: Run) -> str:
    """What was trained, and on what it was judged."""
    own = finals[finals["horizon"] == verdict.horizon]
    judged = (
        "judged on the test split, which the search never saw"
        if verdict.split == "test"
        else "judged on the validation split, since there is no test split"
    )
    if run["judge"] == "best":
        judged += ", each with the weights of its best validation"
    trainings = plural(len(own), "training", "trainings")
    return (
        "Of each family the schedule that the search expects most of, trained again in full on "
        f"fresh seeds, the same for all, and {judged}. {trainings} of up to "
        f"{count(verdict.horizon)} updates in {duration(own['seconds'].sum())} of training time."
    )


def _table(verdict: Verdict, run: Run) -> Table:
    objective, second = verdict.objective, second_metric(run)
    on_test = verdict.split == "test"
    split = "test" if on_test else "validation"
    heads = [
        "family",
        "place",
        _head(split, objective.name, objective.unit),
        "seeds",
        "behind by",
        "p",
    ]
    heads += ["validation, search"]
    heads += ["validation, finals"] if on_test else []
    heads += [_head(split, second["name"], second.get("unit"))] if second else []
    families, rows = verdict.families, []
    means = _ranged(families, "mean", "low", "high")
    behind = _ranged(families, "gap", "gap_low", "gap_high")
    for at, row in enumerate(families):
        leads = at == 0 and not math.isnan(row.gap)
        cells: list[object] = [
            Cell(row.family, below=_role(row), family=row.family),
            _place(verdict, row),
            means[at],
            row.seeds,
            "–" if leads else behind[at],
            "–" if leads else Cell(_p(row.p), row.p),
            aligned(row.searched),
        ]
        cells += [aligned(row.validation)] if on_test else []
        cells += [aligned(row.metrics.get(second["name"], math.nan))] if second else []
        rows.append(cells)
    return Table(heads, rows, style="sortable finals", numeric=2)


def _head(split: str, name: str, unit: str | None) -> str:
    return f"{split} {words(name)}{f' ({unit})' if unit else ''}"


def _role(row: FamilyResult) -> str:
    return row.role if row.role == "baseline" else ""


def _place(verdict: Verdict, row: FamilyResult) -> Cell:
    place: str = row.place
    if verdict.answer.place == "unfinished" and place in ("winner", "tied"):
        place = "still in"
    lost = f"{row.lost} of {plural(row.seeds, 'seed', 'seeds')}" if row.lost else ""
    return Cell(place, below=lost)


def _ranged(rows: Sequence[FamilyResult], value: str, low: str, high: str) -> list[object]:
    """A column of values above their intervals, as exact as most of these allow."""
    columns = [[getattr(row, name) for name in (value, low, high)] for row in rows]
    widths = [top - bottom for _, bottom, top in columns if top > bottom]
    middle = float(np.median(widths)) / 2 if widths else 0.0
    digits = max(0, 1 - math.floor(math.log10(middle))) if middle else None
    cells: list[object] = []
    for shown, bottom, top in columns:
        if math.isnan(shown):
            cells.append("–")
            continue
        ends = [_fixed(end, digits) for end in (bottom, top)] if top > bottom else []
        cells.append(Cell(_fixed(shown, digits), shown, below=" to ".join(ends)))
    return cells


def _fixed(value: float, digits: int | None) -> str:
    """With that many decimals, where they are known."""
    if digits is None:
        return aligned(value)
    return f"{round(value, digits) + 0.0:,.{digits}f}"  # no minus before a zero


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else number(value, 2)


def _lost(verdict: Verdict) -> list[Block]:
    """Why those that were lost were."""
    lost = [(row.family, "; ".join(row.reasons)) for row in verdict.families if row.lost]
    said = "Lost on a seed or more, and why; the scores are of the other seeds:"
    return [Text(said), Bullets(lost)] if lost else []


def _absent(verdict: Verdict) -> list[Block]:
    """Who is not among the finalists, and who is for comparison."""
    said = [BASELINE] if any(map(_role, verdict.families)) else []
    for why, meaning in ABSENT.items():
        names = [gone.family for gone in verdict.absent if gone.why == why]
        if names:
            said.append(f"Not compared: {', '.join(names)} ({meaning}).")
    return [Text(" ".join(said))] if said else []
