"""Plan and finalists: how a verdict is to be reached, and between whom; as a verdict keeps them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lrtune.errors import InputError
from lrtune.results.contest import FIRST, MOST
from lrtune.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Plan:
    """How a verdict is reached.

    Attributes:
        seeds: of each finalist before the first look.
        max_seeds: of those that cannot be told apart.
        indifference: a difference that does not matter, in the objective's unit; where None, a
            tenth of the standard deviation between seeds.
        target: a metric's name and the value to be reached as soon as possible; where None, what
            constant reaches in the end on every seed.
    """

    seeds: int = FIRST
    max_seeds: int = MOST
    indifference: float | None = None
    target: tuple[str, float] | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        for name in ("seeds", "max_seeds"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise InputError(f"{name}={value!r}: a whole number of at least 1")
        if self.max_seeds < self.seeds:
            raise InputError(f"max_seeds={self.max_seeds}: at least as many as seeds, {self.seeds}")
        if self.indifference is not None and not 0 <= self.indifference < math.inf:
            raise InputError(f"indifference={self.indifference!r}: 0 or more, in the metric's unit")
        if self.target is not None and not (self.target[0] and math.isfinite(self.target[1])):
            raise InputError(f"target={self.target!r}: a metric's name and a number")


@dataclass(frozen=True, slots=True)
class Finalist:
    """A family's best configuration, as the search found it.

    Attributes:
        family: its name.
        schedule: what is trained.
        trial: which of the search's it was; None of the spline that is made like the best.
        value: its validation score there; None where it was pruned or is no trial.
        role: racing, recalled, anchor or ceiling: why it is here.
        params: the parameters that the search drew for it, without the family's prefix.
        reserve: the second best, tried in the finals if this one would be left behind or is lost.
    """

    family: str
    schedule: Schedule
    trial: int | None
    value: float | None
    role: str
    params: Mapping[str, Any] = field(default_factory=dict)
    reserve: "Finalist | None" = None


def entrants(finalists: Iterable[Finalist]) -> dict[str, Finalist]:
    """By a name of its own whoever may be trained: a family's first goes by the family's."""
    found = {}
    for one in finalists:
        found[one.family] = one
        if one.reserve is not None:
            found[reserve_name(one.family)] = one.reserve
    return found


def reserve_name(family: str) -> str:
    """What a family's reserve goes by among the entrants."""
    return f"{family}, second"


def finalists_in(verdict: Mapping[str, Any]) -> list[Finalist]:
    """Who took part."""
    found = []
    for row in verdict["families"]:
        one, kept = _finalist(row, row), row.get("other")
        other = None if kept is None else _finalist(row, kept)
        first, reserve = (other, one) if other and row["second"] else (one, other)
        found.append(replace(first, reserve=reserve))
    return found


def _finalist(row: Mapping[str, Any], own: Mapping[str, Any]) -> Finalist:
    schedule = Schedule.from_dict(own["schedule"])
    family, role = row["family"], row["role"]
    return Finalist(family, schedule, own["trial"], own["searched"], role, own["params"])


def plan_in(verdict: Mapping[str, Any]) -> Plan:
    """How it was reached."""
    kept = dict(verdict["plan"])
    target = kept.pop("target")
    return Plan(**kept, target=None if target is None else (target[0], target[1]))
