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
from typing import Any

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage, get_storage
from sqlalchemy import exc

from lrtune.errors import InputError
from lrtune.format import duration, without_secrets

WAIT = "LRTUNE_STORAGE_WAIT"  # environment variable: seconds, as below
LONGEST = 600.0  # that it may be away once it has answered
SHORT, LONG = 0.1, 10.0  # pauses, each twice the one before
OPENINGS = 20  # tries to open one that somebody else makes at this moment
AWAY = (exc.OperationalError, exc.InterfaceError, exc.PendingRollbackError, exc.TimeoutError)


class _Patient:
    """Asks again and again; says so once."""

    def __init__(self, url: str) -> None:
        """Open it; what does not answer at all is an error at once."""
        self._name = f"storage {without_secrets(url)}"
        self._longest = _longest()
        self._over = False  # whether nobody waits any more
        self._storage = _opened(url)

    def _patiently(self, method: str, *args: Any, **given: Any) -> Any:
        began, pause, waiting = time.monotonic(), SHORT, False
        while True:
            try:
                if (
                    waiting
                    and method == "create_new_trial"
                    and (made := self._made(*args, **given))
                ):
                    return made
                found = getattr(self._storage, method)(*args, **given)
                if waiting and method == "set_trial_state_values":
                    found = True  # False: it runs already, as it was told before
            except UpdateFinishedTrialError:
                if waiting and method == "set_trial_state_values":
                    return True  # it had been written before the answer was lost
                raise
            except (StorageInternalError, *AWAY) as error:
                cause = error.__cause__ if isinstance(error, StorageInternalError) else error
                if not isinstance(cause, AWAY):
                    raise
                self._over |= time.monotonic() + pause - began > self._longest
                reason = str(cause).splitlines()[0]
                if self._over:
                    raise TimeoutError(
                        errno.ETIMEDOUT,
                        f"no answer for {duration(self._longest)} ({reason}): nothing that was "
                        "stored is lost, and the same command goes on",
                        self._name,
                    ) from error
                if not waiting:
                    _log(f"{self._name}: no answer ({reason}); waiting for it")
                waiting = True
            else:
                if waiting:
                    _log(f"{self._name}: answers again")
                return found
            self._sleep(pause)
            pause = min(2 * pause, LONG)

    def _made(self, study_id: int, template_trial: Any = None) -> int | None:
        """The trial that a lost answer was about: one that waits and is the same in all it says."""
        if template_trial is None:
            return None
        same = (template_trial.state, template_trial.user_attrs, template_trial.params)
        for trial in self._storage.get_all_trials(study_id, deepcopy=False):
            if (trial.state, trial.user_attrs, trial.params) == same:
                number = trial.number
                return self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
        return None

    def _sleep(self, seconds: float) -> None:
        try:
            with _interruptible():
                time.sleep(seconds)
        except KeyboardInterrupt:
            self._over = True
            raise


def _longest() -> float:
    text = os.environ.get(WAIT, "")
    try:
        seconds = float(text) if text else LONGEST
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InputError(f"{WAIT}={text!r}: expected seconds, 0 or more")
    return seconds


def _opened(url: str) -> BaseStorage:
    for attempt in range(OPENINGS):
        try:
            return get_storage(RDBStorage(url))
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
    """Ctrl-C is heard at once, though results are being stored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _forwarded(name: str) -> Callable[..., Any]:
    def method(self: _Patient, *args: Any, **given: Any) -> Any:
        return self._patiently(name, *args, **given)

    return method


_METHODS = {name: _forwarded(name) for name in BaseStorage.__abstractmethods__}
_DATABASE: Any = type("Database", (_Patient, BaseStorage), _METHODS)


def open_database(url: str) -> BaseStorage:
    """A database, every method of which waits while it does not answer."""
    opened: BaseStorage = _DATABASE(url)
    return opened
