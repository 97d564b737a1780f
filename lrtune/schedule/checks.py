"""The checks that every value of the user passes: one line that says what was expected."""

from collections.abc import Iterable

import numpy as np

from lrtune.errors import InputError, nearest

WHOLE = (int, np.integer)
REAL = (float, np.floating, *WHOLE)


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
    if isinstance(value, bool) or not isinstance(value, WHOLE) or not low <= value <= high:
        raise InputError(f"{where}={value!r}: expected {expected}")
    return int(value)
