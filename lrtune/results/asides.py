"""Asides of a verdict: what it says beside who wins."""

from collections.abc import Mapping
from typing import Any

from lrtune.results.canvas import words
from lrtune.results.markup import aligned, count, number
from lrtune.results.wording import amount_of, listed, reach_of

Verdict = Mapping[str, Any]


def quickest(verdict: Verdict) -> str:
    """Who needs the fewest updates to the target."""
    found = verdict["quickest"]
    if found is None:
        return (
            "Fewest updates to a target: constant was not trained to the end on every seed to set "
            "one; name it: --goal."
        )
    name, value = words(found["metric"]["name"]), aligned(found["value"])
    unit = found["metric"].get("unit")
    target = f"{name} {value}{' ' + unit if unit else ''}"
    whose = f", where {found['from']} ends" if found["from"] else ""
    first = found["families"][0]
    if not found["tied"]:
        some = max(found["families"], key=lambda row: row["reached"])
        return (
            f"Fewest updates to {target} on validation{whose}: no family reached it on every "
            f"seed; {some['family']} did on {some['reached']} of {some['seeds']}."
        )
    who = listed(found["tied"])
    tie = " (a tie)" if len(found["tied"]) > 1 else ""
    return (
        f"Fewest updates to {target} on validation{whose}: {who}{tie}, "
        f"{count(first['updates'])} of {count(verdict['horizon'])} on average."
    )


def robust(verdict: Verdict) -> str:
    """Whose peak rate may be off furthest."""
    rows = [row for row in verdict["response"] if row.get("factor")]
    amount = verdict["amount"]
    if amount is None:
        return "How far the peak rate may be off: not known, as how much a score varies is not."
    if not rows:
        return "How far the peak rate may be off: no optimum is seen in the trials of any family."
    rows.sort(key=lambda row: -row["factor"])
    said = [
        f"{row['family']} by a factor {number(row['factor'], 2)} "
        f"({number(row['factor_low'], 2)} {_up_to(row['factor_high'])})"
        for row in rows[:3]
    ]
    return (
        f"The peak rate may be off, before the score is {amount_of(verdict, amount)} worse: "
        f"{listed(said)} (from the search's trials, 90 % intervals)."
    )


def _up_to(high: float | None) -> str:
    """The upper end of an interval that may have none."""
    return "or more" if high is None else f"to {number(high, 2)}"


def ceiling(verdict: Verdict) -> str:
    """What any shape could still win, where the free form came to the finals."""
    found = verdict["ceiling"]
    if found is None:
        return ""
    if found["best"] == found["family"] and found["place"] == "winner":
        return (
            "The free-form spline is itself the best: no named family has the shape that it found."
        )
    more = "It has more to tune, so with few trials that is no proof."
    if found["place"] == "tied":
        return (
            "The free-form spline, which may take any shape, cannot be told apart from the best: "
            f"no better shape was found. {more}"
        )
    gap, reach = amount_of(verdict, found["gap"]), reach_of(verdict, found)
    return (
        f"The free-form spline, which may take any shape, is {gap} behind {found['best']}{reach}: "
        f"no better shape was found. {more}"
    )


def anchor(verdict: Verdict) -> str:
    """What a shape is worth at all, beside tuning the peak."""
    found = verdict["anchor"]
    if found is None or found["best"] == found["family"]:
        return ""
    gap, reach = amount_of(verdict, found["gap"]), reach_of(verdict, found)
    lead = "Shape alone, each family at its own best peak:"
    if found["place"] == "tied":
        return (
            f"{lead} {found['best']} cannot be told apart from tuned constant; taken alone, the "
            f"gap is {gap}{reach}."
        )
    return f"{lead} {found['best']} is {gap} better than tuned constant{reach}."
