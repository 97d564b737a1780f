"""Study: open one, to read it or as the session of a run that writes it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from sqlalchemy import make_url

from lrtune.errors import InputError
from lrtune.files import guarded
from lrtune.format import without_secrets
from lrtune.search.claim import Claim
from lrtune.search.claimed_database import ClaimedDatabase
from lrtune.search.database import open_database
from lrtune.search.journal import ClaimedJournal, whole_lines
from lrtune.tasks.metrics import Direction

URL = "LRTUNE_STORAGE"  # environment variable: a whole URL, where run.json has it without password
_URLS: dict[str, str] = {}  # whole ones that this process was given, by what is kept of them
NONE = "has no study {!r}: restore it, or remove the run's folder"


def kept_url(url: str) -> str:
    """What is kept of a storage's URL: all but its secrets, which this process remembers."""
    kept = without_secrets(url)
    if kept != url:
        _URLS[kept] = url
    return kept


def _whole_url(kept: str) -> str:
    """With its secrets, if anybody has told them; else its driver may find its own (PGPASSWORD)."""
    told = os.environ.get(URL, "")
    return told if told and without_secrets(told) == kept else _URLS.get(kept, kept)


@dataclass(slots=True)
class Session:
    """A session of a run, which alone writes its study and its folder until a later one begins.

    Within ``with``, ``load_study`` gives the session's own study, and a file is written only while
    no later session has taken over, see ``lrtune.files.guarded``.
    """

    place: str | Path  # the storage
    name: str  # the study's
    storage: ClaimedJournal | ClaimedDatabase

    def study(self, **kept: Any) -> optuna.Study:
        """The study, with sampler and pruner, which Optuna does not store."""
        return optuna.load_study(storage=self.storage, study_name=self.name, **kept)

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """As long as it lasts."""
        token = _SESSION.set(self)
        try:
            with guarded(self.storage.check):
                yield
        finally:
            _SESSION.reset(token)


_SESSION = ContextVar[Session | None]("session", default=None)


def take(storage: str | Path, name: str, owner: str, direction: Direction | None = None) -> Session:
    """Begin a session of a run: from now on it writes the study, and no earlier session does.

    A study that has no trials was left by a run that never began: it is taken.

    Args:
        storage: a journal file's path, or any storage URL of Optuna's.
        name: the study's.
        owner: the run's random name, by which the study knows it.
        direction: of a new run's objective, whose study is created; None where there is one.

    Raises:
        InputError: the study is another run's, has the other direction, or cannot be opened.
    """
    way_out = "give that run's --out to go on with it, or another --storage"
    if isinstance(storage, Path):
        way_out = "restore its run.json, or remove the folder"
    claim = Claim(owner, without_secrets(str(storage)), name, way_out)
    if direction is not None:
        open_study(storage, name, direction)
    try:
        if not _is_there(storage):
            raise InputError(NONE.format(name))
        place = _place(storage)
        journal = isinstance(place, Path)
        opened = ClaimedJournal(str(place)) if journal else ClaimedDatabase(str(place))
        with _quiet_optuna():
            opened.take(claim)
    except KeyError:
        raise _unusable(storage, InputError(NONE.format(name))) from None
    except Exception as error:  # every backend has errors of its own
        raise _unusable(storage, error) from error
    return Session(storage, name, opened)


def load_study(storage: str | Path, name: str) -> optuna.Study:
    """Open a study that exists, to read it; nothing is written.

    Raises:
        InputError: there is none, or the storage cannot be opened.
    """
    session = _SESSION.get()
    if session is not None and (session.place, session.name) == (storage, name):
        return session.study()
    try:
        opened = open_storage(storage) if _is_there(storage) else None
        names = [] if opened is None else optuna.get_all_study_names(opened)
        if opened is None or name not in names:
            raise InputError(NONE.format(name))
        return optuna.load_study(storage=opened, study_name=name)
    except Exception as error:  # every backend has errors of its own
        raise _unusable(storage, error) from error


def _is_there(storage: str | Path) -> bool:
    """Whether there is something to read; what opens a file would make one."""
    if isinstance(storage, Path):
        return storage.is_file()
    if storage.startswith("journal://"):
        return Path(storage.removeprefix("journal://")).is_file()
    url = make_url(storage)
    name = (url.database or "").removeprefix("file:")  # as SQLite's own URIs begin
    return url.get_backend_name() != "sqlite" or Path(name).is_file()


def open_study(storage: str | Path, name: str, direction: Direction, **kept: Any) -> optuna.Study:
    """Open or create a study; an existing one is left as it is.

    Args:
        storage: a journal file's path, or any storage URL of Optuna's.
        name: the study's.
        direction: of the objective.
        kept: sampler and pruner, which Optuna does not store.

    Raises:
        InputError: the storage cannot be opened, or its study has the other direction.
    """
    options = {"study_name": name, "direction": direction, "load_if_exists": True, **kept}
    try:
        with _quiet_optuna():
            study = optuna.create_study(storage=open_storage(storage), **options)
        # Even without trials it may be another run's, which is about to begin.
        if [found.name.lower() for found in study.directions] != [direction]:
            raise InputError(
                f"its study {name!r} is of a search that was not to {direction}: "
                "give another --out, or another --storage"
            )
    except Exception as error:  # every backend has errors of its own
        raise _unusable(storage, error) from error
    return study


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Hide Optuna's own lines ("A new study created ..."); its verbosity is restored."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _unusable(storage: str | Path, error: Exception) -> InputError:
    if isinstance(storage, Path) and storage.is_file():
        whole_lines(storage)
    first = (str(error).splitlines() or [type(error).__name__])[0]
    text, url = f"storage {storage}: {first}", str(storage)
    hidden = without_secrets(url) != _whole_url(url)
    told = isinstance(error, InputError) or hidden
    if type(error) is ValueError and hidden:  # it quotes a part alone
        text = f"storage {url}: not a database's URL"
    if "@" in url and not told:
        text += f"; lrtune keeps no password: set {URL} to the whole URL, or as its driver has it"
    for whole in (url, _whole_url(url)):
        text = text.replace(whole, without_secrets(whole))
    # An error may quote it in a form of its own.
    return InputError(" ".join(map(without_secrets, text.split(" "))))


def open_storage(storage: str | Path) -> BaseStorage:
    """Open a journal file by its path, or a database by its URL."""
    place = _place(storage)
    return ClaimedJournal(str(place)) if isinstance(place, Path) else open_database(place)


def _place(storage: str | Path) -> str | Path:
    """The journal's file, or the database's whole URL."""
    if isinstance(storage, str) and storage.startswith("journal://"):
        storage = Path(storage.removeprefix("journal://"))
    if isinstance(storage, Path):
        return storage.resolve()  # because Optuna's lock is a link to this path as it is written
    if storage in ("sqlite://", "sqlite:///") or ":memory:" in storage:
        raise InputError("a database in memory is lost at the end: give a file or a server")
    return _whole_url(storage)
