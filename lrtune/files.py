"""Files written whole or not at all, and what JSON can hold."""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

_CHECK = ContextVar[Callable[[], None]]("check", default=lambda: None)


@contextmanager
def guarded(check: Callable[[], None]) -> Iterator[None]:
    """Inside of this, ``check`` is called before a file is changed, and may raise to prevent it."""
    token = _CHECK.set(check)
    try:
        yield
    finally:
        _CHECK.reset(token)


def check() -> None:
    """Raise if files are not ours to change any more, see ``guarded``."""
    _CHECK.get()()


def replace(path: Path, content: bytes) -> None:
    """Write a file in one step: a reader meets the old one or the new one, never half.

    So does who comes after a loss of power: on some file systems a name may be on the disk before
    what it names.
    """
    part = beside(path)
    try:  # open() heeds the umask
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        check()
        os.replace(part, path)
        to_disk(path.parent)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:  # a full disk, say
            error.filename, error.filename2 = str(path), None
        raise


def shown(path: Path) -> str:
    """As it is named from the working folder, where it is below that."""
    with suppress(OSError):  # the task's code may have removed it
        path = path.relative_to(here) if path.is_relative_to(here := Path.cwd()) else path
    return str(path)


def to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk itself."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def beside(path: Path) -> Path:
    """A name of its own beside a path, for another process may be at the same."""
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}")


def remove_left(folder: Path, seconds: float = 60.0) -> None:
    """Remove what a kill left of files that were being written, so many seconds ago or more."""
    for part in folder.glob(f".*.{'[0-9a-f]' * 16}"):
        with suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > seconds:
                part.unlink()


def plain(value: Any) -> Any:
    """As JSON can hold it: what is not finite is null, which not every reader lets pass."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return plain(value.item()) if isinstance(value, np.generic) else value
