"""The one exception that means: the input is wrong, and here is the way out; others of ours."""

from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from types import UnionType
from typing import Any


class InputError(ValueError):
    """A mistake in what the user gave: one line that names it, its value and the way out."""


class MissingPackage(InputError, ImportError):
    """An optional package is not installed or is broken; ``except ImportError`` catches it too."""


class Stopped(Exception):
    """A session cannot go on, and neither its input nor a bug is why: one line that says so."""


class Superseded(Stopped):
    """A later session of the same run has taken over, on another machine say; this one stops."""


class ScheduleWarning(UserWarning):
    """A training loop steps a scheduler otherwise than it was made for; said once, never fatal."""


def as_utf8(message: str) -> str:
    r"""What an exception said, as files can hold it: in names of files there may be halves.

    >>> as_utf8("a\udcff")
    'a\\udcff'
    """
    return message.encode("utf-8", "backslashreplace").decode()


def expect(name: str, value: object, kind: type | UnionType, what: str) -> None:
    """Refuse an argument of another kind; True is no number.

    Raises:
        InputError: it is not ``what``.
    """
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{name} must be {what} (got {one_line(value)})")


def one_line(value: object) -> str:
    """A value for an error message: one line, even of a tensor."""
    return " ".join(repr(value).split())[:200]


def described(error: BaseException) -> str:
    """The type of an error and what it says, on one line.

    >>> described(KeyError("age"))
    "KeyError: 'age'"
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def package(*names: str, install: str) -> Any:
    """The first module of these, of an optional package, that is installed.

    Not by an import statement, for which mypy would read all of the package.

    Raises:
        MissingPackage: none is installed, or one cannot be imported.
    """
    for name in names:
        try:
            return import_module(name)
        except Exception as error:  # whatever a broken installation raises
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            if missing is not None and f"{name}.".startswith(f"{missing}."):
                continue
            raise MissingPackage(
                f"{name} is installed but cannot be imported ({described(error)}): "
                f"pip install --force-reinstall {install}"
            ) from error
    raise MissingPackage(f"{names[0].partition('.')[0]} is not installed: pip install {install}")


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of an error message: which of the names was probably meant, or nothing.

    >>> nearest("cosin", ["cosine", "linear"])
    "; did you mean 'cosine'?"
    """
    matches = get_close_matches(name, list(names), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""
