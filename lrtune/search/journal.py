"""Journal: the file that keeps a study on one machine, written in batches; how it is mended."""

import json
import os
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from lrtune.errors import InputError

STALE_SECONDS = 2.0  # Optuna holds its lock for milliseconds

_BATCH = ContextVar[set["Journal"] | None]("batch", default=None)


@contextmanager
def together() -> Iterator[None]:
    """What is said inside of trials under way, a journal writes at the end, all at once."""
    batch = set[Journal]()
    token = _BATCH.set(batch)
    try:
        yield
    finally:
        _BATCH.reset(token)
        for journal in batch:
            journal.write()


class Journal(JournalFileBackend):
    """Optuna's journal file, with one lock and one fsync for all that is said ``together``.

    Reports, attributes and ends of trials may wait: nobody else writes of a trial that is under way
    here, so that it does not matter what others write meanwhile. What decides who has a trial, and
    its number, is written at once, after all that was said before.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._waiting: list[dict[str, Any]] = []  # not yet written
        self._read = 0  # of these
        self._early: deque[str] = deque()  # who wrote what was read before it was in the file

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """See BaseJournalBackend."""
        self._waiting += json.loads(json.dumps(logs))  # as the file will give them back
        batch = _BATCH.get()
        if batch is not None and all(map(_may_wait, logs)):
            batch.add(self)
        else:
            self.write()

    def write(self) -> None:
        """Write what waits.

        Raises:
            InputError: the file ends within a line, which more would damage for good.
        """
        if self._waiting:
            until = time.monotonic() + STALE_SECONDS  # another process may be writing
            while not _ends_with_a_line(self._file_path):
                if time.monotonic() < until:
                    time.sleep(0.01)
                    continue
                raise InputError(
                    f"{self._file_path}: ends within a line: the next lrtune search mends it"
                )
            super().append_logs(self._waiting)
            self._waiting, self._read = [], 0

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """See BaseJournalBackend."""
        for log in super().read_logs(log_number_from - len(self._early)):
            if self._early and self._early[0] == log["worker_id"]:
                self._early.popleft()
            else:
                yield log
        for log in self._waiting[self._read :]:
            self._read += 1
            self._early.append(log["worker_id"])
            yield log


def _may_wait(log: Mapping[str, Any]) -> bool:
    running = log.get("state") == TrialState.RUNNING
    return "trial_id" in log and "param_name" not in log and not running


def mend(path: Path, stale_seconds: float = STALE_SECONDS) -> str | None:
    """Make a journal ready to be written, and say what was cut; only while no search writes to it.

    Removes the lock of a process that was killed while it held it. Cuts out what a full disk or a
    loss of power has torn, which nobody was told is kept; a copy of the file stays.

    Raises:
        InputError: not a journal, or a line in its midst is damaged, which is left as it is.
    """
    unlock(path, stale_seconds)
    if not path.exists():
        return None
    content, whole = path.read_bytes(), whole_lines(path)
    if whole == content:
        return None
    damaged = path.with_name(f"{path.name}.damaged-{time.time_ns()}")  # none before it is lost
    damaged.write_bytes(content)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(whole)
    os.replace(part, path)
    lost = len(content) - len(whole)
    return f"{path}: cut out {lost:,} bytes of torn lines; all of it is in {damaged.name}"


def unlock(path: Path, stale_seconds: float = STALE_SECONDS) -> None:
    """Remove the lock of a process that was killed while it held it, once that is sure.

    Optuna itself would wait half a minute for it.
    """
    lock, made = path.with_name(f"{path.name}.lock"), None
    until = time.monotonic() + stale_seconds
    with suppress(FileNotFoundError):
        while made in (None, made := lock.lstat().st_mtime):  # else somebody is at work
            if time.time() - made > stale_seconds or time.monotonic() > until:
                lock.unlink()
            time.sleep(0.02)


def whole_lines(path: Path) -> bytes:
    """The lines of a journal that Optuna can read, without a torn one at the end or before another.

    Raises:
        InputError: there are none, or a line in the midst is damaged in another way.
    """
    whole, damaged = list[bytes](), 0
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        line = line[max(0, line.rfind(b'{"op_code"')) :]  # what is written after a torn line
        if not _is_whole(line):
            damaged = damaged or number
        elif damaged:
            raise InputError(
                f"{path}: line {damaged} is damaged, and nothing was changed: bring the file back "
                "from a copy; what was written of the results before is in trials.parquet, "
                "best.json and report.html"
            )
        else:
            whole.append(line)
    if damaged and not whole:
        raise InputError(f"{path}: not an Optuna journal: restore it, or remove the run's folder")
    return b"".join(whole)


def _is_whole(line: bytes) -> bool:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return line.endswith(b"\n") and isinstance(entry, dict) and "op_code" in entry


def _ends_with_a_line(path: str) -> bool:
    with open(path, "rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
