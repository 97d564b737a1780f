"""The comparison of several tasks as a person reads it: Markdown, and one HTML page."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lrtune.results import page
from lrtune.results.canvas import words
from lrtune.results.markup import (
    Markup,
    aligned,
    count,
    join,
    measured,
    number,
    plural,
    section,
    swatch,
    tag,
    text,
)
from lrtune.results.markup import table as grid

HEADS = ["task", "metric", "split", "updates", "seeds"]
HEADS += ["winner", "score (95 %)", "next behind", "by (95 %)"]
FAMILY_HEADS = ["family", "tasks", "wins", "ties", "losses", "mean rank", "against the first"]
NOTE = (
    "A winner is told from all others; of those tied none is, and the score is that of the "
    "recommended one. Lower is better with ↓, higher with ↑. By: how much worse, on the same seeds."
)
FIXED = "\N{NO-BREAK SPACE}"
SHOWN = 3  # of those tied
FAR = 10.0  # standard deviations: from here on, a gap's cell is of full colour


def markdown(table: pd.DataFrame, wins: pd.DataFrame) -> str:
    """The README's two tables: a row a task, and a row a family.

    Args:
        table: see ``lrtune.results.compare.table``.
        wins: see ``lrtune.results.ranks.wins``.
    """
    tasks = [_task(rows, label) for label, rows in _verdicts(table)]
    return f"{_grid(HEADS, tasks)}\n{NOTE}\n\n{_grid(FAMILY_HEADS, _families(wins))}"


def _grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([_escaped(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _escaped(cell: str) -> str:
    """Names come from anyone's files: nothing in them is Markdown or HTML."""
    return re.sub(r"([\\`*\[\]<>|&])", r"\\\1", cell)


