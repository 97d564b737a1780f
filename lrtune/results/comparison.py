"""The comparison of several tasks as a person reads it, in Markdown."""

import re
from collections.abc import Sequence

import pandas as pd

from lrtune.format import aligned, count, measured, number
from lrtune.results.canvas import words

HEADS = ["task", "metric", "split", "updates", "seeds"]
HEADS += ["winner", "score (95 %)", "next behind", "by (95 %)"]
FAMILY_HEADS = ["family", "tasks", "wins", "ties", "losses", "mean rank", "against the first"]
NOTE = (
    "A winner is told from all others; of those tied none is, and the score is that of the "
    "recommended one. Lower is better with ↓, higher with ↑. By: how much worse, on the same seeds."
)
FIXED = "\N{NO-BREAK SPACE}"
SHOWN = 3  # of those tied


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
