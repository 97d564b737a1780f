"""Finding: what is wrong, and the words that all findings share."""

from dataclasses import dataclass

PROCESSES = range(2, 65)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong: a stable name, what is seen, what usually causes it, what to do."""

    name: str
    seen: str
    cause: str
    cure: str


def times_of(ratio: float) -> int | None:
    """The whole number that a ratio is, if it is one."""
    near = round(ratio)
    return near if near in PROCESSES and abs(ratio / near - 1) < 0.03 else None


def share(part: float, whole: float) -> str:
    """A part in percent."""
    return f"{part / whole:.0%}" if part / whole >= 0.005 else f"{part / whole:.1%}"
