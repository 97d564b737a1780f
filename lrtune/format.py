"""Numbers, amounts, durations and tables as text: the same wherever a person reads them."""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lrtune.errors import InputError

NARROW = "\N{NARROW NO-BREAK SPACE}"
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
LONGEST = 2000  # characters of a text that are shown: names come from anyone's files


def limited(text: str, most: int = LONGEST) -> str:
    """A text, the beginning of a very long one.

    Example:
        >>> limited("abcdef", 3)
        'abc… (6 characters)'
    """
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def plural(amount: int, one: str, many: str) -> str:
    """An amount and its noun.

    Example:
        >>> plural(1, "family", "families")
        '1 family'
    """
    return f"{count(amount)} {one if amount == 1 else many}"


def listed(names: Sequence[str]) -> str:
    """Names with commas and an "and".

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def words(name: str) -> str:
    """A metric's name as a person writes it.

    Example:
        >>> words("cross_entropy")
        'cross-entropy'
    """
    return name.replace("cross_entropy", "cross-entropy").replace("_", " ")


def number(value: object, digits: int = 4) -> str:
    """A number at that many significant digits; a dash for none."""
    if value is None or isinstance(value, (str, bool, list, dict)):
        return "–" if value is None else str(value)
    amount = float(value)  # type: ignore[arg-type]
    if not np.isfinite(amount):
        return "–"
    return f"{amount:,.0f}" if abs(amount) >= 10**digits - 0.5 else f"{amount:.{digits}g}"


def setting(value: object, digits: int = 4) -> object:
    """A setting as text: lists and nested settings flat, numbers short."""
    if isinstance(value, list):
        return ", ".join(str(setting(item)) for item in value)
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):
        return number(value, digits)
    return "–" if value is None else value


def count(value: float) -> str:
    """A whole number with its thousands apart.

    Example:
        >>> count(12345)
        '12,345'
    """
    return f"{round(value):,}"


def aligned(value: float, digits: int = 4) -> str:
    """A number with all its significant digits, trailing zeros too.

    Example:
        >>> aligned(0.33)
        '0.3300'
    """
    plain = not np.isfinite(value) or abs(value) >= 10 ** (digits - 1) - 0.05
    return number(value, digits) if plain else f"{value:#.{digits}g}"


def measured(value: float, metric: Any, digits: int = 4) -> str:
    """A value with its unit."""
    shown = aligned(value, digits)
    return f"{shown}{NARROW}{metric.unit}" if metric.unit and np.isfinite(value) else shown


def duration(seconds: float) -> str:
    """Seconds in the two units that a person would say.

    Example:
        >>> duration(4000).split()
        ['1', 'h', '7', 'min']
    """
    if not np.isfinite(seconds) or seconds < 60:
        return f"{number(seconds, 2)}{NARROW}s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes}{NARROW}min"
    return f"{minutes // 60:,}{NARROW}h {minutes % 60}{NARROW}min"


def parse_time(text: str) -> float:
    """Seconds from ``90s``, ``10m`` or ``1h30m``.

    >>> parse_time("1h30m")
    5400.0
    """
    packed = text.replace(" ", "")
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", packed)
    if not parts or "".join(n + u for n, u in parts) != packed:
        raise InputError(
            f"time must be a number and a unit, such as 90s, 10m or 1h30m (got {text!r})"
        )
    return sum(float(number) * SECONDS[unit] for number, unit in parts)


# Where a storage's URL may have secrets; also what is no URL to SQLAlchemy, whose errors are told:
# so up to the last @, not the first.
SECRETS = (
    (r"(?s)(:/{1,2}[^:/@]*):.*@", r"\1@"),  # user:password@host
    (r"(?<!journal)(://[^:/@[]*):(?!\d*(?:[/?]|$))[^/?]*", r"\1"),  # the same without its host
    (
        r"(?i)([?&])(?!passfile)[^?&=]*"
        r"(?:pass|pwd|secret|token|odbc_connect|(?:api|access|account)_?key)[^?&=]*=[^&]*",
        r"\1",
    ),
    (r"(?<=\?)&+|&+(?=&|$)|\?&*$", ""),  # what is left where they were
)


def without_secrets(url: str) -> str:
    """A storage's URL, or a word that holds one, without its passwords; other text as it is.

    Example:
        >>> without_secrets("--storage=mysql://me:secret@host/db?sslpassword=secret")
        '--storage=mysql://me@host/db'
    """
    if ":/" in url:
        for pattern, rest in SECRETS:
            url = re.sub(pattern, rest, url)
    return url


def command_without_secrets(command: str) -> str:
    """A command without the passwords in its words."""
    try:
        words = shlex.split(command)
    except ValueError:  # from Python anything may be given
        return without_secrets(command)
    shown = [without_secrets(word) for word in words]
    return command if shown == words else shlex.join(shown)


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table."""

    shown: object  # its text
    key: object = None  # what it is sorted by, where that is not the text
    below: str = ""  # smaller, under the text: what it rests on
    family: str = ""  # whose colour stands before the text
    style: str = ""  # ``strong`` or ``code``

    @property
    def sorts(self) -> bool:
        """Whether it has a key; NaN is none."""
        return self.key is not None and self.key == self.key

    @property
    def text(self) -> str:
        """All that it says, on one line."""
        return f"{self.shown} ({self.below})" if self.below else str(self.shown)


@dataclass(frozen=True, slots=True)
class Table:
    """A table; columns from `numeric` on are right-aligned, the last ones matter least."""

    heads: Sequence[str]
    rows: Sequence[Sequence[object]]  # of Cells, or of what they show
    style: str = ""  # a class of the style sheet
    numeric: int = 1

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows."""
        return [[c if isinstance(c, Cell) else Cell(c) for c in row] for row in self.rows]
