"""What the README says is so."""

import math
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

import lrtune
from lrtune.cli import commands as cli
from lrtune.tasks import check_model
from tests.callbacks import trainings
from tests.test_notebook import confirmed

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FOLDER = "runs/digits-mlp-sgd-862"
optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_every_command_is_in_the_readme() -> None:
    names = [command.name or command.callback.__name__ for command in cli.app.registered_commands]
    assert len(names) == 13
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


BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
RUN: list[str] = []


def runs(marker: str) -> pytest.MarkDecorator:
    """Marks the test that is given the block with these words in it, and runs it."""
    (block,) = [block for block in BLOCKS if marker in block]
    RUN.append(block)
    return pytest.mark.parametrize("block", [block], ids=[marker])


def test_every_block_of_the_readme_is_run() -> None:
    assert sorted(RUN) == sorted(BLOCKS)


def executed(block: str, **names: Any) -> dict[str, Any]:
    """What a block defines, with the names it takes for granted."""
    exec(compile(block, "README", "exec"), names)
    return names


@runs("def make()")
def test_the_readmes_own_task_trains(block: str, tmp_path: Path) -> None:
    (tmp_path / "mytask.py").write_text(block)
    task = lrtune.load_task(f"{tmp_path}/mytask.py:make")
    assert task.name == "mine"
    assert check_model(task) > 0


@runs("lrtune.load(")
def test_the_readmes_training_loop_follows_the_schedule(block: str, run: Path) -> None:
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    used: list[float] = []
    optimizer.register_step_pre_hook(lambda *_: used.append(optimizer.param_groups[0]["lr"]))
    names = executed(
        block.replace(FOLDER, str(run)), optimizer=optimizer, steps=20, batches=range(20)
    )
    assert used == pytest.approx(names["schedule"].rates(20), rel=1e-12)


@runs("lrtune.open(")
def test_a_run_in_the_readmes_notebook(block: str, run: Path, tmp_path: Path) -> None:
    folder = confirmed(run, tmp_path)
    names = executed(block.replace(FOLDER, str(folder)))
    assert names["run"].folder == folder
    # What each line of the notebook shows.
    opened, lines, trials, best, wins = [eval(line, names) for line in block.splitlines()[3:]]
    assert lines[0].partition(" (")[0] in re.sub("<[^>]*>", "", opened._repr_html_())
    assert len(trials) == 8 and opened.finals().empty  # this one's verdict was made up
    assert isinstance(best, lrtune.Schedule) and wins.data
    assert "wins" in repr(opened.figures)


@runs("lrtune.register")
def test_the_readmes_own_shape(block: str) -> None:
    names = executed(block, __name__="readme")
    assert names["schedule"].rates(4) == pytest.approx([0.001, 0.05, 0.1, 0.05])


def train(schedule: lrtune.Schedule) -> float:
    """What the examples of a study take for granted."""
    return abs(schedule.rates(10).mean() - 0.1)


@runs("lrtune.SurrogateSampler")
def test_the_readmes_own_study(block: str) -> None:
    study = executed(block, train=train)["study"]
    assert len(study.trials) == 30
    assert study.best_value < 0.02


def train_and_validate(schedule: lrtune.Schedule) -> Iterator[tuple[int, float, float]]:
    """What the examples of the pruner take for granted."""
    rates = schedule.rates(1000)
    for step in range(50, 1001, 50):
        loss = abs(math.log10(schedule.peak_lr) + 1) + rates[step - 1] + 1 / step
        yield step, loss, loss - rates[step - 1] / 2


@runs("lrtune.SchedulePruner")
def test_the_readmes_own_study_with_our_pruner(block: str) -> None:
    study = executed(block, train_and_validate=train_and_validate)["study"]
    states = [trial.state.name for trial in study.trials]
    assert len(states) == 40 and {*states} == {"COMPLETE", "PRUNED"}


@runs("lrtune.callbacks.lightning")
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning")  # Lightning and torch
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_lightning_as_in_the_readme(block: str) -> None:
    from torch.utils.data import DataLoader

    trial, module = optuna.create_study().ask(), trainings.lightning_module()
    data = DataLoader(trainings.data(), 8)
    executed(
        block,
        lrtune=lrtune,
        trial=trial,
        Trainer=trainings.lightning_trainer,
        module=module,
        data=data,
        held_out=data,
    )
    followed(trial, module.rates)


@runs("lrtune.callbacks.huggingface")
def test_hugging_face_as_in_the_readme(block: str, tmp_path: Path) -> None:
    trial, used = optuna.create_study().ask(), list[float]()
    trainer = trainings.huggingface_trainer(tmp_path)
    trainer.create_optimizer().register_step_pre_hook(
        lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"])
    )
    executed(block, lrtune=lrtune, trial=trial, trainer=trainer)
    followed(trial, used)


def followed(trial: optuna.Trial, used: list[float]) -> None:
    """The trial's schedule was, and its averages were reported."""
    assert used == pytest.approx(trainings.expected(trial), rel=1e-12)
    stored = trainings.stored(trial)
    assert list(stored.intermediate_values) == [4, 8, 12]
    assert stored.user_attrs["lrtune.averaged"]


def inline(words: str) -> str:
    """The code in a line of the README that has these words."""
    (code,) = [code for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", README) if words in code]
    return code


def test_a_sequence_as_in_the_readme() -> None:
    first, second = lrtune.Schedule("linear", 0.1), lrtune.Schedule("cosine", 0.05)
    names = {"lrtune": lrtune, "first": first, "second": second}
    schedule = eval(inline('Schedule("sequence"'), names)
    assert schedule.rates(8) == pytest.approx([*first.rates(4), *second.rates(4)])


def test_the_options_of_early_stopping_are_in_the_readme() -> None:
    from lrtune.search import PRUNERS

    part = README[README.index("## Early stopping") : README.index("## Commands")]
    for option in ("pruner", "no-prune", "epsilon", "patience", "min-delta", "audit"):
        assert f"`--{option}" in part
    assert all(f"`{name}`" in part for name in PRUNERS)
    assert (ROOT / re.search(r"`(studies/\S+\.py)`", part)[1]).exists()


def test_the_package_names_what_the_readme_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for command in re.findall(r"pip install -e '?\.(\[\w+\])?", README):
        assert command.strip("[]") in {"", *project["optional-dependencies"]}
