"""optuna-dashboard: the note that a study carries for it, and the server that shows it."""

import hmac
import json
import logging
import re
import secrets
import signal
from collections.abc import Iterable, Mapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
import pandas as pd
from optuna.storages import BaseStorage

from lrtune.errors import InputError
from lrtune.format import Table, limited
from lrtune.reports.first_screen import answer, subtitle
from lrtune.search.space import FAMILY
from lrtune.search.study import load_study, open_storage
from lrtune.verdict.settings import Objective, RunSettings
from lrtune.verdict.tables import families_or_finalists
from lrtune.verdict.verdict import Verdict

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


HOST, PORT = "127.0.0.1", 8080  # the port is optuna-dashboard's own
OURS = {HOST, "localhost"}  # whatever the port: it may come through a tunnel
TEXT = [("Content-Type", "text/plain")]
FRAMED = ("Content-Security-Policy", "frame-ancestors 'none'")  # else clicks could be stolen
MACHINE = "lrtune."  # how the names of attributes begin that are not for people
STUDIES = re.compile(r"/api/studies(/\d+)?/?")
WRITTEN = "*lrtune writes this note again with the report. What is below this line stays.*"

LONGEST = 300  # characters of somebody's name: the note is sent at every poll
SENTENCE = 1000  # characters of ours, with theirs in it
_MARKS = re.compile(r"([\\`*_{}\[\]()<>#|~!$&:@])")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_OPEN_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")


def publish(
    study: optuna.Study,
    trials: pd.DataFrame,
    run: RunSettings,
    verdict: Verdict | None,
    report: Path,
) -> None:
    """Write the note that optuna-dashboard shows of a study, over the one before.

    Nothing is written where nothing has changed, and a storage that cannot be written is left as
    it is, with a warning in the log: all of it is in the report too.

    Args:
        study: the search's.
        trials: the search's table, one row per trial.
        run: what was searched (run.json), without passwords: everybody at the dashboard reads it.
        verdict: what the finals said, if there were any.
        report: where the report is.
    """
    from optuna_dashboard import get_note, save_note  # type: ignore[import-untyped]

    try:
        before = get_note(study)
        text = beside_theirs(note(trials, run, verdict, str(report.resolve())), before)
        if text != before:
            save_note(study, text)
    except Exception as error:  # every backend has errors of its own
        logging.getLogger(__name__).warning("the dashboard's note was not written: %s", error)


def note(trials: pd.DataFrame, run: RunSettings, verdict: Verdict | None, report: str) -> str:
    """The answer, the families and the command that made them, in Markdown.

    Args:
        trials: the search's table, one row per trial.
        run: what was searched (run.json), without passwords.
        verdict: what the finals said, if there were any.
        report: where the report is.
    """
    found = answer(trials, run, verdict)
    lines = [f"{label}: {text}" for label, text in found.lines]
    parts = [
        f"# {plain(run.study)}",
        " · ".join(plain(part, SENTENCE) for part in subtitle(trials, run)),
        plain(found.use, SENTENCE),
        *(
            "\n".join(f"- {plain(item, SENTENCE)}" for item in items)
            for items in (lines, found.warnings)
        ),
        *(plain(text, SENTENCE) for text in found.notes),
        "## Families",
        _table(families_or_finalists(trials, run, verdict)),
        "## The command that made it",
        _fenced(run.command),
        f"The whole report: {plain(report)}",
        "---",
        WRITTEN,
    ]
    return "\n\n".join(part for part in parts if part)


def beside_theirs(ours: str, there: str) -> str:
    """Our note, and below it what somebody has written into the one that is there."""
    _, mark, below = there.partition(WRITTEN)
    theirs = below if mark else there
    return f"{ours}\n\n{theirs.strip()}" if theirs.strip() else ours


def plain(value: object, longest: int = LONGEST) -> str:
    r"""Any value as Markdown that shows it as it is, cut where it is very long.

    Example:
        >>> print(plain("a_b <i>"))
        a\_b \<i\>
    """
    return _MARKS.sub(r"\\\1", limited(_clean(str(value)), longest))


def _clean(text: str) -> str:
    """Text on a line that any storage takes and that turns no other text around."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return _OPEN_BIDI.sub("", _CONTROLS.sub(" ", text))


def _table(table: Table) -> str:
    lines = [[plain(head) for head in table.heads], [":--", *["--:"] * (len(table.heads) - 1)]]
    lines += [[plain(cell.text) for cell in row] for row in table.cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if table.rows else ""


def _fenced(text: str) -> str:
    """Text as a block of code, in a fence that it does not hold itself."""
    text = limited(_clean(text))
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 0)
    return f"{fence}\n{text}\n{fence}"


def serve(storage: str | Path, study: str, objective: Objective, port: int | None) -> None:
    """Serve a study on loopback until Ctrl-C, SIGTERM or SIGHUP.

    The server runs in a thread of this process: neither can outlive the other.

    Args:
        storage: a journal file's path, or any storage URL of Optuna's.
        study: its name there.
        objective: name and unit of its trials' values.
        port: see ``server_of``.

    Raises:
        InputError: the study is not there, the port cannot be had.
    """
    load_study(storage, study)  # what cannot be opened is an error here, not an empty page
    opened = open_storage(storage)
    number = opened.get_study_id_from_name(study)
    values = {study: objective.title}
    logging.getLogger("optuna_dashboard").setLevel(logging.ERROR)
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP, and nohup means it
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) != signal.SIG_IGN:
            signal.signal(getattr(signal, name), signal.default_int_handler)
    token = secrets.token_urlsafe()
    with server_of(app_of(opened, values), port, PORT, token) as server:
        address = f"http://{HOST}:{server.server_port}/dashboard/studies/{number}?token={token}"
        try:
            print(f"{address}   Ctrl-C ends it", flush=True)
            server.serve_forever()
        except KeyboardInterrupt:
            pass


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # a page that is being loaded does not hold up the end


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a line per request would scroll the address away."""


