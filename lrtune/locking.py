"""A run's folder belongs to one lrtune at a time."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lrtune.errors import InputError

LEAST_FREE = 64 << 20  # bytes


@contextmanager
def locked(folder: Path) -> Iterator[None]:
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
        yield
    finally:
        lock.release()
