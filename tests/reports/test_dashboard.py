import io
import json
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import optuna
import pandas as pd
import pytest
from hostile import NAMES
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna_dashboard import get_note

from lrtune.errors import InputError
from lrtune.reports.dashboard import (
    LONGEST,
    WRITTEN,
    app_of,
    beside_theirs,
    note,
    plain,
    publish,
    server_of,
)
from lrtune.run.folder import Run
from lrtune.search.space import FAMILY
from lrtune.search.storage import RECORD, RESOLVED, START
from lrtune.search.study import open_storage
from tests.documents import changed

STUDY = "digits-mlp-sgd-72-cosine-constant"
ENDING = (signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Run:
    shutil.copytree(run, tmp_path / "run")
    return Run(tmp_path / "run")


def call(app, path: str, method: str = "GET", told=None, **headers: str) -> tuple[str, bytes]:
    """Status and body of an app's answer; its headers are added to those told."""
    said: list[str] = []
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": ""}
    environ |= {"wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr, "SERVER_NAME": "127.0.0.1"}
    environ |= {"SERVER_PORT": "1", "wsgi.url_scheme": "http", **headers}

    def start(status: str, found: list[tuple[str, str]], *_: object) -> None:
        said.append(status)
        (told if told is not None else []).extend(found)

    answer = app(environ, start)
    body = b"".join(answer)
    getattr(answer, "close", lambda: None)()  # as a server does: it may be an open file
    return said[-1], body


def detail(run: Run) -> dict:
    app = app_of(open_storage(run.storage), {run.study().study_name: "validation loss"})
    return json.loads(call(app, "/api/studies/0")[1])


def again(run: Run, trials: pd.DataFrame | None = None) -> None:
    page = run.folder / "report.html"
    publish(
        run.study(),
        run.trials() if trials is None else trials,
        run.public_settings,
        run.verdict(),
        page,
    )


def test_a_search_leaves_a_note(run: Path) -> None:
    text = detail(Run(run))["note"]["body"]
    assert text.startswith(f"# {STUDY}") and "not measured; validation" in text
    assert "| cosine |" in text and "| constant |" in text
    assert "report.html" in text and text.endswith(WRITTEN)


def test_written_again_nothing_piles_up_and_what_somebody_wrote_stays(copy: Run) -> None:
    from optuna_dashboard import save_note

    again(copy)  # the report is elsewhere now
    before = copy.journal.read_bytes()
    again(copy)
    assert copy.journal.read_bytes() == before
    save_note(copy.study(), f"{get_note(copy.study())}\n\nMine: try wd 0.")
    again(copy, copy.trials().head(4))
    text = get_note(copy.study())
    assert text.count(WRITTEN) == 1 and "4 trials" in text
    assert text.endswith(f"{WRITTEN}\n\nMine: try wd 0.")
    assert beside_theirs("new", "only theirs") == "new\n\nonly theirs"


def test_a_storage_that_cannot_be_written_keeps_the_report(
    copy: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(optuna.storages.JournalStorage, "set_study_system_attr", fails)
    (copy.folder / "report.html").unlink()
    copy.write()
    assert (copy.folder / "report.html").exists()
    assert "note was not written: read-only" in caplog.text


def test_people_see_what_is_for_people(copy: Run) -> None:
    study, found = copy.study(), detail(copy)
    assert {START, RECORD} <= study.trials[0].user_attrs.keys()
    assert {entry["key"] for entry in found["union_user_attrs"]} == {"ended", RESOLVED}
    assert not [entry for entry in found["user_attrs"] if entry["key"].startswith("lrtune.")]
    assert found["objective_names"] == ["validation loss"]
    for trial in found["trials"]:
        known = {entry["key"]: entry["value"] for entry in trial["user_attrs"]}
        assert known.keys() == {"ended", RESOLVED}
        assert (
            known[RESOLVED].startswith("peak_lr ")
            and float(known[RESOLVED].split()[1].rstrip(",")) > 0
            and "warmup_steps" in known[RESOLVED]
        )
        assert trial["intermediate_values"]


def test_a_trial_that_diverged_is_infeasible(copy: Run) -> None:
    trial = copy.study().ask({FAMILY: CategoricalDistribution(["cosine", "constant"])})
    trial.set_user_attr("ended", "diverged: loss is nan")
    trial.set_constraint("diverged", 1.5)
    copy.study().tell(trial.number, state=optuna.trial.TrialState.PRUNED)
    trials = detail(copy)["trials"]
    assert trials[-1]["constraints"] == [1.0]
    for one in trials:
        ended = next(entry["value"] for entry in one["user_attrs"] if entry["key"] == "ended")
        assert one["constraints"] == [1.0] * ended.startswith("diverged")


def test_a_study_of_others_is_shown_as_it_is(copy: Run) -> None:
    storage = open_storage(copy.storage)
    theirs = optuna.create_study(storage=storage, study_name="theirs")
    trial = theirs.ask({"lr": FloatDistribution(0.1, 1.0)})
    trial.set_user_attr("ended", "diverged: theirs")
    theirs.tell(trial, 0.5)
    (found,) = json.loads(call(app_of(storage, {}), "/api/studies/1")[1])["trials"]
    assert found["note"]["body"] == "" and found["constraints"] == []
    assert found["user_attrs"] == [{"key": "ended", "value": "diverged: theirs"}]


@pytest.fixture
def guarded(copy: Run):
    """The app as the server guards it."""
    with server_of(app_of(open_storage(copy.storage), {}), 0, 0, "abc") as server:
        yield server.get_app()


def test_only_this_machines_own_pages_are_answered_and_not_in_frames(guarded, copy: Run) -> None:
    own = {"HTTP_COOKIE": admitted(guarded)}
    for host in ("127.0.0.1:80", "localhost:9000"):
        told: list[tuple[str, str]] = []
        assert call(guarded, "/api/meta", told=told, HTTP_HOST=host, **own)[0].startswith("200")
        assert ("Content-Security-Policy", "frame-ancestors 'none'") in told
    for host in ("evil.example:80", "", "["):
        assert call(guarded, "/api/meta", HTTP_HOST=host, **own)[0].startswith("403")
    for origin in ("null", "http://evil.example", "http://127.0.0.1:81"):
        headers = {"HTTP_HOST": "127.0.0.1:80", "HTTP_ORIGIN": origin, **own}
        assert call(guarded, "/api/studies/0", "DELETE", **headers)[0].startswith("403")
    assert len(copy.study().trials) == 8


def admitted(guarded) -> str:
    """The cookie of whoever opens the address that is printed."""
    told: list[tuple[str, str]] = []
    headers = {"HTTP_HOST": "localhost:80", "QUERY_STRING": "token=abc"}
    assert call(guarded, "/dashboard/studies/0", told=told, **headers)[0].startswith("303")
    assert dict(told)["Location"] == "/dashboard/studies/0"
    cookie = dict(told)["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    return cookie.partition(";")[0]


@pytest.mark.parametrize("headers", [{}, {"QUERY_STRING": "token=x"}, {"HTTP_COOKIE": "x=1; ;=;"}])
def test_other_users_of_the_machine_are_refused(guarded, copy: Run, headers) -> None:
    name = admitted(guarded).partition("=")[0]
    for cookie in ({}, {"HTTP_COOKIE": f"{name}=wrong"}):
        own = {"HTTP_HOST": "localhost:80", **cookie, **headers}
        assert call(guarded, "/api/studies/0", "DELETE", **own)[0].startswith("403")
        assert b"has a token" in call(guarded, "/api/studies", **own)[1]
    assert len(copy.study().trials) == 8


def test_a_port_that_is_taken(run: Path) -> None:
    app = app_of(open_storage(Run(run).storage), {})
    with server_of(app, 0, 0, "") as first:
        taken = first.server_port
        with server_of(app, None, taken, "") as second:
            assert second.server_port != taken
        with pytest.raises(InputError, match=f"port={taken}: cannot be had"):
            server_of(app, taken, 0, "")
    with server_of(app, None, taken, "") as third:
        assert third.server_port == taken


@pytest.mark.parametrize("ended_by", [signal.SIGINT, *ENDING])
def test_the_command_serves_and_ends(run: Path, ended_by: signal.Signals) -> None:
    command = [sys.executable, "-m", "lrtune", "dashboard", str(run), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[0]
            base = address.partition("/dashboard/studies/0")[0]
            browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
            with browser.open(address, timeout=120) as answer:
                assert b"<title>" in answer.read()
            with browser.open(f"{base}/api/studies", timeout=120) as answer:
                studies = json.loads(answer.read())["study_summaries"]
            assert [study["study_name"] for study in studies] == [STUDY]
            process.send_signal(ended_by)
            assert process.wait(timeout=300) == 0 and process.stdout.read() == ""
        finally:
            process.kill()  # leaving the block waits for it
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(base.rpartition(":")[2]))) != 0


@pytest.mark.parametrize("name", NAMES)
def test_names_are_text_in_markdown(many, name: str) -> None:
    trials, run = many
    hostile = NAMES[name]
    task = {"data": hostile, "model": hostile}
    run = changed(run, study=hostile, task=task, command=hostile)
    said = note(trials, run, None, hostile)
    said.encode()
    prose, fence = said.split("```", 1)[0], said[said.index("```") :]
    for mark in "<>`[]":  # of those alone that begin an element or a link
        assert prose.replace(f"\\{mark}", "").count(mark) == 0
    assert len(plain(hostile)) <= 2 * LONGEST + 40
    assert "\n#" not in plain(hostile) and "\u202e" not in said
    assert fence.count("\n") >= 2


def test_what_cannot_be_opened_is_said(lrtune, copy: Run) -> None:
    copy.journal.unlink()
    code, out, err = lrtune("dashboard", copy.folder)
    assert (code, out) == (2, "") and "has no study" in err
