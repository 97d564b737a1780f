"""Compare: the verdicts of several tasks side by side."""

import json
import math
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from lrtune.errors import InputError
from lrtune.verdict.verdict import Verdict

VERDICT, RUN = "verdict.json", "run.json"  # in a run's folder
PLACES = {"winner": 0, "tied": 0, "behind": 1, "lost": 2}  # and which of them rank first
TASK = ["task", "horizon"]  # columns: what makes two verdicts two of the same task
EQUAL = 9  # digits: gaps that differ by less, relative to the best score, are a tie of ranks


def find_verdicts(paths: Iterable[str | Path]) -> list[tuple[str, Verdict]]:
    """The verdicts in these places, each once, and what to call them.

    Args:
        paths: of a run's folder, of a verdict's file, or of a folder of such: its ``verdict.json``
            files at any depth, and those of the ``*.json`` directly in it that are verdicts.

    Raises:
        InputError: a place has no verdict, or one that cannot be read.
    """
    found: list[tuple[str, Verdict]] = []
    for path in map(Path, paths):
        for file in _files(path):
            verdict = Verdict.read(file)
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
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: cannot be read as JSON: {error}") from error
    return isinstance(content, dict) and "answer" in content


def table(verdicts: Sequence[tuple[str, Verdict]]) -> pd.DataFrame:
    """One row per family of a verdict: those of a task together, the recommended one first.

    Args:
        verdicts: with what to call each, as ``find_verdicts`` gives them.

    Returns:
        The task (data and model), the horizon in updates, what the verdict is called, and so on;
        of each family what ``Standing`` says, its schedule, and its ``rank``: 1 is the best; those
        at the top, those behind, those lost, by the gap among themselves; equal gaps, and those
        lost, share the mean of their ranks.

    Raises:
        InputError: a verdict is unfinished or compares nothing, or one task was judged by two
            metrics.
    """
    if len({label for label, _ in verdicts}) < max(1, len(verdicts)):
        raise InputError("expected verdicts to compare, each with a name of its own")
    frame = pd.DataFrame([row for label, verdict in verdicts for row in _rows(label, verdict)])
    _check_metrics(frame)
    return frame.sort_values([*TASK, "seed"], kind="stable", ignore_index=True)


def _rows(label: str, verdict: Verdict) -> list[dict[str, Any]]:
    if verdict.answer.place == "unfinished":
        raise InputError(f"{label}: not finished yet: lrtune confirm goes on with it")
    if len(verdict.families) < 2:
        raise InputError(f"{label}: has one family only, nothing to compare: leave it out")
    known = [row for row in verdict.families if row.place != "lost"]
    for row in known:
        if not math.isfinite(row.mean + row.gap):
            raise InputError(
                f"{label}: damaged: {row.family} is not lost, and has no mean or no gap"
            )
    scale = max((abs(row.mean) for row in known), default=0.0) or 1.0
    keys = [
        (PLACES[row.place], 0.0 if row.place == "lost" else round(row.gap / scale, EQUAL))
        for row in verdict.families
    ]
    order = sorted(set(keys))
    ranks = stats.rankdata([order.index(key) for key in keys]).tolist()
    task, objective = verdict.task, verdict.objective
    shared = {
        "task": _printable(f"{task.name}, {task.model}"),
        "horizon": verdict.horizon,
        "source": _printable(label),
        "study": _printable(verdict.study),
        "seed": verdict.seed,
        "metric": _printable(objective.name),
        "unit": _printable(objective.unit),
        "direction": objective.direction,
        "split": verdict.split,
    }
    names = ("place", "seeds", "mean", "low", "high", "sd", "gap", "gap_low", "gap_high")
    return [
        {
            **shared,
            "family": _printable(row.family),
            **{name: getattr(row, name) for name in names},
            "peak_lr": row.schedule.peak_lr,
            "warmup": row.schedule.warmup,
            "schedule": row.schedule.to_json(),
            "rank": rank,
        }
        for row, rank in zip(verdict.families, ranks, strict=True)
    ]


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


def mean_ranks(table: pd.DataFrame) -> dict[str, float]:
    """Mean ranks over tasks of the families that all verdicts share, ranked among themselves.

    Scores of different tasks have different units, so that only ranks cross from one to the next.
    Several verdicts on one task count as one: their ranks are averaged first.

    Args:
        table: see ``table``.

    Returns:
        By family, the best first; empty for one task, or where the tasks share no two families.
    """
    present = table.groupby("family")["source"].nunique()
    shared = present.index[present == table["source"].nunique()]
    if len(table[TASK].drop_duplicates()) < 2 or len(shared) < 2:
        return {}
    own = table[table["family"].isin(shared)]
    own = own.assign(rank=own.groupby("source")["rank"].rank())
    means = own.pivot_table(index=TASK, columns="family", values="rank").mean().round(EQUAL)
    return {str(family): float(means[family]) for family in means.sort_values(kind="stable").index}


def wins(table: pd.DataFrame) -> pd.DataFrame:
    """How each family did over all tasks, the most wins first.

    A task judged by several verdicts is shared out among them, so that every family's wins, ties
    and losses add up to its tasks.

    Args:
        table: see ``table``.

    Returns:
        Columns ``family``, ``tasks`` (where it was a finalist), ``wins`` (alone), ``ties`` (in the
        tie at the top), ``losses`` and ``mean_rank`` (NaN unless every verdict has the family).
    """
    times = table.groupby([*TASK, "family"])["source"].transform("size")
    counts = (
        table.assign(share=1 / times)
        .pivot_table(index="family", columns="place", values="share", aggfunc="sum")
        .reindex(columns=list(PLACES))
        .fillna(0.0)
        .round(EQUAL)
    )
    frame = pd.DataFrame(
        {
            "tasks": table.drop_duplicates([*TASK, "family"])["family"].value_counts(),
            "wins": counts["winner"],
            "ties": counts["tied"],
            "losses": counts["behind"] + counts["lost"],
        }
    )
    frame["mean_rank"] = pd.Series(mean_ranks(table), dtype=float).reindex(frame.index)
    return (
        frame.rename_axis("family")
        .reset_index()
        .sort_values(
            ["wins", "ties", "mean_rank", "family"],
            ascending=[False, False, True, True],
            ignore_index=True,
        )
    )
