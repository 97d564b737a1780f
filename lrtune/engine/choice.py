"""Choice: a pool as it was chosen or asked for, and why."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

from lrtune.engine.fused import FusedPool
from lrtune.engine.pool import Pool
from lrtune.engine.rows import Unfit
from lrtune.engine.serial import SerialPool
from lrtune.errors import InputError, nearest
from lrtune.tasks import Task

Engine = Literal["serial", "fused"]
ENGINES = ("auto", "serial", "fused")


@dataclass(frozen=True, slots=True)
class Choice:
    """A pool, and why it is this one.

    Attributes:
        name: serial or fused.
        slots: K, over all devices.
        compiled: whether through ``torch.compile``.
        threads: of the CPU; None on other devices.
        devices: what each of them is, see ``hardware``; empty where nobody has said.
        why: one sentence.
        figures: seconds an update of one trial, of all that was timed.
    """

    name: Engine
    slots: int
    compiled: bool = False
    threads: int | None = None
    devices: tuple[str, ...] = ()
    why: str = ""
    figures: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.label}: {self.why}"

    @property
    def label(self) -> str:
        """Without the reasons."""
        parts: list[str] = [self.name]
        if self.name == "fused":
            parts.append(f"{self.slots} at once")
        if self.compiled:
            parts.append("compiled")
        if self.threads is not None:
            parts.append(f"{self.threads} thread{'s'[: self.threads > 1]}")
        return " ".join(parts)

    @property
    def seconds(self) -> float:
        """Of an update of one trial, as it was timed; infinite where nothing was."""
        own = self.figures.get(self.label)
        known = [figure for figure in self.figures.values() if figure and math.isfinite(figure)]
        return own or min(known, default=math.inf) / max(1, len(self.devices))

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> "Choice":
        """As ``to_json`` gave it.

        Raises:
            TypeError: a field is missing, unknown or of another type.
            ValueError: no such pool.
        """
        choice = cls(**kept | {"devices": tuple(kept.get("devices", ()))})
        if choice.name not in ENGINES[1:] or type(choice.slots) is not int or choice.slots < 1:
            raise ValueError(f"{choice.name!r} of {choice.slots!r} slots is none")
        if type(choice.compiled) is not bool or type(choice.threads) not in (int, type(None)):
            raise TypeError(f"compiled={choice.compiled!r}, threads={choice.threads!r}")
        return choice

    def grants(self, engine: str, slots: int | None, devices: tuple[str, ...]) -> bool:
        """Whether this is what is wished for: an engine or auto, slots or None, such devices."""
        wished = engine in ("auto", self.name) and slots in (None, self.slots)
        return wished and devices == self.devices

    def to_json(self) -> dict[str, Any]:
        """For run.json; what could not run has no figure."""
        figures = {name: v if v == v else None for name, v in self.figures.items()}
        return {**asdict(self), "figures": figures}


def make_pool(
    task: Task, choice: Choice, device: str, tell: Callable[[str], None] = lambda line: None
) -> Pool:
    """The pool that was chosen."""
    if choice.name == "serial":
        return SerialPool(task, choice.slots, device, compiled=choice.compiled)
    try:
        return FusedPool(task, choice.slots, device, compiled=choice.compiled, tell=tell)
    except Unfit as why:
        raise InputError(f"{task.name}: --engine fused: {why}: use --engine serial") from why


def hardware(device: str) -> str:
    """What a device is: more than its name, which is the same one in another machine."""
    return "cpu" if torch.device(device).type == "cpu" else torch.cuda.get_device_name(device)


def check_wishes(engine: str, slots: int | None) -> None:
    """Refuse what no task can be served with.

    Raises:
        InputError: an unknown engine, slots below 1.
    """
    if engine not in ENGINES:
        raise InputError(
            f"engine {engine!r}: one of {', '.join(ENGINES)}{nearest(engine, ENGINES)}"
        )
    if slots is not None and slots < 1:
        raise InputError(f"slots={slots}: at least 1")
