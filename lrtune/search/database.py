"""Database: Optuna's storage in a database, which is waited for while it does not answer."""

import errno
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage, get_storage
from sqlalchemy import exc

from lrtune.errors import InputError
from lrtune.format import duration, without_secrets

WAIT = "LRTUNE_STORAGE_WAIT"  # environment variable: seconds, as below
LONGEST = 600.0  # that it may be away once it has answered
SHORT, LONG = 0.1, 10.0  # pauses, each twice the one before
OPENINGS = 20  # tries to open one that somebody else makes at this moment
AWAY = (exc.OperationalError, exc.InterfaceError, exc.PendingRollbackError, exc.TimeoutError)

Found = TypeVar("Found")


class Patience:
    """Asks a database again and again while it does not answer; says so once."""

    def __init__(self, url: str) -> None:
        self._name = f"storage {without_secrets(url)}"
        self._longest = _longest()
        self._error: TimeoutError | None = None  # where nobody waits any more

    def __call__(self, ask: Callable[[], Found]) -> Found:
        """What it answers.

        Raises:
            TimeoutError: it did not, for too long or until Ctrl-C, now or an earlier time. What was
                asked then may have been done: so nothing more is asked.
        """
        began, pause, waiting = time.monotonic(), SHORT, False
        while self._error is None:
            try:
                found = ask()
            except (StorageInternalError, *AWAY) as error:
                cause = error.__cause__ if isinstance(error, StorageInternalError) else error
                if not isinstance(cause, AWAY):
                    raise
                reason = str(cause).splitlines()[0]
                if time.monotonic() + pause - began > self._longest:
                    self._error = self._no_answer(reason)
                    raise self._error from error
            else:
                if waiting:
                    _log(f"{self._name}: answers again")
                return found
            if not waiting:
                _log(f"{self._name}: no answer ({reason}); waiting for it")
            waiting = True
            try:
                with _interruptible():
                    time.sleep(pause)
            except KeyboardInterrupt:
                self._error = self._no_answer(reason)
                raise
            pause = min(2 * pause, LONG)
        raise self._error

    def _no_answer(self, reason: str) -> TimeoutError:
        return TimeoutError(
            errno.ETIMEDOUT,
            f"no answer for {duration(self._longest)} ({reason}): nothing that was stored is lost, "
            "and the same command goes on",
            self._name,
        )


def _longest() -> float:
    text = os.environ.get(WAIT, "")
    try:
        seconds = float(text) if text else LONGEST
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InputError(f"{WAIT}={text!r}: expected seconds, 0 or more")
    return seconds


def opened(url: str) -> RDBStorage:
    """What does not answer at all is an error at once."""
    for attempt in range(OPENINGS):
        try:
            return RDBStorage(url)
        except (exc.OperationalError, exc.IntegrityError, exc.ProgrammingError) as error:
            of_others = "exists" in str(error) or "locked" in str(error) or "UNIQUE" in str(error)
            if not of_others or attempt + 1 == OPENINGS:
                raise
        time.sleep(SHORT)
    raise AssertionError


def _log(line: str) -> None:
    logging.getLogger("lrtune").warning(line)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM are heard at once, though results are being stored."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        before = {number: own for number, own in handlers.items() if callable(own)}
    for number in before:  # what is ignored, as after nohup, is meant to be
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _forwarded(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **given: Any) -> Any:
        return self.patience(partial(getattr(self.storage, name), *args, **given))

    return method


_DATABASE: Any = type(
    "Database", (BaseStorage,), {name: _forwarded(name) for name in BaseStorage.__abstractmethods__}
)


def open_database(url: str) -> BaseStorage:
    """A database to read from, every method of which waits while it does not answer."""
    database = _DATABASE()
    database.patience, database.storage = Patience(url), get_storage(opened(url))
    storage: BaseStorage = database
    return storage
