"""Chromium by Playwright: pages at a width and in a colour scheme, and what went wrong in them."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# How the tests look at a page, what all tests share, the made-up trainer of the report's benchmark.
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1] / "scripts" / "bench")]

QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """Debian's Chromium; without one there is nothing to see: tests skip, but fail in CI."""
    found = shutil.which("chromium")
    if found is None:
        without = pytest.fail if os.environ.get("CI_CHROMIUM") else pytest.skip
        without("no Chromium: apt-get install chromium")
    return found


@pytest.fixture(scope="package")  # Playwright keeps an event loop running: not for other tests
def browser(chromium_path: str) -> Iterator[object]:
    """One Chromium for all pages."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium_path, args=QUIET)
        yield running
        running.close()


@pytest.fixture
def faults() -> list[str]:
    """What the pages of ``page_at`` complained of: console, exceptions, requests, dialogs."""
    return []


@pytest.fixture
def page_at(browser, faults: list[str]) -> Iterator[Callable[..., object]]:
    """Makes an empty page: ``page_at(width, scheme)``, scheme ``light`` or ``dark``."""
    contexts = []

    def make(width: int = 1280, scheme: str = "light"):
        context = browser.new_context(
            viewport={"width": width, "height": 850},
            color_scheme=scheme,
            permissions=["clipboard-read", "clipboard-write"],
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", said)
        page.on("pageerror", lambda error: faults.append(f"exception: {error}"))
        page.on("requestfailed", lambda request: faults.append(f"request: {request.url}"))
        page.on("dialog", asked)
        return page

    def said(message) -> None:
        if message.type in ("error", "warning"):
            faults.append(f"{message.type}: {message.text}")

    def asked(dialog) -> None:
        faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    yield make
    for context in contexts:
        context.close()


@pytest.fixture(scope="package")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of several families, with finals."""
    import lrtune
    from lrtune.run.confirm import confirm

    folder = tmp_path_factory.mktemp("digits") / "run"
    task = lrtune.load_task("digits", batch_size=32, epochs=2)
    families = ["cosine", "constant", "wsd", "plateau"]
    lrtune.tune(
        task, budget=lrtune.Budget(trials=12), families=families, engine="serial", out=folder
    )
    confirm(folder, task, trainings=8)
    return folder


@pytest.fixture(scope="package")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 1,000 trials, with finals, by a trainer that is made up."""
    from madeup import madeup

    families = ["cosine", "constant", "wsd", "plateau", "step", "one_cycle", "spline", "cyclic"]
    folder = tmp_path_factory.mktemp("thousand") / "run"
    return madeup(folder, 125, times=8, families=families).folder
