"""optuna-dashboard as `lrtune dashboard` opens it, in Chromium."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from hostile import HIT, NAMES

from lrtune.reports.dashboard import app_of, publish, server_of
from lrtune.run.folder import Run
from lrtune.search.storage import open_storage
from tests.documents import changed

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def served(chromium_path: str, digits: Path) -> Iterator[str]:
    """The address of the study's page, as the command says it."""
    command = [sys.executable, "-m", "lrtune", "dashboard", str(digits)]
    command += ["--port", "0", "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[0]
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()


def test_the_note_is_read(served: str, digits: Path, page_at, faults: list[str]) -> None:
    page = page_at()
    page.goto(f"{served}/note")
    page.get_by_role("heading", name="Families", exact=True).wait_for()
    said = page.inner_text("body")
    assert "lrtune." not in said
    assert Run(digits).verdict().families[0].family in said
    assert "\\" not in said and "**" not in said
    assert page.locator("table tr").count() == 1 + len(Run(digits).verdict().families)
    assert faults == []


def test_a_trial_says_what_it_was(served: str, digits: Path, page_at, faults: list[str]) -> None:
    first = Run(digits).trials().iloc[0]
    page = page_at()
    page.goto(f"{served}/trials?numbers=0")
    page.get_by_role("heading", name="Trial 0").wait_for()
    said = page.inner_text("body")
    assert first["family"] in said
    assert "resolved peak_lr" in said and f"ended {first['state']}" in said
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert faults == []


@pytest.fixture(scope="module")
def hostile(chromium_path: str, digits: Path, tmp_path_factory) -> Iterator[str]:
    """Studies of all hostile names in one storage, in the order of NAMES."""
    run, storage = Run(digits), open_storage(tmp_path_factory.mktemp("hostile") / "journal.log")
    trials, verdict = run.trials(), run.verdict()
    for name in NAMES.values():
        task, objective = {"data": name, "model": name}, {"unit": name}
        settings = changed(run.settings, study=name, task=task, command=name, objective=objective)
        study = optuna.create_study(storage=storage, study_name=name)
        found = changed(verdict, study=name, objective={"unit": name})
        publish(study, trials, settings, found, Path("report.html"))
    with server_of(app_of(storage, {}), 0, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/dashboard/studies"
        server.shutdown()


@pytest.mark.parametrize("name", ["tags", "endings", "formula", "markup", "link"])
def test_names_are_text(hostile: str, page_at, faults: list[str], name: str) -> None:
    page = page_at()
    page.goto(f"{hostile}/{list(NAMES).index(name)}/note")
    page.get_by_role("heading", name="Families", exact=True).wait_for()
    assert page.evaluate(HIT) == [] and page.locator("h1").count() == 1
    title = page.locator("h1", has_not_text="lrtune").all_inner_texts()[0]
    assert NAMES[name][:12] in title and faults == []
