"""The package itself: names load on first use, and nothing else happens."""

import builtins
import subprocess
import sys

import lrtune


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_a_star_leaves_the_builtins_alone() -> None:
    names: dict[str, object] = {}
    exec("from lrtune import *", names)
    assert "tune" in names and not set(names) & {*dir(builtins)} - {"__builtins__", "__doc__"}
    assert lrtune.open is not builtins.open


def test_a_name_is_kept_after_its_first_use() -> None:
    lrtune.Schedule  # noqa: B018
    assert vars(lrtune)["Schedule"] is lrtune.Schedule


def test_warnings_are_still_shown_once() -> None:
    code = """
import warnings, lrtune
for name in ("Schedule", "InputError", "load"):
    getattr(lrtune, name)
for _ in range(5):
    lrtune.Schedule, lrtune.load
    warnings.warn("shown once", UserWarning)
"""
    assert run(code).stderr.count("UserWarning: shown once") == 1
