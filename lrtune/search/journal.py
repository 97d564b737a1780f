"""Journal: the file that keeps a study on one machine, written in batches; how it is mended."""

import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Container, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy as copied
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

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

    Attributes:
        touched: ids of the trials of which entries were read; whoever looks at one takes it out.
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
        self._entries, self._bytes = 0, 0  # so far read of the file; Optuna keeps all offsets
        self.touched: set[int] = set()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """See BaseJournalBackend."""
        self._waiting += _DECODER.decode(json.dumps(logs))  # as the file will give them back
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
        for log in self._in_file(log_number_from - len(self._early)):
            self._heed(log)
            self._compare()
            if self._early and self._early[0] == log["worker_id"]:
                self._early.popleft()
            else:
                yield self._seen_by(log)
        for log in self._waiting[self._read :]:
            self._read += 1
            self._early.append(log["worker_id"])
            yield self._seen_by(log)

    def _seen_by(self, log: dict[str, Any]) -> dict[str, Any]:
        if "trial_id" in log:
            self.touched.add(log["trial_id"])
        return log

    def _in_file(self, first: int) -> Iterator[dict[str, Any]]:
        """The file's entries from that one on; neither a torn line at its end nor a damaged one.

        Raises:
            ValueError: a line before others is damaged.
        """
        if first != self._entries:  # a reader who begins anew, or who stumbled over an entry
            self._entries = self._bytes = 0
        end = os.stat(self._file_path).st_size  # others may write meanwhile
        if end <= self._bytes:
            return
        with open(self._file_path, "rb") as file:
            place, damaged = file.seek(self._bytes), None
            for line in file:
                place += len(line)
                if place > end or not line.endswith(b"\n"):
                    return
                if damaged is not None:
                    raise damaged
                try:
                    log = _DECODER.decode(line.decode())
                except json.JSONDecodeError as error:
                    damaged = error
                    continue
                self._entries, self._bytes = self._entries + 1, place
                if self._entries > first:
                    yield log


def _named(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {sys.intern(name): value for name, value in pairs}


# What many entries say is in memory once: names, steps, and values that are told more than once.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_named,
    parse_int=lru_cache(4096)(int),
    parse_float=lru_cache(4096)(float),
)


class _Held(JournalFileSymlinkLock):
    """The lock of a file that is locked already."""

    def acquire(self) -> bool:
        """See JournalFileSymlinkLock."""
        return True

    def release(self) -> None:
        """See JournalFileSymlinkLock."""


_LOOKING = threading.RLock()  # threads of one study; of all, as storages are pickled


class ClaimedJournal(JournalStorage):
    """Studies in a journal, one of which a session of a run writes.

    Optuna looks at every trial whenever it is asked for all, or for those that wait. Here only what
    was written since is looked at: a trial that is over never changes.
    """

    def __init__(self, path: str) -> None:
        self._journal = Journal(path)
        self._study = -1  # whose trials were asked for last
        self._trials: list[FrozenTrial] = []  # all of them
        self._open: dict[int, int] = {}  # id -> number of those that are not over
        super().__init__(self._journal)

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """See BaseStorage."""
        with _LOOKING:
            self.get_study_name_from_id(study_id)  # a KeyError where it was deleted
            if study_id != self._study:
                self._trials, self._open = [], {}
            self._study = -1  # should that fail half-way
            self._look(study_id)
            self._study = study_id
            found: list[FrozenTrial] = self._trials
            if states is not None:
                if not any(state.is_finished() and state in states for state in TrialState):
                    found = [self._trials[number] for number in self._open.values()]
                found = [trial for trial in found if trial.state in states]
            return copied(found) if deepcopy else [*found]

    def _look(self, study_id: int) -> None:
        """Take in what was written, until nothing more was when the last entry was looked at."""
        id_of = partial(self.get_trial_id_from_study_id_trial_number, study_id)
        touched = self._journal.touched
        if not self._trials:
            touched.clear()
            self._trials = super().get_all_trials(study_id, deepcopy=False)
            numbers = [n for n, trial in enumerate(self._trials) if not trial.state.is_finished()]
            self._open = {id_of(number): number for number in numbers}
        while True:
            with suppress(KeyError):  # there is no such trial yet
                while True:
                    trial_id = id_of(number := len(self._trials))
                    self._trials.append(self.get_trial(trial_id))
                    self._open[trial_id] = number
                    touched.add(trial_id)
            if not touched:
                return
            while touched:
                if (trial_id := touched.pop()) in self._open:
                    trial = self.get_trial(trial_id)
                    self._trials[self._open[trial_id]] = trial
                    if trial.state.is_finished():
                        del self._open[trial_id]

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
