"""Wording: values, intervals and names as the sentences of a verdict have them."""

from collections.abc import Mapping, Sequence
from typing import Any

from lrtune.format import aligned, count, number, plural


def words(name: str) -> str:
    """A metric's name as a person writes it.

    Example:
        >>> words("cross_entropy")
        'cross-entropy'
    """
    return name.replace("cross_entropy", "cross-entropy").replace("_", " ")


def value_title(metric: Mapping[str, Any]) -> str:
    """A validation metric and its unit."""
    unit = f" ({metric['unit']})" if metric.get("unit") else ""
    return f"validation {words(metric['name'])}{unit}"


def metric_of(verdict: Mapping[str, Any]) -> str:
    """The name of the metric, in words."""
    return words(verdict["objective"]["name"])


def amount_of(verdict: Mapping[str, Any], value: float | None) -> str:
    """A value of the metric with its unit."""
    unit = verdict["objective"].get("unit")
    if value is None:
        return "–"
    return f"{number(value, 3)}{' ' + unit if unit else ''}"


def range_of(verdict: Mapping[str, Any], low: float | None, high: float | None) -> str:
    """Two values, their unit once."""
    unit = verdict["objective"].get("unit")
    ends = ("–" if end is None else number(end, 3) for end in (low, high))
    return f"{' to '.join(ends)}{' ' + unit if unit else ''}"


def since(verdict: Mapping[str, Any], trials: int) -> str:
    """That the search has gone on since the verdict, if it has; it has ``trials`` by now."""
    newer = trials - verdict.get("trials", trials)
    if newer <= 0:
        return ""
    return (
        f"The search has gone on since, by {plural(newer, 'trial', 'trials')}: lrtune confirm "
        "takes in what is better."
    )


def listed(names: Sequence[str]) -> str:
    """Names with commas and an "and".

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def quickest(verdict: Mapping[str, Any]) -> str:
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
