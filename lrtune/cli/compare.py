"""``lrtune compare`` in the terminal: two tables that fit it, and the answer in sentences."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from lrtune.cli.console import console_of, copyable, harmless, named, say
from lrtune.cli.result import short
from lrtune.format import count, number
from lrtune.reports import compare
from lrtune.verdict.wording import listed, words

ARROWS = {"minimize": "↓", "maximize": "↑"}
NAMED = 2  # of those tied


def print_comparison(runs: Sequence[Path], out: Path | None) -> None:
    """Compare, write the table if asked for, and print two tables and the sentences."""
    console = console_of()
    found = compare.compare(runs, out)
    _print_tasks(found.table, console)
    _print_families(found.wins, console)
    for sentence in found.sentences:
        say(console, sentence)
    if out is not None:
        copyable(console, f"wrote {out}")


def _print_tasks(table: pd.DataFrame, console: Console) -> None:
    """One row per verdict; words fold, figures do not."""
    seeds = table.groupby(["task", "horizon"])["seed"].transform("nunique") > 1
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in ("task", "winner", "score", "next behind"):
        shown.add_column(name, overflow="fold", no_wrap=name in ("score", "next behind"))
    for _, rows in table.groupby("source", sort=False):
        best = rows.iloc[0]
        seed = f", seed {best['seed']}" if seeds[rows.index[0]] else ""
        what = f"{words(best['metric'])} {ARROWS[best['direction']]}"
        task = f"{best['task']}, {count(best['horizon'])} updates{seed}: {what}"
        shown.add_row(*map(harmless, (task, *_winner(rows))))
    console.print(shown)
    say(console, "↓: lower is better, ↑: higher is better; of a tie, the score of the best mean")


def _winner(rows: pd.DataFrame) -> tuple[str, str, str]:
    """Who won and with what score; who is behind, and by how much."""
    names = rows.loc[rows["place"].isin(("winner", "tied")), "family"].tolist()
    if not names:
        return "none: all lost seeds", "–", "–"
    more = len(names) - NAMED
    said = listed([*names[:NAMED], f"{more} more"] if more > 1 else names)
    won = said if len(names) == 1 else f"tie: {said}"
    behind, follows = rows[rows["place"] == "behind"].sort_values("rank", kind="stable"), "–"
    if not behind.empty:
        first = behind.iloc[0]
        follows = f"{named(first['family'], 20)} by {short(first['gap'])}"
    return won, short(rows.iloc[0]["mean"]), follows


def _print_families(wins: pd.DataFrame, console: Console) -> None:
    """One row per family."""
    amounts = ("tasks", "wins", "ties", "losses")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("family", overflow="fold")
    for name in (*amounts, "mean rank"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in wins.to_dict("records"):
        # Of a task that several verdicts judge, each has a share.
        cells = [number(row[name], 3) for name in (*amounts, "mean_rank")]
        table.add_row(harmless(row["family"]), *cells)
    console.print(table)
