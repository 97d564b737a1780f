"""What the README says is so."""

import math
import re
import tomllib
from pathlib import Path

import pytest

from lrtune import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_every_command_is_in_the_readme() -> None:
    names = [command.name or command.callback.__name__ for command in cli.app.registered_commands]
    assert len(names) == 12
    for name in names:
        assert f"lrtune {name.replace('_', '-')}" in README


def test_the_examples_of_the_help_are_of_its_command() -> None:
    shown = 0
    for command in cli.app.registered_commands:
        name = command.name or command.callback.__name__
        for line in (command.epilog or "").splitlines()[2:]:
            assert line.startswith(f"  lrtune {name.replace('_', '-')} ")
            shown += 1
    assert shown >= 10


def readme_block(word: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (block,) = [block for block in blocks if word in block]
    return block


def test_the_readmes_own_task_trains(tmp_path: Path) -> None:
    from lrtune import load_task

    (tmp_path / "mytask.py").write_text(readme_block("def make()"))
    task = load_task(f"{tmp_path}/mytask.py:make")
    assert task.name == "mine"
    assert task.check_model() > 0


def test_the_readmes_training_loop_follows_the_schedule(run: Path) -> None:
    import torch

    source = readme_block("lrtune.load").replace("runs/digits-mlp-sgd-718", str(run))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    used: list[float] = []
    optimizer.register_step_pre_hook(lambda *_: used.append(optimizer.param_groups[0]["lr"]))
    names: dict = {"optimizer": optimizer, "steps": 20, "batches": range(20)}
    exec(compile(source, "README", "exec"), names)
    assert used == pytest.approx(names["schedule"].rates(20), rel=1e-12)


def test_the_readmes_own_shape() -> None:
    names: dict = {"__name__": "readme"}
    exec(compile(readme_block("lrtune.register"), "README", "exec"), names)
    assert names["schedule"].rates(4) == pytest.approx([0.001, 0.05, 0.1, 0.05])


def test_the_readmes_own_study() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names: dict = {"train": lambda schedule: abs(schedule.rates(10).mean() - 0.1)}
    exec(compile(readme_block("lrtune.FamilySampler"), "README", "exec"), names)
    assert len(names["study"].trials) == 60
    assert names["study"].best_value < 0.02


def test_the_readmes_own_study_with_our_pruner() -> None:
    import optuna

    def train_and_validate(schedule):
        rates = schedule.rates(1000)
        for step in range(50, 1001, 50):
            loss = abs(math.log10(schedule.peak_lr) + 1) + rates[step - 1] + 1 / step
            yield step, loss, loss - rates[step - 1] / 2

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names: dict = {"train_and_validate": train_and_validate}
    exec(compile(readme_block("lrtune.SchedulePruner"), "README", "exec"), names)
    states = [trial.state.name for trial in names["study"].trials]
    assert len(states) == 40 and {*states} == {"COMPLETE", "PRUNED"}


def test_the_options_of_early_stopping_are_in_the_readme() -> None:
    from lrtune.search import PRUNERS

    part = README[README.index("## Early stopping") : README.index("## Commands")]
    for option in ("pruner", "no-prune", "epsilon", "patience", "min-delta", "audit"):
        assert f"`--{option}" in part
    assert all(f"`{name}`" in part for name in PRUNERS)
    assert (ROOT / re.search(r"`(studies/\S+\.py)`", part)[1]).exists()


def test_the_package_names_what_the_readme_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "png" in project["optional-dependencies"]
    for command in re.findall(r"pip install -e '?\.(\[\w+\])?", README):
        assert command.strip("[]") in {"", *project["optional-dependencies"]}
