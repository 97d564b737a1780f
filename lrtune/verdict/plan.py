"""Plan and finalists: how a verdict is to be reached, and between whom; as a verdict keeps them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lrtune.errors import InputError
from lrtune.schedule import Schedule
from lrtune.verdict.sequential import Role


@dataclass(frozen=True, slots=True)
class Plan:
    """How a verdict is reached.

    Attributes:
        trainings: of all schedules together, at most; where None, what the budget leaves.
        margin: a difference that does not matter, in the objective's unit; where None, a tenth of
            the standard deviation between seeds.
        target: a metric's name and the value to be reached as soon as possible; where None, what
            constant reaches in the end on every seed.
        width: trainings of a round at least: as many as run side by side.
    """

    trainings: int | None = None
    margin: float | None = None
    target: tuple[str, float] | None = None
    width: int = 1

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.margin is not None and not 0 <= self.margin < math.inf:
            raise InputError(f"margin={self.margin!r}: 0 or more, in the metric's unit")
        if self.target is not None and not (self.target[0] and math.isfinite(self.target[1])):
            raise InputError(f"target={self.target!r}: a metric's name and a number")


@dataclass(frozen=True, slots=True)
class Finalist:
    """A family's best configuration, as the search found it.

    Attributes:
        family: its name; of the user's own schedules "yours", "yours 2" and so on.
        schedule: what is trained.
        trial: which of the search's it was; None where it was not tried there.
        value: its validation score there; None where it was not trained to its end.
        role: leader (may be the best), baseline or yours: why it is here.
        params: the parameters that the search drew for it, without the family's prefix.
    """

    family: str
    schedule: Schedule
    trial: int | None
    value: float | None
    role: Role
    params: Mapping[str, Any] = field(default_factory=dict)


def finalists_in(verdict: Mapping[str, Any]) -> list[Finalist]:
    """Who took part, in the order in which they were compared."""
    return [
        Finalist(
            row["family"],
            Schedule.from_dict(row["schedule"]),
            row["trial"],
            row["searched"],
            row["role"],
            row["params"],
        )
        for row in sorted(verdict["families"], key=lambda row: int(row["order"]))
    ]


def plan_in(verdict: Mapping[str, Any]) -> Plan:
    """How it was reached."""
    kept = dict(verdict["plan"])
    target = kept.pop("target")
    return Plan(**kept, target=None if target is None else (target[0], target[1]))


def decided(verdict: Mapping[str, Any]) -> bool:
    """Whether it names a winner, or several that cannot be told apart."""
    return verdict["answer"]["place"] in ("winner", "tie")


def recommended_row(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """Of the families, the one to use."""
    name = verdict["answer"]["recommended"]
    return next(dict(row) for row in verdict["families"] if row["family"] == name)
