"""Wording: values, intervals and names as the sentences of a verdict have them."""

import math
from collections.abc import Sequence

from lrtune.format import aligned, count, number, plural
from lrtune.verdict.settings import Objective
from lrtune.verdict.verdict import Verdict


def words(name: str) -> str:
    """A metric's name as a person writes it.

    Example:
        >>> words("cross_entropy")
        'cross-entropy'
    """
    return name.replace("cross_entropy", "cross-entropy").replace("_", " ")


def value_title(metric: Objective) -> str:
    """A validation metric and its unit."""
    return f"validation {words(metric.name)}{f' ({metric.unit})' if metric.unit else ''}"


def metric_of(verdict: Verdict) -> str:
    """The name of the metric, in words."""
    return words(verdict.objective.name)


def amount_of(verdict: Verdict, value: float) -> str:
    """A value of the metric with its unit; a dash for NaN."""
    unit = verdict.objective.unit
    return f"{number(value, 3)}{f' {unit}' if unit and math.isfinite(value) else ''}"


def range_of(verdict: Verdict, low: float, high: float) -> str:
    """Two values, their unit once."""
    unit = verdict.objective.unit
    return f"{number(low, 3)} to {number(high, 3)}{f' {unit}' if unit else ''}"


def since(verdict: Verdict, trials: int) -> str:
    """That the search has gone on since the verdict, if it has; it has ``trials`` by now."""
    newer = trials - verdict.trials
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


def time_to_target(verdict: Verdict) -> str:
    """Who needs the fewest updates to the target."""
    found = verdict.time_to_target
    if found is None:
        return (
            "Fewest updates to a target: constant was not trained to the end on every seed to set "
            "one; name it: --goal."
        )
    unit = f" {found.metric.unit}" if found.metric.unit else ""
    target = f"{words(found.metric.name)} {aligned(found.value)}{unit}"
    whose = f", where {found.baseline} ends" if found.baseline else ""
    if not found.tied:
        some = max(found.families, key=lambda row: row.reached)
        return (
            f"Fewest updates to {target} on validation{whose}: no family reached it on every "
            f"seed; {some.family} did on {some.reached} of {some.seeds}."
        )
    who = listed(found.tied)
    tie = " (a tie)" if len(found.tied) > 1 else ""
    return (
        f"Fewest updates to {target} on validation{whose}: {who}{tie}, "
        f"{count(found.families[0].updates)} of {count(verdict.horizon)} on average."
    )