def server_of(app: "WSGIApplication", port: int | None, preferred: int, token: str) -> WSGIServer:
    """A server that listens on loopback already; ``serve_forever`` makes it answer.

    It refuses what another site's page asks for, and other users of the machine: the app itself
    asks nobody who they are, and deletes studies. Whoever opens an address with the token gets a
    cookie, as with Jupyter.

    Args:
        app: what it serves.
        port: that one; 0 any that is free; None the preferred one, or any if it is taken.
        preferred: a port.
        token: what the first address has as ``?token=``.

    Raises:
        InputError: the port cannot be had.
    """
    name = f"lrtune-{secrets.token_hex(4)}"  # a browser's cookies are of a host, whatever the port

    def guarded(environ: "WSGIEnvironment", begin: "StartResponse") -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            return begin(status, [*headers, FRAMED], *more)

        host, origin = environ.get("HTTP_HOST", ""), environ.get("HTTP_ORIGIN")
        if host.partition(":")[0] not in OURS or origin not in (None, f"http://{host}"):
            start("403 Forbidden", TEXT)
            return [b"This server answers pages of its own alone."]
        if _same(_cookie(environ, name), token):
            return app(environ, start)
        query = parse_qsl(environ.get("QUERY_STRING", ""))
        if _same(dict(query).get("token", ""), token):
            others = urlencode([pair for pair in query if pair[0] != "token"])
            place = f"{environ['PATH_INFO']}?{others}" if others else environ["PATH_INFO"]
            cookie = f"{name}={token}; HttpOnly; SameSite=Strict; Path=/"
            start("303 See Other", [("Location", place), ("Set-Cookie", cookie)])
            return []
        start("403 Forbidden", TEXT)
        return [b"Open the address that lrtune dashboard has printed: it has a token."]

    try:
        return make_server(HOST, preferred if port is None else port, guarded, _Server, _Quiet)
    except (OSError, OverflowError) as error:
        if port is None:
            return server_of(app, 0, preferred, token)
        raise InputError(
            f"port={port}: cannot be had ({error}): give another --port, or none"
        ) from error


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def _cookie(environ: "WSGIEnvironment", name: str) -> str:
    try:
        cookies = SimpleCookie(environ.get("HTTP_COOKIE", ""))
    except CookieError:
        return ""
    return cookies[name].value if name in cookies else ""


def app_of(storage: BaseStorage, values: Mapping[str, str]) -> "WSGIApplication":
    """optuna-dashboard, which shows of our studies what a person reads, and not what lrtune does.

    Args:
        storage: where the studies are.
        values: what the values of a study's trials are, by its name.
    """
    from optuna_dashboard import wsgi

    app: WSGIApplication = wsgi(storage)

    def respond(environ: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET" or not STUDIES.fullmatch(environ["PATH_INFO"]):
            return app(environ, start)
        status, headers = "", list[tuple[str, str]]()

        def begin(code: str, sent: list[tuple[str, str]], *_: Any) -> Any:
            nonlocal status, headers
            status, headers = code, sent

        body = b"".join(app(environ, begin))
        if status.startswith("200"):
            body = json.dumps(_for_people(json.loads(body), values), separators=(",", ":")).encode()
            headers = [(name, value) for name, value in headers if name != "Content-Length"]
            headers.append(("Content-Length", str(len(body))))
        start(status, headers)
        return [body]

    return respond


def _for_people(content: dict[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    """An answer of the dashboard's API: of the studies, or of one with its trials."""

    def hide(holder: dict[str, Any], key: str = "user_attrs") -> None:
        holder[key] = [entry for entry in holder[key] if not entry["key"].startswith(MACHINE)]

    if content.get("name") in values:
        content["objective_names"] = [values[content["name"]]]
    for study in content.get("study_summaries", [content]):
        hide(study)
    if "union_user_attrs" in content:
        hide(content, "union_user_attrs")
    for trial in content.get("trials", []) + content.get("best_trials", []):
        hide(trial)
        params = {entry["name"]: entry["param_external_value"] for entry in trial["params"]}
        if FAMILY not in params:  # a trial of another study in the same storage
            continue
        known = {entry["key"]: entry["value"] for entry in trial["user_attrs"]}
        ended = known.get("ended", "")
        if ended.startswith("diverged"):
            # Optuna 5 keeps constraints by name, where the dashboard does not look yet.
            trial["constraints"] = [1.0]
    return content
