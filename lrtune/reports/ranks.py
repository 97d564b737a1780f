"""Ranks: which family is ahead across tasks, and whether there are tasks enough to say so.

Scores of different tasks have different units, so that only ranks cross from one to the next:
Friedman's test and the critical difference of Nemenyi, after Demšar (2006), "Statistical
Comparisons of Classifiers over Multiple Data Sets", JMLR 7.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from lrtune.format import number, plural
from lrtune.verdict.wording import listed

ALPHA = 0.05
TASK = ["task", "horizon"]  # columns: what makes two verdicts two of the same task
LISTED = 4  # names in a sentence; the others are counted


@dataclass(frozen=True, slots=True)
class Ranking:
    """Mean ranks over tasks."""

    # of each family that every verdict has, the best first; 1 is the best rank
    means: dict[str, float] = field(default_factory=dict)
    # by which two mean ranks must differ to be told apart (Nemenyi); None without mean ranks
    difference: float | None = None
    # Friedman's, that all of these families are equal; None of two, where the critical difference
    # says the same
    p: float | None = None
    why: str = ""  # why there are no mean ranks; empty where there are

    @property
    def first(self) -> list[str]:
        """Those with the best mean rank."""
        return [name for name, mean in self.means.items() if mean == min(self.means.values())]

    @property
    def behind(self) -> list[str]:
        """Those that are further from the best than the critical difference."""
        if self.difference is None:
            return []
        reach = min(self.means.values()) + self.difference
        return [name for name, mean in self.means.items() if mean > reach]


def critical_difference(families: int, tasks: int) -> float:
    """By how much two mean ranks differ with a probability of 5 % if all families are equal.

    Args:
        families: at least 2.
        tasks: at least 1.

    Example:
        >>> round(critical_difference(families=4, tasks=14), 2)
        1.25
    """
    q = stats.studentized_range.ppf(1 - ALPHA, families, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(families * (families + 1) / (6 * tasks)))


def ranking(table: pd.DataFrame) -> Ranking:
    """Mean ranks of the families that all verdicts share, ranked anew among themselves.

    Several verdicts on one task count as one: their ranks are averaged first.

    Args:
        table: see ``lrtune.reports.compare.table``.
    """
    verdicts = table["source"].nunique()
    present = table.groupby("family")["source"].nunique()
    shared = sorted(present.index[present == verdicts])
    tasks = len(table[TASK].drop_duplicates())
    if tasks < 2:
        return Ranking(why="there is one task only")
    if len(shared) < 2:
        only = f", {shared[0]}" if shared else ""
        return Ranking(why=f"the tasks share {plural(len(shared), 'family', 'families')}{only}")
    own = table[table["family"].isin(shared)]
    own = own.assign(rank=own.groupby("source")["rank"].rank())
    ranks = own.pivot_table(index=TASK, columns="family", values="rank")
    means = ranks.mean().round(9).sort_values(kind="stable")
    return Ranking(
        {str(family): float(mean) for family, mean in means.items()},
        critical_difference(len(shared), tasks),
        _friedman(ranks.to_numpy(float)) if len(shared) > 2 else None,
    )


def _friedman(ranks: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> float:
    """Friedman's p-value of ranks (tasks, families); 1 where no task tells any two apart."""
    if not np.ptp(ranks, axis=1).any():
        return 1.0
    return float(stats.friedmanchisquare(*ranks.T).pvalue)


