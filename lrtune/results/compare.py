"""Compare: the verdicts of several tasks side by side, as a table and in Markdown."""

import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from lrtune.errors import InputError
from lrtune.files import replace
from lrtune.format import aligned, count, measured, number
from lrtune.results.kept import read_verdict
from lrtune.results.ranks import TASK, sentences, wins
from lrtune.results.wording import words

__all__ = ["Comparison", "compare", "find_verdicts", "markdown", "sentences", "table", "wins"]

VERDICT, RUN = "verdict.json", "run.json"  # in a run's folder
PLACES = {"winner": 0, "tied": 0, "behind": 1, "lost": 2}  # and which of them rank first
EQUAL = 9  # digits: gaps that differ by less, relative to the best score, are a tie of ranks

Verdict = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found across tasks.

    Attributes:
        table: see ``table``.
        wins: see ``wins``.
        sentences: see ``sentences``.
    """

    table: pd.DataFrame
    wins: pd.DataFrame
    sentences: list[str]


def find_verdicts(paths: Iterable[str | Path]) -> list[tuple[str, dict[str, Any]]]:
    """The verdicts in these places, each once, and what to call them.

    Args:
        paths: of a run's folder, of a verdict's file, or of a folder of such: its ``verdict.json``
            files at any depth, and those of the ``*.json`` directly in it that are verdicts.

    Raises:
        InputError: a place has no verdict, or one that cannot be read.
    """
    found: list[tuple[str, dict[str, Any]]] = []
    for path in map(Path, paths):
        for file in _files(path):
            verdict = _read(file)
            if all(verdict != other for _, other in found):  # a copy tells nothing new
                found.append((str(file.parent if file.name == VERDICT else file), verdict))
    return found


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    if (path / VERDICT).exists():
        return [path / VERDICT]
    if (path / RUN).exists():
        raise InputError(f"{path}: has no verdict yet: lrtune confirm {shlex.quote(str(path))}")
    files = [*sorted(path.rglob(VERDICT)), *sorted(filter(_is_verdict, path.glob("*.json")))]
    if not files:
        raise InputError(f"{path}: holds no verdict: lrtune confirm RUN makes one")
    return files


def _is_verdict(file: Path) -> bool:
    try:
        content = json.loads(_text(file))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: damaged: not JSON: {error}") from error
    return isinstance(content, dict) and "answer" in content


def _read(file: Path) -> dict[str, Any]:
    try:
        return read_verdict(_text(file), str(file))
    except RecursionError as error:
        raise InputError(f"{file}: not a verdict of lrtune: {error}") from error


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read: {error}") from error


def table(verdicts: Sequence[tuple[str, Verdict]]) -> pd.DataFrame:
    """One row a family of a verdict: those of a task together, the best family first.

    Args:
        verdicts: with what to call each, as ``find_verdicts`` gives them.

    Returns:
        Columns ``task`` (data and model), ``horizon`` (updates), ``source`` (what the verdict is
        called), ``study``, ``seed`` (of the search), ``metric``, ``unit``, ``direction``,
        ``split``, ``family``, ``place`` (winner, tied, behind, lost), ``mean``, ``low`` and
        ``high`` (its 95 % interval), ``sd`` (between seeds), ``seeds``, ``gap`` (to the best on
        common seeds, positive where worse), ``gap_low``, ``gap_high``, ``p_best`` (the probability
        that it is), ``peak_lr``, ``warmup`` (share of the horizon), ``schedule`` (JSON), ``rank``
        (1 is the best: those at the top, those behind, those lost, by the gap among themselves;
        equal gaps, and those lost, share the mean of their ranks).

    Raises:
        InputError: a verdict is damaged, unfinished or compares nothing, or one task was judged by
            two metrics.
    """
    if len({label for label, _ in verdicts}) < max(1, len(verdicts)):
        raise InputError("expected verdicts to compare, each with a name of its own")
    frame = pd.DataFrame([row for label, verdict in verdicts for row in _rows(label, verdict)])
    _check_metrics(frame)
    return frame.sort_values([*TASK, "seed"], kind="stable", ignore_index=True)


def _rows(label: str, verdict: Verdict) -> list[dict[str, Any]]:
    try:
        place = verdict["answer"]["place"]
        rows = [_row(label, verdict, family) for family in verdict["families"]]
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else error
        raise InputError(f"{label}: a damaged verdict: {why}") from error
    if place == "unfinished":
        raise InputError(f"{label}: not finished yet: lrtune confirm goes on with it")
    if len(rows) < 2:
        raise InputError(f"{label}: has one family only, nothing to compare: leave it out")
    scale = max((abs(row["mean"]) for row in rows if row["place"] != "lost"), default=0.0) or 1.0
    keys = [
        (PLACES[row["place"]], 0.0 if row["place"] == "lost" else round(row["gap"] / scale, EQUAL))
        for row in rows
    ]
    order = sorted(set(keys))
    ranks = stats.rankdata([order.index(key) for key in keys]).tolist()
    return [row | {"rank": rank} for row, rank in zip(rows, ranks, strict=True)]


def _row(label: str, verdict: Verdict, family: Mapping[str, Any]) -> dict[str, Any]:
    task, objective, schedule = verdict["task"], verdict["objective"], family["schedule"]
    names = ("mean", "low", "high", "sd", "gap", "gap_low", "gap_high")
    figures = {name: math.nan if family[name] is None else float(family[name]) for name in names}
    if family["place"] not in PLACES:
        raise ValueError(f"place {family['place']!r}: none of {', '.join(PLACES)}")
    if family["place"] != "lost" and not math.isfinite(figures["mean"] + figures["gap"]):
        raise ValueError(f"{family['family']} is not lost, and has no mean or no gap")
    return {
        "task": _printable(f"{task['name']}, {task['model']}"),
        "horizon": int(verdict["horizon"]),
        "source": _printable(label),
        "study": _printable(verdict["study"]),
        "seed": int(verdict["seed"]),
        "metric": _printable(objective["name"]),
        "unit": _printable(objective["unit"]),
        "direction": _printable(objective["direction"]),
        "split": _printable(verdict["split"]),
        "family": _printable(family["family"]),
        "place": family["place"],
        "seeds": int(family["seeds"]),
        **figures,
        "peak_lr": float(schedule["peak_lr"]),
        "warmup": float(schedule["warmup"]),
        "schedule": json.dumps(schedule),
    }


def _printable(text: object) -> str:
    """Text that a terminal, Parquet and a table's cell can hold; names come from anyone's files."""
    return "".join(c if c.isprintable() else " " for c in str(text))


def _check_metrics(table: pd.DataFrame) -> None:
    for (task, horizon), rows in table.groupby(TASK):
        judged = rows.drop_duplicates(["metric", "direction"])
        if len(judged) > 1:
            first, other = judged.iloc[0], judged.iloc[1]
            raise InputError(
                f"{first['source']} and {other['source']}: the same task, {task} over "
                f"{horizon:,} updates, judged by {first['metric']} and by {other['metric']}: "
                "leave one out"
            )


def compare(paths: Iterable[str | Path], out: str | Path | None = None) -> Comparison:
    """Compare the verdicts in these places, and write the table where ``out`` says.

    Args:
        paths: see ``find_verdicts``.
        out: a ``.parquet`` file in a folder that exists, or None.

    Raises:
        InputError: as ``find_verdicts`` and ``table``, or ``out`` cannot be written.
    """
    if out is not None and Path(out).suffix != ".parquet":
        raise InputError(f"out={str(out)!r}: expected the name of a .parquet file")
    rows = table(find_verdicts(paths))
    if out is not None:
        try:
            replace(Path(out), rows.to_parquet(index=False))
        except OSError as error:
            raise InputError(f"{out}: cannot be written: {error.strerror}") from error
    return Comparison(rows, wins(rows), sentences(rows))


HEADS = ["task", "metric", "split", "updates", "seeds"]
HEADS += ["winner", "score (95 %)", "next behind", "by (95 %)"]
FAMILY_HEADS = ["family", "tasks", "wins", "ties", "losses", "mean rank", "against the first"]
NOTE = (
    "A winner is told from all others; of those tied none is, and the score is that of the best "
    "mean. Lower is better with ↓, higher with ↑. By: how much worse, on the same seeds."
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
