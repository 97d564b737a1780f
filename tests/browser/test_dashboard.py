"""optuna-dashboard as `lrtune dashboard` opens it, in Chromium."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lrtune.run.folder import Run

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def served(chromium_path: str, digits: Path) -> Iterator[tuple[str, str]]:
    """The address of the study's page, as the command says it, and its token."""
    command = [sys.executable, "-m", "lrtune", "dashboard", str(digits)]
    command += ["--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address, _, token = process.stdout.readline().split()[0].partition("?")
            yield address, token
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()


def test_the_note_is_read(
    served: tuple[str, str], digits: Path, page_at, faults: list[str]
) -> None:
    page = page_at()
    page.goto("{}/note?{}".format(*served))
    page.get_by_role("heading", name="Families", exact=True).wait_for()
    said = page.inner_text("body")
    assert "lrtune." not in said
    assert Run(digits).verdict().families[0].family in said
    assert "\\" not in said and "**" not in said
    assert page.locator("table tr").count() == 1 + len(Run(digits).verdict().families)
    assert faults == []


def test_a_trial_says_what_it_was(
    served: tuple[str, str], digits: Path, page_at, faults: list[str]
) -> None:
    first = Run(digits).trials().iloc[0]
    page = page_at()
    page.goto("{}/trials?numbers=0&{}".format(*served))
    page.get_by_role("heading", name="Trial 0").wait_for()
    said = page.inner_text("body")
    assert first["family"] in said
    assert "resolved peak_lr" in said and f"ended {first['state']}" in said
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert faults == []
