"""The package itself: names load on first use, and nothing else happens."""

import builtins
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

import lrtune

ROOT = Path(__file__).parents[1]


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


def test_the_papers_of_the_package_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert [author["name"] for author in cited["authors"]] == [
        author["name"] for author in project["authors"]
    ]
    licence = (ROOT / "LICENSE").read_text()
    assert licence.startswith("MIT License\n")
    hub = list((ROOT / "studies/optunahub").rglob("LICENSE"))
    assert hub and all(path.read_text() == licence for path in hub)
    assert Path(lrtune.__file__).with_name("py.typed").exists()
