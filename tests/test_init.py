"""The package itself: names load on first use, and nothing else happens."""

import ast
import builtins
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import optuna
import pytest
import yaml

import lrtune

ROOT = Path(__file__).parents[1]


def ended(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_a_star_leaves_the_builtins_alone() -> None:
    names: dict[str, object] = {}
    exec("from lrtune import *", names)
    assert "tune" in names and not set(names) & {*dir(builtins)} - {"__builtins__", "__doc__"}
    assert lrtune.open is not builtins.open


def test_the_names_that_a_person_sees_are_the_public_ones() -> None:
    assert dir(lrtune) == sorted([*lrtune.__all__, "open"])
    for name in dir(lrtune):
        assert name == "FAMILIES" or getattr(lrtune, name).__module__.startswith("lrtune.")
    assert lrtune.__version__ == version("lrtune")
    with pytest.raises(AttributeError, match="no attribute 'cli_of'"):
        lrtune.cli_of  # noqa: B018


def test_type_checkers_see_the_same_names() -> None:
    """What they read is under TYPE_CHECKING: the same names, from where they are loaded."""
    tree = ast.parse(Path(lrtune.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert sorted(seen) == dir(lrtune)
    for name, module in seen.items():
        assert getattr(lrtune, name) is getattr(import_module(module), name)


@pytest.mark.slow
def test_mypy_knows_the_types_of_an_installed_lrtune(tmp_path: Path) -> None:
    script = tmp_path / "theirs.py"
    script.write_text("import lrtune\nreveal_type(lrtune.tune)\nlrtune.tune('x', out=5)\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", script]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path).stdout
    assert "-> lrtune.run.folder.Run" in said and 'incompatible type "int"' in said


TASK = lrtune.load_task("digits", batch_size=32, epochs=2)
TRIAL = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
WRONG = {
    "trial must be an Optuna trial": lambda run: lrtune.suggest("trial"),
    "families must be a list of names": lambda run: lrtune.suggest(TRIAL, families="cosine"),
    "families must be a list of names .got 3": lambda run: lrtune.suggest(TRIAL, families=3),
    "each of families must be a name": lambda run: lrtune.suggest(TRIAL, families=[1]),
    "peak_lr=0.1: expected two rates": lambda run: lrtune.suggest(TRIAL, peak_lr=0.1),
    "warmup=.0.1,.: expected two fractions": lambda run: lrtune.suggest(TRIAL, warmup=(0.1,)),
    "warmup=..0., .1..: expected two fractions": lambda run: lrtune.suggest(
        TRIAL, warmup=("0", "1")
    ),
    "task must be the lrtune.Task": lambda run: lrtune.confirm("run", "digits"),
    "run must be a run or its folder": lambda run: lrtune.confirm(3, TASK),
    "plan must be an lrtune.Plan": lambda run: lrtune.confirm("run", TASK, plan=5),
    "trainings must be a number": lambda run: lrtune.confirm("run", TASK, trainings="5"),
    "trainings must be positive .got 0": lambda run: lrtune.confirm("run", TASK, trainings=0),
    "baselines must be a list": lambda run: lrtune.confirm(run, TASK, baselines="step"),
    "each of baselines must be an lrtune.Sch": lambda run: lrtune.confirm(
        run, TASK, baselines=["s"]
    ),
    "engine must be an lrtune.Engine .got .fused": lambda run: lrtune.confirm(
        run, TASK, engine="fused"
    ),
    "task must be an lrtune.Task or a string": lambda run: lrtune.tune(5),
    "batch_size: is of the task, .* give it to the Task": lambda run: lrtune.tune(
        TASK, batch_size=5
    ),
    "unknown argument 'warm_up'; did you mean 'warmup'": lambda run: lrtune.tune(TASK, warm_up=5),
    "trials: belongs to an object: budget=Budget": lambda run: lrtune.tune(TASK, trials=5),
    "unknown argument 'optimiser'; did you mean 'optimizer'": lambda run: lrtune.tune(
        "digits", optimiser="sgd"
    ),
    "trials must be a number": lambda run: lrtune.tune(TASK, budget=lrtune.Budget(trials="5")),
    "trainings must be positive .got -1": lambda run: lrtune.tune(TASK, budget=-1),
    "slots=0: at least 1": lambda run: lrtune.Engine(slots=0),
    "engine must be an lrtune.Engine": lambda run: lrtune.tune(TASK, engine=3),
    "stopping must be an lrtune.Stopping": lambda run: lrtune.tune(TASK, stopping="none"),
    "time must be a number and a unit": lambda run: lrtune.tune(TASK, time="soon"),
    "time: the budget is a Budget": lambda run: lrtune.tune(
        TASK, time="1m", budget=lrtune.Budget(3)
    ),
    "trainings and updates say the same": lambda run: lrtune.Budget(trainings=3, updates=60),
    "plan must be an lrtune.Plan, or None": lambda run: lrtune.tune(TASK, plan="quick"),
}


@pytest.mark.parametrize("said", WRONG)
def test_wrong_arguments_are_input_errors(said: str, run: Path) -> None:
    with pytest.raises(lrtune.InputError, match=said):
        WRONG[said](run)


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
    assert ended(code).stderr.count("UserWarning: shown once") == 1


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
