"""Wording: values, intervals and names as the sentences of a verdict have them."""

from collections.abc import Mapping, Sequence
from typing import Any

from lrtune.format import number, plural
from lrtune.results.canvas import words


def metric_of(verdict: Mapping[str, Any]) -> str:
    """The name of the metric, in words."""
    return words(verdict["objective"]["name"])


def amount_of(verdict: Mapping[str, Any], value: float | None) -> str:
    """A value of the metric with its unit."""
    unit = verdict["objective"].get("unit")
    if value is None:
        return "–"
    return f"{number(value, 3)}{' ' + unit if unit else ''}"


def forecast_range(found: Mapping[str, Any]) -> str:
    """The interval of a forecast in parentheses, if there is one.

    Example:
        >>> forecast_range({"final": 0.5, "low": 0.4, "high": 0.7})
        ' (0.4 to 0.7)'
    """
    ends = [found[name] for name in ("low", "high") if found.get(name) is not None]
    return f" ({' to '.join(number(end, 3) for end in sorted(ends))})" if ends else ""


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
