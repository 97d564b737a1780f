"""A run's folder belongs to one lrtune at a time, which mends its journal first."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from lrtune.errors import InputError
from lrtune.search.storage import mend

LEAST_FREE = 64 << 20  # bytes


@contextmanager
def locked(folder: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """The folder, made if need be and ours until the end; the lock goes with the process."""
    if str(folder) in ("", ".") or folder.resolve() == Path(folder.resolve().anchor):
        raise InputError(f"out={str(folder)!r}: name a folder for the run alone")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise InputError(f"{folder}: another lrtune is at work here; wait for it") from error
    except (OSError, ValueError) as error:
        why = "it is a file" if folder.is_file() else getattr(error, "strerror", error)
        raise InputError(f"out={str(folder)!r}: cannot be a run's folder: {why}") from error
    try:
        if shutil.disk_usage(folder).free < LEAST_FREE:
            raise InputError(f"{folder}: less than {LEAST_FREE >> 20} MiB free on its disk")
        _mend(folder, tell)
        yield
    finally:
        lock.release()


@contextmanager
def locked_if_free(folder: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """The run's folder as it is, and ours until the end where no other lrtune is at work.

    One that is has mended the journal; and where nothing can be written there is nothing to mend.
    """
    lock = FileLock(folder / "lock", timeout=0)
    with suppress(OSError):  # a Timeout is one too
        lock.acquire()
    try:
        if lock.is_locked:
            _mend(folder, tell)
        yield
    finally:
        lock.release()


def _mend(folder: Path, tell: Callable[[str], None]) -> None:
    if (warning := mend(folder / "journal.log")) is not None:
        tell(warning)