def _verdicts(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each verdict, and its task; of several with one name, what tells them apart."""
    one = table.drop_duplicates("source").set_index("source", drop=False)
    labels = one["task"].copy()
    for column, wording in (("horizon", "{:,} updates"), ("seed", "seed {}"), ("source", "{}")):
        differs = one[column].groupby(labels).transform("nunique") > 1
        labels += one[column].map(f", {wording}".format).where(differs, "")
    return [(str(name), table[table["source"] == source]) for source, name in labels.items()]


def _task(rows: pd.DataFrame, label: str) -> list[str]:
    """A verdict in one line."""
    best = rows.iloc[0]
    arrow = "↓" if best["direction"] == "minimize" else "↑"
    top = rows.loc[rows["place"].isin(("winner", "tied")), "family"].tolist()
    behind = rows[rows["place"] == "behind"]
    winner, score, follows = "none: all lost seeds", "–", ["–", "–"]
    if top:
        winner = top[0] if len(top) == 1 else f"{_short(top)} (tie)"
        score = measured(best["mean"], best) + _ends(aligned(best["low"]), aligned(best["high"]))
    if not behind.empty:
        row = behind.sort_values("rank", kind="stable").iloc[0]
        gap, *ends = (number(row[name], 2) for name in ("gap", "gap_low", "gap_high"))
        follows = [row["family"], gap + _ends(*ends)]
    return [
        label,
        f"{words(best['metric'])}{FIXED}{arrow}",
        best["split"],
        count(best["horizon"]),
        count(best["seeds"]),
        winner,
        score,
        *follows,
    ]


def _short(names: list[str]) -> str:
    """Names, the first ones of many.

    Example:
        >>> _short(["rex", "wsd", "step", "tanh", "linear"])
        'rex, wsd, step and 2 more'
    """
    if len(names) <= SHOWN + 1:
        return ", ".join(names)
    return f"{', '.join(names[:SHOWN])} and {len(names) - SHOWN} more"


def _ends(low: str, high: str) -> str:
    """An interval that no line breaks; nothing where there was one seed only."""
    return "" if low == "–" else f" ({low}{FIXED}to{FIXED}{high})"


def _families(wins: pd.DataFrame) -> list[list[str]]:
    """A line a family."""
    first = wins["mean_rank"].min()
    lines = []
    for row in wins.to_dict("records"):
        mean, against = f"{row['mean_rank']:.2f}", "not told apart"
        if pd.isna(row["mean_rank"]):
            mean = against = "–"
        elif row["mean_rank"] == first:
            against = "first"
        elif not row["within"]:
            against = "behind"
        amounts = [number(row[name], 3) for name in ("tasks", "wins", "ties", "losses")]
        lines.append([row["family"], *amounts, mean, against])
    return lines


def render(table: pd.DataFrame, wins: pd.DataFrame, sentences: Sequence[str]) -> str:
    """One HTML page that needs nothing else.

    Args:
        table: see ``lrtune.results.compare.table``.
        wins: see ``lrtune.results.ranks.wins``.
        sentences: the answer, the most important one first.
    """
    verdicts = _verdicts(table)
    tasks = len(table[["task", "horizon"]].drop_duplicates())
    amounts = f"{plural(tasks, 'task', 'tasks')} · {plural(len(wins), 'family', 'families')}"
    first, *others = sentences
    body = join(
        [
            tag("header", tag("h1", "Across tasks"), tag("p", amounts, css="quiet")),
            Markup(f'<section id="answer">{tag("p", first, css="answer")}'),
            join(tag("p", sentence) for sentence in others),
            Markup("</section>"),
            _by_task(verdicts),
            _by_family(wins),
            _gaps(verdicts, wins["family"].tolist()),
            _sources(verdicts),
        ]
    )
    return page.shell("Across tasks", body)


def _by_task(verdicts: Sequence[tuple[str, pd.DataFrame]]) -> Markup:
    rows = [_task(rows, label) for label, rows in verdicts]
    listed = grid(HEADS, rows, css="tasks", numeric=3, until=5)
    return section("tasks", "Wins per task", listed, tag("p", NOTE, css="note"))


def _by_family(wins: pd.DataFrame) -> Markup:
    rows = [[_name(family), *figures] for family, *figures in _families(wins)]
    note = (
        "Wins are alone, ties at the top. A family takes part where it was a finalist. Mean ranks "
        "are of the families that every task has; against the first: whether they are further "
        "apart than the critical difference."
    )
    listed = grid(FAMILY_HEADS, rows, css="sortable", until=6)
    return section("families", "Per family", listed, tag("p", note, css="note"))


def _name(family: str) -> Markup:
    return join([swatch(family), family])


def _gaps(verdicts: Sequence[tuple[str, pd.DataFrame]], families: Sequence[str]) -> Markup:
    """Every family on every task, in a unit that tasks share."""
    columns = [_column(rows) for _, rows in verdicts]
    cells = [[_name(f), *(column.get(f, _box("–")) for column in columns)] for f in families]
    note = (
        "Gap to the recommended one on the same seeds, in standard deviations between seeds of "
        "those at the top. Bold: winner or tied. A dash: not a finalist there."
    )
    heads = ["family", *(label for label, _ in verdicts)]
    listed = grid(heads, cells, css="gaps")
    return section("gaps", "How far behind", listed, tag("p", note, css="note"))


def _column(rows: pd.DataFrame) -> dict[str, Markup]:
    """A verdict's cells, by family."""
    top = rows["place"].isin(("winner", "tied"))
    spreads = rows.loc[top & (rows["sd"] > 0), "sd"]
    unit = float(spreads.median()) if len(spreads) else np.nan
    return {
        row["family"]: _cell(row["place"], row["gap"] / unit) for row in rows.to_dict("records")
    }


def _cell(place: str, gap: float) -> Markup:
    shown: object = f"{gap:.1f}" if np.isfinite(gap) and place != "lost" else place
    if place in ("winner", "tied"):
        return _box(tag("strong", shown), "0,151,110,.22")
    depth = min(gap / FAR, 1.0) if np.isfinite(gap) else 0.0
    return _box(
        shown, "138,138,138,.25" if place == "lost" else f"217,95,14,{0.1 + 0.35 * depth:.2f}"
    )


def _box(shown: object, colour: str = "0,0,0,0") -> Markup:
    """A cell's content on a colour (red, green, blue, opacity)."""
    return Markup(f'<span class="gap" style="background:rgba({colour})">{text(shown)}</span>')


def _sources(verdicts: Sequence[tuple[str, pd.DataFrame]]) -> Markup:
    firsts = [(label, rows.iloc[0]) for label, rows in verdicts]
    rows = [(label, row["study"], row["seed"], row["source"]) for label, row in firsts]
    return section(
        "sources", "The verdicts", grid(["task", "study", "seed", "from"], rows, numeric=9)
    )
