"""Optuna's journal file: what a killed process or a full disk leaves behind is mended."""

import json
import os
import time
from pathlib import Path

from lrtune.errors import InputError

STALE_SECONDS = 2.0  # Optuna holds its lock for milliseconds


def mend(path: Path, stale_seconds: float = STALE_SECONDS) -> str | None:
    """Make a journal readable again; call it only while no search writes to it.

    Removes the lock of a process that was killed while it held it. Cuts off the journal from the
    first line that is not whole, which a full disk leaves; what was there is kept beside it.

    Args:
        path: of the journal.
        stale_seconds: how old a lock must be to be nobody's.

    Returns:
        What was cut, for the user to know; None where nothing was.
    """
    lock = path.with_name(f"{path.name}.lock")
    if lock.is_symlink() and time.time() - lock.lstat().st_mtime > stale_seconds:
        lock.unlink()
    if not path.exists():
        return None
    content = path.read_bytes()
    whole = _whole(content)
    if whole == len(content):
        return None
    if whole == 0:
        raise InputError(f"{path}: not an Optuna journal: restore it, or remove the run's folder")
    damaged = path.with_name(f"{path.name}.damaged-{time.time_ns()}")  # none before it is lost
    damaged.write_bytes(content)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content[:whole])
    os.replace(part, path)
    lost = len(content) - whole
    return f"{path}: cut {lost:,} bytes off its damaged end; all of it is in {damaged.name}"


def _whole(content: bytes) -> int:
    """How many bytes from the start are lines that Optuna can read."""
    end = 0
    for line in content.splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not line.endswith(b"\n") or not isinstance(entry, dict) or "op_code" not in entry:
            break
        end += len(line)
    return end
