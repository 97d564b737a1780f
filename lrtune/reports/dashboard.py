"""optuna-dashboard: what a study carries for it, and the command that shows it."""

import hashlib
import json
import logging
import os
import re
import signal
import sys
import threading
import webbrowser
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pandas as pd
from optuna.storages import BaseStorage

from lrtune.reports.loopback import server_of
from lrtune.search.space import FAMILY
from lrtune.search.storage import load_study, open_storage
from lrtune.verdict.verdict import Verdict
from lrtune.verdict.wording import listed, value_title

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    import plotly.graph_objects as go

PORT = 8080  # optuna-dashboard's own
PUBLISHED = "lrtune.published"  # study attribute: a digest of what was written last
MACHINE = "lrtune."  # how the names of attributes begin that are not for people
STUDIES = re.compile(r"/api/studies(/\d+)?/?")


def publish(
    study: optuna.Study,
    trials: pd.DataFrame,
    run: Mapping[str, Any],
    verdict: Verdict | None,
    finals: pd.DataFrame,
    report: Path,
) -> None:
    """Write the note and the figures that optuna-dashboard shows of a study, over those before.

    Nothing is written where nothing has changed, and a storage that cannot be written is left as
    it is, with a warning in the log: all of it is in the report too.

    Args:
        study: the search's.
        trials: The search's table, one row a trial.
        run: What was searched (run.json), without passwords: everybody at the dashboard reads it.
        verdict: What the finals said, if there were any.
        finals: Those that it is of, one row a training.
        report: Where the report is.
    """
    from optuna_dashboard import (  # type: ignore[import-untyped]
        get_note,
        save_note,
        save_plotly_graph_object,
    )

    from lrtune.reports.dashboard_figures import beside_theirs, figures, note

    where = str(report.resolve())
    said, drawn = note(trials, run, verdict, where), figures(trials, run, verdict, finals)
    facts = {"report": where}
    if verdict is not None and verdict.decided:
        facts["verdict"] = f"{verdict.answer.place}: {listed(verdict.answer.families)}"
    digest = _digest(said, drawn)
    try:
        if study.user_attrs.get(PUBLISHED) == digest:
            return
        for name, figure in drawn.items():
            save_plotly_graph_object(study, figure, graph_object_id=name)
        save_note(study, beside_theirs(said, get_note(study)))
        for key, value in (facts | {PUBLISHED: digest}).items():
            study.set_user_attr(key, value)
    except Exception as error:  # every backend has errors of its own
        logging.getLogger(__name__).warning("the dashboard's note was not written: %s", error)


def _digest(said: str, drawn: "Mapping[str, go.Figure]") -> str:
    whole = json.dumps([said, *(figure.to_json() for figure in drawn.values())])
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def serve(
    storage: str | Path, study: str, objective: Mapping[str, Any], port: int | None, look: bool
) -> None:
    """Serve a study on loopback until Ctrl-C, SIGTERM or SIGHUP.

    The server is a thread's work of this process: neither can outlive the other.

    Args:
        storage: a journal file's path, or any storage URL of Optuna's.
        study: its name there.
        objective: name and unit of its trials' values.
        port: see ``lrtune.reports.loopback.server_of``.
        look: whether to open the browser.

    Raises:
        InputError: the study is not there, the port cannot be had.
    """
    load_study(storage, study)  # what cannot be opened is an error here, not an empty page
    opened = open_storage(storage)
    number = opened.get_study_id_from_name(study)
    values = {study: value_title(objective)}
    logging.getLogger("optuna_dashboard").setLevel(logging.ERROR)
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP, and nohup means it
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) != signal.SIG_IGN:
            signal.signal(getattr(signal, name), signal.default_int_handler)
    with server_of(app_of(opened, values), port, PORT) as server:
        address = f"http://127.0.0.1:{server.server_port}/dashboard/studies/{number}"
        try:
            print(f"{address}   Ctrl-C ends it", flush=True)
            if look and _has_screen():
                threading.Thread(target=_show, args=(address,), daemon=True).start()
            server.serve_forever()
        except KeyboardInterrupt:
            pass


def _has_screen() -> bool:
    """Whether a browser would have a window: one in the terminal would take it over."""
    if sys.platform in ("win32", "darwin"):
        return True
    return any(os.environ.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"))


def _show(address: str) -> None:
    try:
        webbrowser.open(address)
    except (webbrowser.Error, OSError) as error:
        logging.getLogger(__name__).warning("no browser could be opened: %s", error)


def app_of(storage: BaseStorage, values: Mapping[str, str]) -> "WSGIApplication":
    """optuna-dashboard, which shows of our studies what a person reads, and not what lrtune does.

    Args:
        storage: where the studies are.
        values: what the values of a study's trials are, by its name.
    """
    from optuna_dashboard import wsgi

    app: WSGIApplication = wsgi(storage)

    def answer(environ: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET" or not STUDIES.fullmatch(environ["PATH_INFO"]):
            return app(environ, start)
        status, headers = "", list[tuple[str, str]]()

        def started(said: str, kept: list[tuple[str, str]], *_: Any) -> Any:
            nonlocal status, headers
            status, headers = said, kept

        body = b"".join(app(environ, started))
        if status.startswith("200"):
            body = json.dumps(_for_people(json.loads(body), values), separators=(",", ":")).encode()
            headers = [(name, value) for name, value in headers if name != "Content-Length"]
            headers.append(("Content-Length", str(len(body))))
        start(status, headers)
        return [body]

    return answer


def _for_people(found: dict[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    """An answer of the dashboard's API: of the studies, or of one with its trials."""
    from lrtune.reports.dashboard_figures import plain

    if found.get("name") in values:
        found["objective_names"] = [values[found["name"]]]
    for study in found.get("study_summaries", [found]):
        study["user_attrs"] = _theirs(study["user_attrs"])
    if "union_user_attrs" in found:
        found["union_user_attrs"] = _theirs(found["union_user_attrs"])
    for trial in found.get("trials", []) + found.get("best_trials", []):
        trial["user_attrs"] = _theirs(trial["user_attrs"])
        params = {entry["name"]: entry["param_external_value"] for entry in trial["params"]}
        if FAMILY not in params:  # a trial of another study in the same storage
            continue
        known = {entry["key"]: entry["value"] for entry in trial["user_attrs"]}
        ended = known.get("ended", "")
        if ended.startswith("diverged"):
            # Optuna 5 keeps constraints by name, where the dashboard does not look yet.
            trial["constraints"] = [1.0]
        if not trial["note"]["body"]:
            said = (f"**{plain(params[FAMILY])}**", plain(known.get("resolved", "")), plain(ended))
            trial["note"]["body"] = "\n\n".join(part for part in said if part)
    return found


def _theirs(attributes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in attributes if not entry["key"].startswith(MACHINE)]
