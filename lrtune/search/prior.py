"""Prior: settings that won on other tasks, tried first on a new one."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from statistics import median, mode
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

PEAK = "peak_lr"
PLACE = "place"  # in a file, instead of PEAK: where the peak lies in the interval searched, 0 ... 1


@dataclass(frozen=True)
class Prior:
    """What won elsewhere.

    Attributes:
        settings: one of each task and family: ``task``, ``family``, ``place`` and the family's
            other parameters, without its prefix.
    """

    settings: tuple[Mapping[str, Any], ...]

    def __str__(self) -> str:
        """How much it holds, and a fingerprint of that: as run.json keeps it."""
        digest = hashlib.blake2b(json.dumps(self.settings, sort_keys=True).encode(), digest_size=4)
        tasks = {one["task"] for one in self.settings}
        return f"{len(self.settings)} settings of {len(tasks)} tasks, {digest.hexdigest()}"

    def without(self, tasks: Iterable[str]) -> "Prior":
        """What the other tasks say."""
        left = set(tasks)
        return Prior(tuple(one for one in self.settings if one["task"] not in left))

    def draw(self, family: str, knobs: Mapping[str, BaseDistribution]) -> dict[str, Any] | None:
        """The middle of what won: of each parameter its median over the tasks, on its scale.

        Args:
            family: whose.
            knobs: its distributions by full name, the peak's among them.

        Returns:
            A value for every one of ``knobs``; None where a parameter never was in any winner.
        """
        own = [one for one in self.settings if one["family"] == family]
        found = {}
        for name, distribution in knobs.items():
            short = name.partition(".")[2]
            key = PLACE if short == PEAK else short
            values = [one[key] for one in own if key in one]
            if not values:
                return None
            found[name] = _middle(values, distribution, between=short == PEAK)
        return found


@cache
def published() -> Prior:
    """The prior that comes with lrtune; see ``scripts/publish.py``."""
    text = resources.files("lrtune.search").joinpath("prior.json").read_text(encoding="utf-8")
    return Prior(tuple(json.loads(text)))


def settings_in(verdict: Mapping[str, Any], task: str) -> list[dict[str, Any]]:
    """What a verdict adds to a prior: the setting of each family that was not lost.

    Args:
        verdict: as ``verdict.json`` has it.
        task: a name for it.
    """
    if verdict["peaks"]["base_lr"] is None:
        return []  # there is no bracket by which a peak could be placed elsewhere
    low, high = map(math.log, verdict["peaks"]["searched"])
    found = []
    for row in verdict["families"]:
        if row["place"] == "lost":
            continue
        params = dict(row["params"])
        place = (math.log(params.pop(PEAK)) - low) / (high - low) if high > low else 0.5
        found.append({"task": task, "family": row["family"], PLACE: place, **params})
    return found


def _middle(values: list[Any], distribution: BaseDistribution, between: bool) -> Any:
    """The median, or of choices the most frequent; within the range searched now."""
    if isinstance(distribution, CategoricalDistribution):
        known = [value for value in values if value in distribution.choices]
        return mode(known) if known else distribution.choices[0]
    low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
    if between:  # the ends of an interval of rates
        return math.exp(math.log(low) + median(values) * (math.log(high) - math.log(low)))
    logarithmic = distribution.log  # type: ignore[attr-defined]
    middle = math.exp(median(map(math.log, values))) if logarithmic else median(values)
    inside = min(max(middle, low), high)
    return round(inside) if isinstance(distribution, IntDistribution) else inside
