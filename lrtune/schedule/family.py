"""Knob and Family: what a row of the table of families is made of, and how values are checked."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lrtune.errors import InputError, nearest
from lrtune.schedule.reactive import Machine

Array: TypeAlias = NDArray[np.float64]
Knobs: TypeAlias = Mapping[str, Any]
Params: TypeAlias = dict[str, Any]  # JSON-able, named as torch's arguments
Scale: TypeAlias = Literal["linear", "log", "int", "choice", "schedules", "function"]

WHOLE = (int, np.integer)
REAL = (float, np.floating, *WHOLE)
# Keeps gamma ** length far from underflow; nobody has been seen to use ten.
MAX_LENGTH = 64


def unknown(what: str, name: object, known: Iterable[str]) -> InputError:
    """The error for a name that is not in `known`, with the nearest one that is."""
    known = list(known)
    near = nearest(str(name), known).removeprefix("; ")
    hint = near or f"one of {', '.join(known) or '(none)'}"
    return InputError(f"{what} {name!r} is unknown: {hint}")


def number(where: str, value: object, low: float, high: float, expected: str) -> float:
    """`value` as a float in [low, high]; InputError for anything else, NaN and bool included."""
    if isinstance(value, bool) or not isinstance(value, REAL) or not low <= value <= high:
        raise InputError(f"{where}={value!r}: expected {expected}")
    return float(value)


def integer(where: str, value: object, low: float, high: float, expected: str) -> int:
    """`value` as an int in [low, high]; InputError for anything else, bool and 3.0 included."""
    if not isinstance(value, WHOLE):
        raise InputError(f"{where}={value!r}: expected {expected}")
    return int(number(where, value, low, high, expected))


def count(fraction: float, n: int) -> int:
    """A fraction of the n updates of a body as a count of at least one."""
    return max(1, round(fraction * n))


@dataclass(frozen=True, slots=True)
class Knob:
    """One setting of a family."""

    name: str  # as torch names it, where torch has it
    low: float  # lower end of the search range
    high: float  # upper end of it
    scale: Scale  # how the search draws it; `schedules` and `function` cannot be searched
    default: Any  # where the user gives none; None: the user must give one
    valid: tuple[float, float]  # closed interval of what is admissible, wider than the search range
    choices: tuple[str, ...] = ()  # the admissible words, for scale `choice`
    length: int = 1  # more than 1: a tuple of numbers, of this length in the search, any in use
    ordered: bool = False  # the numbers of the tuple increase strictly
    only: tuple[str, str] = ("", "")  # name, word: only where the choice of that name is that word
    doc: str = ""  # one line, with the unit

    def counts(self, values: Knobs) -> bool:
        """Whether there is this knob beside these values of the others."""
        name, word = self.only
        return bool(values.get(name, "") == word)

    def check(self, family: str, value: object) -> Any:
        """`value` as it is stored (int, float, str, tuple); InputError if not admissible."""
        where = f"{family}: {self.name}"
        if self.length == 1:
            return self._check_item(where, value)
        if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_LENGTH:
            self._refuse(where, value, f"a list of 1 to {MAX_LENGTH} numbers")
        items = tuple(self._check_item(f"{where}[{i}]", item) for i, item in enumerate(value))
        if self.ordered and any(a >= b for a, b in pairwise(items)):
            self._refuse(where, value, "strictly increasing numbers")
        return items

    def _check_item(self, where: str, value: object) -> Any:
        low, high = self.valid
        if self.scale == "int":
            expected = f"a whole number in [{low:g}, {high:g}] ({self.doc})"
            return integer(where, value, low, high, expected)
        if self.scale == "choice":
            if not isinstance(value, str) or value not in self.choices:
                raise unknown(f"{where}:", value, self.choices)
            return value
        if self.scale == "function":
            # Only the form: a schedule that is loaded from a file must not run anybody's code.
            module, _, name = value.partition(":") if isinstance(value, str) else ("", "", "")
            if not all(part.isidentifier() for part in (name, *module.split("."))):
                self._refuse(where, value, "'module:function'")
            return value
        if self.scale == "schedules":
            from lrtune.schedule.schedule import Schedule  # a sequence is made of what it is

            if not isinstance(value, list | tuple) or not value:
                self._refuse(where, value, "a list of schedules")
            return tuple(s if isinstance(s, Schedule) else Schedule.from_dict(s) for s in value)
        return number(where, value, low, high, f"a number in [{low:g}, {high:g}] ({self.doc})")

    def _refuse(self, where: str, value: object, expected: str) -> NoReturn:
        raise InputError(f"{where}={value!r}: expected {expected} ({self.doc})")


@dataclass(frozen=True, slots=True)
class Family:
    """A row of the table: a shape, its knobs and how torch calls them."""

    name: str  # the key in `FAMILIES`
    doc: str  # one line
    knobs: tuple[Knob, ...]  # the settings, in the order they are shown
    # (knobs, n, peak) -> the parameters for a body of n updates, in torch's terms.
    resolve: Callable[[Knobs, int, float], Params]
    # (s, n, peak, **params) -> float64[n], the rates at s = 0 … n-1; None: closed loop.
    body: Callable[..., Array] | None = None
    machine: Machine | None = None  # the rule of a closed loop; None: open loop
    # The class of torch.optim.lr_scheduler that has this family (`LRScheduler`: a closed loop).
    torch: str = "LambdaLR"
    source: str = "torch"  # or the paper
    native: Callable[[Params], bool] = lambda params: True  # can that class take these parameters?
    takes_warmup: bool = True  # whether a warmup may come before the body
    optional: tuple[Knob, ...] = ()  # knobs that are there if given, all of them or none
    # (s, **params) -> float64[n], momentum where these are given; None: it is left alone.
    momentum: Callable[..., Array] | None = None
    # InputError where the knobs contradict one another.
    check: Callable[[Knobs, float], None] = lambda knobs, peak: None
    extra: Knob | None = None  # what a knob that is not in `knobs` must be; None: no others
    # Rates for the form of the optimizer that averages its weights; searched only where named.
    schedule_free: bool = False

    @property
    def closed_loop(self) -> bool:
        """Whether the next rate depends on the validation metric."""
        return self.machine is not None

    @property
    def searchable(self) -> bool:
        """Whether every knob has a range to search."""
        return all(knob.scale not in ("schedules", "function") for knob in self.knobs)

    def normalise(self, given: Mapping[str, object], peak: float) -> dict[str, Any]:
        """All that there are, checked, with the defaults of those not given, in the row's order."""
        optional = [knob.name for knob in self.optional]
        known = [*(knob.name for knob in self.knobs), *optional]
        extra = sorted(given.keys() - known)
        if extra and self.extra is None:
            raise unknown(f"{self.name}: knob", next(k for k in given if k in extra), known)
        missing = [k for k in self.knobs if k.default is None and k.name not in given]
        if missing:
            raise InputError(f"{self.name}: {missing[0].name} is missing: give {missing[0].doc}")
        alone = [name for name in optional if name in given]
        if 0 < len(alone) < len(optional):
            pair = " and ".join(optional)
            raise InputError(f"{self.name}: {alone[0]} alone: give {pair}, or neither")
        knobs = [*self.knobs, *(self.optional if alone else ())]
        knobs += [replace(self.extra, name=name) for name in extra if self.extra is not None]
        values: dict[str, Any] = {}
        for k in knobs:
            if k.counts(values):
                values[k.name] = k.check(self.name, given.get(k.name, k.default))
            elif k.name in given:
                where = f"only where {' is '.join(k.only)}"
                raise InputError(f"{self.name}: {k.name}={given[k.name]!r}: {where}; leave it out")
        self.check(values, peak)
        return values
