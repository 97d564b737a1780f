"""Journal: the file that keeps a study on one machine, written in batches; how it is mended."""

import json
import os
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import TrialState

from lrtune.errors import InputError
from lrtune.search.batch import write_later
from lrtune.search.claim import HEAD, Claim

STALE_SECONDS = 2.0  # Optuna holds its lock for milliseconds


class Journal(JournalFileBackend):
    """Optuna's journal file, with one lock and one fsync for all that is said ``together``.

    Reports, attributes and ends of trials may wait: nobody else writes of a trial that is under way
    here, so that it does not matter what others write meanwhile. What decides who has a trial, and
    its number, is written at once, after all that was said before.

    Once it is claimed, nothing is written after a later session has taken over. That is looked up
    under the file's own lock. What is left: who stops within these milliseconds for longer than
    others heed the lock, and goes on, still writes them.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, lock_obj=_Held(path))
        self._file_lock, self._locked = JournalFileSymlinkLock(path), False
        self._claim: Claim | None = None
        self._study, self._head = -1, dict[str, Any]()  # whose attribute HEAD is to be this one
        self._latest, self._seen = dict[str, Any](), 0  # as the file has it, in so many bytes
        self._waiting: list[dict[str, Any]] = []  # not yet written
        self._read = 0  # of these
        self._early: deque[str] = deque()  # who wrote what was read before it was in the file

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """See BaseJournalBackend."""
        self._waiting += json.loads(json.dumps(logs))  # as the file will give them back
        if not (all(map(_may_wait, logs)) and write_later(self)):
            self.write()

    def write(self) -> None:
        """Write what waits.

        Raises:
            InputError: the file ends within a line, which more would damage for good.
            Superseded: a later session has taken over.
        """
        if self._waiting:
            if self._claim is not None:
                self._claim.check_process()  # before it has the file's lock
            until = time.monotonic() + STALE_SECONDS  # another process may be writing
            while not _ends_with_a_line(self._file_path):
                if time.monotonic() < until:
                    time.sleep(0.01)
                    continue
                raise InputError(
                    f"{self._file_path}: ends within a line: the next lrtune search mends it"
                )
            with self.alone():
                self.check()
                super().append_logs(self._waiting)
            self._waiting, self._read = [], 0

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else writes."""
        if self._locked:
            yield
            return
        self._file_lock.acquire()
        self._locked = True
        try:
            yield
        finally:
            self._locked = False
            self._file_lock.release()

    def claimed(self, claim: Claim, study_id: int, head: dict[str, Any]) -> None:
        """From now on, write only while the attribute of this study is ``head``."""
        self._claim, self._study, self._seen = claim, study_id, 0
        self._head = self._latest = head

    def check(self) -> None:
        """Look at what was written since the last time.

        Raises:
            Superseded, InputError: a later session, or another run, has taken over.
        """
        if self._claim is None:
            return
        self._claim.check_process()
        with open(self._file_path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            self._seen = file.seek(self._seen if self._seen <= size else 0)  # it was mended
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._seen += len(line)
                if HEAD.encode() in line:
                    self._heed(json.loads(line))
        self._compare()

    def _heed(self, log: Mapping[str, Any]) -> None:
        if HEAD in log.get("user_attr", ()) and log.get("study_id") == self._study:
            self._latest = log["user_attr"][HEAD]

    def _compare(self) -> None:
        if self._claim is not None and self._latest != self._head:
            raise self._claim.lost(self._latest)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """See BaseJournalBackend.

        Raises:
            Superseded, InputError: as ``check`` does, before what was written after that is given.
        """
        self._compare()
        for log in super().read_logs(log_number_from - len(self._early)):
            self._heed(log)
            self._compare()
            if self._early and self._early[0] == log["worker_id"]:
                self._early.popleft()
            else:
                yield log
        for log in self._waiting[self._read :]:
            self._read += 1
            self._early.append(log["worker_id"])
            yield log


class _Held(JournalFileSymlinkLock):
    """The lock of a file that is locked already."""

    def acquire(self) -> bool:
        """See JournalFileSymlinkLock."""
        return True

    def release(self) -> None:
        """See JournalFileSymlinkLock."""


class ClaimedJournal(JournalStorage):
    """Studies in a journal, one of which a session of a run writes."""

    def __init__(self, path: str) -> None:
        self._journal = Journal(path)
        super().__init__(self._journal)

    def take(self, claim: Claim) -> None:
        """Take the study over.

        Raises:
            InputError: it is another run's.
            KeyError: there is no such study.
        """
        study_id = self.get_study_id_from_name(claim.study)
        with self._journal.alone():
            before = self.get_study_user_attrs(study_id).get(HEAD)
            head = claim.after(before, self.get_n_trials(study_id) > 0)
            self.set_study_user_attr(study_id, HEAD, head)
        self._journal.claimed(claim, study_id, head)

    def check(self) -> None:
        """Raise what a session ends with that another has superseded."""
        self._journal.check()


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
