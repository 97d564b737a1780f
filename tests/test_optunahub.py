"""The packages for OptunaHub: in the registry's layout, loaded as it loads them, examples run."""

import re
import runpy
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState

import lrtune
from tests.test_readme import train, train_and_validate

ROOT = Path(__file__).parents[1] / "studies" / "optunahub" / "package"
SUPPLIED = {"train": train, "train_and_validate": train_and_validate}  # what their READMEs lack
PACKAGES = {
    "pruners/lrtune_schedule": ("SchedulePruner", "report", "suggest"),
    "samplers/lrtune_surrogate": ("Space", "SurrogateSampler", "suggest"),
}


def load(package: str) -> Any:
    import optunahub

    return optunahub.load_local_module(package, registry_root=str(ROOT))


def test_there_is_no_other_package() -> None:
    assert sorted(PACKAGES) == sorted(
        str(f.parent.relative_to(ROOT)) for f in ROOT.glob("*/*/*.md")
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_the_registry_loads_it(package: str) -> None:
    module = load(package)
    assert module.__all__ == list(PACKAGES[package])
    for name in PACKAGES[package]:
        assert getattr(module, name) is getattr(lrtune, name)


@pytest.mark.parametrize("package", PACKAGES)
def test_it_has_what_the_registry_asks_for(package: str) -> None:
    folder = ROOT / package
    assert {"LICENSE", "README.md", "__init__.py", "example.py"} <= {
        file.name for file in folder.iterdir()
    }
    assert (folder / "LICENSE").read_text().startswith("MIT License")
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    matter = yaml.safe_load(front)
    assert list(matter) == [
        "author", "title", "description", "tags", "optuna_versions", "license",
    ]  # fmt: skip
    assert package.partition("s/")[0] == matter["tags"][0]
    assert all(isinstance(item, str) for item in [*matter["tags"], *matter["optuna_versions"]])
    majors = {version.partition(".")[0] for version in matter["optuna_versions"]}
    assert optuna.__version__.partition(".")[0] in majors
    assert matter["license"] == "MIT License"
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == ["Abstract", "Class or Function Names", "Installation", "Example", "Others"]
    names = text.partition("## Class or Function Names")[2].partition("## Installation")[0]
    assert set(re.findall(r"^- `(\w+)\(", names, re.MULTILINE)) == set(PACKAGES[package])


@pytest.mark.parametrize("package", PACKAGES)
def test_the_example_in_its_readme_runs(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / package / "README.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert f'optunahub.load_module("{package}")' in block  # from the hub; here, from the folder
    monkeypatch.setattr("optunahub.load_module", load)
    names = dict[str, Any](SUPPLIED)
    exec(compile(block, "README", "exec"), names)
    states = {trial.state for trial in names["study"].trials}
    pruner = package.startswith("pruners")
    assert len(names["study"].trials) == (40 if pruner else 30)
    assert states == {TrialState.COMPLETE} | ({TrialState.PRUNED} if pruner else set())


@pytest.mark.parametrize("package", PACKAGES)
def test_its_example_runs(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(ROOT / package / "example.py"))
    study = example["main"](trials=20)
    assert f"best {study.best_value:.4f}" in capsys.readouterr().out
    if package.startswith("pruners"):
        pruned = study.get_trials(states=(TrialState.PRUNED,))
        assert pruned and all(trial.last_step < example["UPDATES"] for trial in pruned)
    else:  # the first proposals are of different families
        families = [trial.params["family"] for trial in study.trials]
        assert {*families[:3]} == {*families} == {*example["FAMILIES"]}
