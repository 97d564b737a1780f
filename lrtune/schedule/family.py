"""Knob and Family: what a row of the table of families is made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lrtune.errors import InputError
from lrtune.schedule.checks import integer, number, unknown
from lrtune.schedule.reactive import Machine

Array: TypeAlias = NDArray[np.float64]
Knobs: TypeAlias = Mapping[str, Any]
Params: TypeAlias = dict[str, Any]  # JSON-able, named as torch's arguments
Scale: TypeAlias = Literal["linear", "log", "int", "choice", "schedules", "function"]

# Keeps gamma ** length far from underflow; nobody has been seen to use ten.
MAX_LENGTH = 64


def count(fraction: float, n: int) -> int:
    """A fraction of the n updates of a body as a count of at least one."""
    return max(1, round(fraction * n))


@dataclass(frozen=True, slots=True)
class Knob:
    """One setting of a family.

    Attributes:
        name: as torch names it, where torch has it.
        low: lower end of the search range.
        high: upper end of the search range.
        scale: how the search draws it; `schedules` and `function` cannot be searched.
        default: the value where the user gives none; None: the user must give one.
        valid: closed interval of admissible values, wider than the search range.
        choices: the admissible words, for scale `choice`.
        length: more than 1: a tuple of numbers, of this length in the search, any in use.
        ordered: the numbers of the tuple increase strictly.
        doc: one line, with the unit.
    """

    name: str
    low: float
    high: float
    scale: Scale
    default: Any
    valid: tuple[float, float]
    choices: tuple[str, ...] = ()
    length: int = 1
    ordered: bool = False
    doc: str = ""

    def check(self, family: str, value: object) -> Any:
        """`value` as it is stored (int, float, str, tuple); InputError if not admissible."""
        where = f"{family}: {self.name}"
        if self.length == 1:
            return CHECKS[self.scale](self, where, value)
        if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_LENGTH:
            self.refuse(where, value, f"a list of 1 to {MAX_LENGTH} numbers")
        items = tuple(
            CHECKS[self.scale](self, f"{where}[{i}]", item) for i, item in enumerate(value)
        )
        if self.ordered and any(a >= b for a, b in pairwise(items)):
            self.refuse(where, value, "strictly increasing numbers")
        return items

    def refuse(self, where: str, value: object, expected: str) -> NoReturn:
        """Raise the InputError that says what was expected of this knob."""
        raise InputError(f"{where}={value!r}: expected {expected} ({self.doc})")


def _number(knob: Knob, where: str, value: object) -> float:
    low, high = knob.valid
    return number(where, value, low, high, f"a number in [{low:g}, {high:g}] ({knob.doc})")


def _integer(knob: Knob, where: str, value: object) -> int:
    low, high = knob.valid
    return integer(where, value, low, high, f"a whole number in [{low:g}, {high:g}] ({knob.doc})")


def _choice(knob: Knob, where: str, value: object) -> str:
    if not isinstance(value, str) or value not in knob.choices:
        raise unknown(f"{where}:", value, knob.choices)
    return value


def _function(knob: Knob, where: str, value: object) -> str:
    # Only the form: a schedule that is loaded from a file must not run anybody's code.
    module, _, name = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not (name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        knob.refuse(where, value, "'module:function'")
    return f"{module}:{name}"


def _schedules(knob: Knob, where: str, value: object) -> tuple[Any, ...]:
    from lrtune.schedule.schedule import Schedule  # a sequence is made of what it is a row of

    if not isinstance(value, list | tuple) or not value:
        knob.refuse(where, value, "a list of schedules")
    return tuple(item if isinstance(item, Schedule) else Schedule.from_dict(item) for item in value)


CHECKS: dict[Scale, Callable[[Knob, str, object], Any]] = {
    "linear": _number,
    "log": _number,
    "int": _integer,
    "choice": _choice,
    "function": _function,
    "schedules": _schedules,
}


def _accept(knobs: Knobs, peak: float) -> None:
    """The check across knobs of a family that has none."""


def _always(params: Params) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Family:
    """A row of the table: a shape, its knobs and how torch calls them.

    Attributes:
        name: the key in `FAMILIES`.
        doc: one line.
        knobs: the settings, in the order they are shown.
        resolve: (knobs, n, peak) -> the parameters for a body of n updates, in torch's terms.
        body: (s, n, peak, **params) -> float64[n], the rates at s = 0 … n-1; None: closed loop.
        machine: the rule of a closed loop; None: open loop.
        torch: the class of torch.optim.lr_scheduler that has this family, else `LambdaLR`
            (`LRScheduler` for a closed loop).
        native: whether that class can take these parameters (else `LambdaLR`).
        source: the paper, or torch.
        takes_warmup: whether a warmup may come before the body.
        optional: knobs that are there if given, all of them or none.
        momentum: (s, **params) -> float64[n], what momentum is at s = 0 … n-1 where the optional
            knobs are given; None: the family leaves it alone.
        check: (knobs, peak) -> None; InputError where the knobs contradict one another.
        extra: what a knob that is not in `knobs` must be; None: there are no others.
    """

    name: str
    doc: str
    knobs: tuple[Knob, ...]
    resolve: Callable[[Knobs, int, float], Params]
    body: Callable[..., Array] | None
    torch: str
    source: str
    machine: Machine | None = None
    native: Callable[[Params], bool] = _always
    takes_warmup: bool = True
    optional: tuple[Knob, ...] = ()
    momentum: Callable[..., Array] | None = None
    check: Callable[[Knobs, float], None] = _accept
    extra: Knob | None = None

    @property
    def closed_loop(self) -> bool:
        """Whether the next rate depends on the validation metric."""
        return self.machine is not None

    @property
    def searchable(self) -> bool:
        """Whether every knob has a range to search."""
        return all(knob.scale not in ("schedules", "function") for knob in self.knobs)

    def normalise(self, given: Mapping[str, object], peak: float) -> dict[str, Any]:
        """All knobs, checked, with the defaults of those not given, in the order of the row."""
        known = {knob.name: knob for knob in (*self.knobs, *self.optional)}
        for name in given:
            if name not in known and self.extra is None:
                raise unknown(f"{self.name}: knob", name, known)
        missing = [k for k in self.knobs if k.default is None and k.name not in given]
        if missing:
            raise InputError(f"{self.name}: {missing[0].name} is missing: give {missing[0].doc}")
        values = {k.name: k.check(self.name, given.get(k.name, k.default)) for k in self.knobs}
        if together := [k.name for k in self.optional if k.name in given]:
            if len(together) < len(self.optional):
                pair = " and ".join(k.name for k in self.optional)
                raise InputError(f"{self.name}: {together[0]} alone: give {pair}, or neither")
            values |= {k.name: k.check(self.name, given[k.name]) for k in self.optional}
        values |= {
            name: replace(self.extra, name=name).check(self.name, value)
            for name, value in sorted(given.items())
            if self.extra is not None and name not in known
        }
        self.check(values, peak)
        return values
