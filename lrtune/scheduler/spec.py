"""SchedulerSpec: what a scheduler was asked for, and whether a saved state belongs to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from lrtune.errors import InputError
from lrtune.schedule.family import unknown
from lrtune.schedule.reactive import Mode
from lrtune.schedule.schedule import Schedule

OnChangedTotal: TypeAlias = Literal["raise", "retarget"]
Unit: TypeAlias = Literal["update", "epoch"]


@dataclass(frozen=True, slots=True)
class SchedulerSpec:
    """What a scheduler was asked for."""

    schedule: Schedule
    total: int
    mode: Mode
    unit: Unit
    on_changed_total: OnChangedTotal

    def __post_init__(self) -> None:
        for name, words in (("unit", Unit), ("on_changed_total", OnChangedTotal)):
            if getattr(self, name) not in get_args(words):
                raise unknown(name, getattr(self, name), get_args(words))

    def state(self, update: int) -> dict[str, Any]:
        """What a checkpoint holds: plain values, for `torch.load(weights_only=True)`."""
        asked = {"total": self.total, "mode": self.mode, "unit": self.unit}
        return {"schedule": self.schedule.to_dict(), **asked, "update": update}

    def resume(self, state: Mapping[str, Any]) -> int:
        """The update that a saved state has come to; InputError if it is not this spec's."""
        missing = [name for name in self.state(0) if name not in state]
        if missing:
            raise InputError(f"state_dict: {missing[0]!r} is missing: not saved by this scheduler")
        total, update = state["total"], state["update"]
        saved = {**state, "schedule": Schedule.from_dict(state["schedule"])}
        for name in ("schedule", "mode", "unit"):
            there, here = saved[name], getattr(self, name)
            if there != here:
                raise InputError(
                    f"state_dict: saved with {name}={there!r}; this scheduler has {name}={here!r}: "
                    "make it with the one that was saved"
                )
        if total != self.total and self.on_changed_total == "raise":
            raise InputError(
                f"state_dict: saved with total={total}; this scheduler has total={self.total}: "
                f"make it with total={total}, or with on_changed_total='retarget' to go on at "
                f"update {update} of the rates for {self.total}"
            )
        if update > self.total:
            raise InputError(
                f"state_dict: saved at update {update}; this scheduler has total={self.total}: "
                "make it with a larger total"
            )
        return int(update)