def wins(table: pd.DataFrame) -> pd.DataFrame:
    """How each family did over all tasks, the most wins first.

    A task judged by several verdicts is shared out among them, so that every family's wins, ties
    and losses add up to its tasks.

    Args:
        table: see ``lrtune.reports.compare.table``.

    Returns:
        Columns ``family``, ``tasks`` (where it was a finalist), ``wins`` (alone), ``ties`` (in the
        tie at the top), ``losses`` and ``mean_rank`` (NaN unless every verdict has the family).
    """
    found = ranking(table)
    times = table.groupby([*TASK, "family"])["source"].transform("size")
    counts = (
        table.assign(share=1 / times)
        .pivot_table(index="family", columns="place", values="share", aggfunc="sum")
        .reindex(columns=["winner", "tied", "behind", "lost"])
        .fillna(0.0)
        .round(9)
    )
    frame = pd.DataFrame(
        {
            "tasks": table.drop_duplicates([*TASK, "family"])["family"].value_counts(),
            "wins": counts["winner"],
            "ties": counts["tied"],
            "losses": counts["behind"] + counts["lost"],
        }
    )
    frame["mean_rank"] = pd.Series(found.means, dtype=float).reindex(frame.index)
    frame = frame.rename_axis("family").reset_index()
    return frame.sort_values(
        ["wins", "ties", "mean_rank", "family"],
        ascending=[False, False, True, True],
        ignore_index=True,
    )


def sentences(table: pd.DataFrame) -> list[str]:
    """What a person should take from it.

    Args:
        table: see ``lrtune.reports.compare.table``.
    """
    found, frame = ranking(table), wins(table)
    tasks = table[TASK].drop_duplicates()
    ends = table.drop_duplicates("source")  # the best of each verdict
    tied = (ends["place"] == "tied").groupby([ends[name] for name in TASK]).mean().sum()
    said = [_most(frame, plural(len(tasks), "task", "tasks"), tied)]
    said += [f"No mean ranks: {found.why}."] if found.why else _apart(found, len(tasks))
    absent = frame.loc[~frame["family"].isin(list(found.means)), "family"].tolist()
    if absent and found.means:
        said.append(
            f"Without a mean rank, as not every task had them as finalists: {_and(absent)}."
        )
    for (task, horizon), rows in table.groupby(TASK):
        if (times := rows["source"].nunique()) > 1:
            said.append(
                f"{task} over {horizon:,} updates was judged {times} times and counts once."
            )
    return said


def _most(frame: pd.DataFrame, tasks: str, tied: float) -> str:
    """Who has most wins, or was most often at the top; and how many tasks nobody won alone."""
    column = "wins" if frame["wins"].any() else "ties"
    most = frame[column].max()
    if not most:
        return "Nobody won: on every task, all families lost seeds."
    first = frame[frame[column] == most]
    who = _and(first["family"].tolist()) + (" each" if len(first) > 1 else "")
    than = ", more than any other family" if len(first) < len(frame) else ""
    if column == "ties":
        return f"{who} shared the top of {number(most, 3)} of {tasks}{than}; nobody won one alone."
    more = first["ties"].iloc[0] if len(first) == 1 else 0
    rest = f", and shared the top of {number(more, 3)} more" if more else ""
    ties = f"; {number(tied, 3)} ended in a tie" if tied else ""
    return f"{who} won {number(most, 3)} of {tasks} alone{than}{rest}{ties}."


def _apart(found: Ranking, tasks: int) -> list[str]:
    """What the critical difference says."""
    assert found.difference is not None
    families, first, reach = len(found.means), _and(found.first), number(found.difference, 2)
    verb = "comes" if len(found.first) == 1 else "come"
    said = [
        f"By mean rank among the {families} families that all {tasks} tasks share, {first} {verb} "
        f"first ({min(found.means.values()):.2f})."
    ]
    apart = f"{tasks} tasks tell apart only mean ranks further apart than {reach} (Nemenyi, 95 %)"
    if found.difference >= families - 1:
        return [*said, f"{apart}, which those of {families} families cannot be: too few tasks."]
    behind = _and(found.behind)
    verb = "is" if len(found.behind) == 1 else "are"
    shown = f"{behind} {verb} behind, the others not shown to be" if behind else "nobody is behind"
    test = "" if found.p is None else f" Friedman's test of all at once: p = {number(found.p, 2)}."
    return [*said, f"{apart}: {shown}.{test}"]


def _and(names: Sequence[str]) -> str:
    """Names as a person lists them, the first ones of many."""
    if len(names) > LISTED:
        names = [*names[: LISTED - 1], f"{len(names) - LISTED + 1} more"]
    return listed(names) if names else ""
