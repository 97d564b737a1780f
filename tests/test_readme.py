"""What README and guides say is so: every block of theirs runs, short."""

import math
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
import torchvision
import typer
import yaml
from PIL import Image

import lrtune as package
from lrtune.cli import commands as cli
from lrtune.run.study_file import StudyFile
from lrtune.tasks import check_model
from tests.callbacks import trainings

ROOT = Path(__file__).parents[1]
GUIDES = sorted((ROOT / "lrtune" / "guides").glob("*.md"))
DOCUMENTS = {path.stem.lower(): path for path in (ROOT / "README.md", *GUIDES)}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
RUN = "runs/digits-mlp-sgd-862"  # of every example
LONG, SHORT, BATCH = 100, 12, 32  # updates of a training: longer ones are made short


def text_of(name: str) -> str:
    return DOCUMENTS[name].read_text(encoding="utf-8")


def commands() -> dict[str, Any]:
    found = cli.app.registered_commands
    return {(one.name or one.callback.__name__).replace("_", "-"): one for one in found}


def test_every_command_and_guide_is_in_the_readme() -> None:
    readme = text_of("readme")
    assert all(f"`lrtune {name} " in readme for name in commands())
    assert all(f"[{path.stem}](lrtune/guides/{path.name})" in readme for path in GUIDES)
    assert len(readme.splitlines()) <= 250
    task = package.load_task("digits")
    assert RUN.endswith(f"{task.name}-{task.model_name}-{task.optimizer}-{task.horizon}")


def test_the_examples_of_the_help_are_of_its_command() -> None:
    lines = [
        (name, line)
        for name, command in commands().items()
        for line in (command.epilog or "").splitlines()[2:]
    ]
    assert len(lines) >= 10
    assert all(line.startswith(f"  lrtune {name} ") for name, line in lines)


def test_guides_are_listed_and_printed(lrtune) -> None:
    code, out, err = lrtune("guide")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == [path.stem for path in GUIDES]
    assert all(len(line.split()) > 3 for line in out.splitlines())
    assert lrtune("guide", "data") == (0, text_of("data"), "")
    code, out, err = lrtune("guide", "verdikt")
    assert (code, out) == (2, "") and "did you mean 'verdict'?" in err


def test_a_terminal_shows_a_guide_rendered(lrtune, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    terminal = Console(force_terminal=True, width=80)
    monkeypatch.setattr(cli, "console_of", lambda: terminal)
    code, out, err = lrtune("guide", "events")
    assert (code, err) == (0, "")
    assert "JSON lines" in out and "```" not in out and "## " not in out


def test_the_options_of_early_stopping_are_in_their_guide() -> None:
    from lrtune.search import PRUNERS

    guide = text_of("stopping")
    for option in ("pruner", "no-prune", "epsilon", "patience", "min-delta", "audit"):
        assert f"| `--{option}" in guide
    assert all(f"`{name}`" in guide for name in PRUNERS)


def test_the_events_guide_names_every_field() -> None:
    from lrtune.cli.events import FIELDS

    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", text_of("events"), re.MULTILINE))
    assert {name: rows[name] for name in FIELDS} == {
        name: ", ".join(fields.split()) for name, fields in FIELDS.items()
    }


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_a_document_points_to_is_there(name: str) -> None:
    text, folder = text_of(name), DOCUMENTS[name].parent
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (folder / link).exists(), link
    for path in re.findall(r"`((?:studies|scripts)/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path
    guides = re.findall(r"`lrtune guide ([a-z]\w+)`", text)
    assert {*guides} <= {path.stem for path in GUIDES}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in re.findall(r"pip install (?:-e )?'(?:\.|lrtune)\[(\w+)\]'", text):
        assert extra in extras["optional-dependencies"]


@pytest.fixture(scope="session")
def workspace(answered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data, files and runs that the documents speak of. Copy it, never write in it."""
    folder = tmp_path_factory.mktemp("documents")
    shutil.copytree(answered, folder / RUN)
    (folder / "studies").symlink_to(ROOT / "studies")
    (mytask,) = [block for kind, block in BLOCK.findall(text_of("data")) if "def make()" in block]
    (folder / "mytask.py").write_text(mytask)
    (folder / "book.txt").write_text(text_of("readme"))
    draws = np.random.default_rng(0)
    rooms, town = draws.integers(1, 6, 150), draws.choice(["north", "south"], 150)
    sales = pd.DataFrame({"rooms": rooms, "town": town, "price": rooms + draws.normal(size=150)})
    sales.to_csv(folder / "sales.csv", index=False)
    reviews = pd.DataFrame({"review": np.where(town == "north", "cold", "warm"), "happy": town})
    reviews.to_csv(folder / "reviews.csv", index=False)
    rates = package.Schedule("cosine", peak_lr=0.1).rates(100)
    pd.DataFrame({"step": range(100), "lr": rates}).to_csv(folder / "train_log.csv", index=False)
    for kind in ("cats", "dogs"):
        (folder / "path/to/images" / kind).mkdir(parents=True)
        for number in range(20):
            image = Image.fromarray(draws.integers(0, 256, (16, 16, 3), np.uint8))
            image.save(folder / "path/to/images" / kind / f"{number}.png")
    torch.save(torchvision.models.resnet18().state_dict(), folder / "weights.pt")
    return folder


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of a few updates; a search of the command of two trials and no confirmation."""
    from lrtune.run.tune import search
    from lrtune.tasks import load_task

    searches = iter(range(100))

    def short_task(what: str, **options: Any) -> package.Task:
        if options.pop("download", False):
            what = "digits"
        task = load_task(what, **options)
        if task.horizon <= LONG and task.batch_size <= BATCH:
            return task
        batch = min(task.batch_size, 8)
        return replace(task, batch_size=batch, epochs=SHORT * batch / task.train.samples)

    def short_search(study: StudyFile, *others: Any) -> Any:
        short = dict.fromkeys(("budget", "updates", "time")) | {"trials": 2, "no_confirm": True}
        short |= {"peak_lr": study.peak_lr or (0.01, 0.1), "out": f"runs/{next(searches)}"}
        short["engine"] = "serial" if study.engine == "auto" else study.engine
        return search(study.model_copy(update=short), *others)

    monkeypatch.setattr("lrtune.tasks.load_task", short_task)
    monkeypatch.setattr("lrtune.run.tune.search", short_search)


def train(schedule: package.Schedule) -> float:
    """What an objective of the documents takes for granted."""
    return abs(schedule.rates(10).mean() - 0.1)


def train_and_validate(schedule: package.Schedule) -> Iterator[tuple[int, float, float]]:
    """What the examples of the pruner take for granted."""
    rates = schedule.rates(1000)
    for step in range(50, 1001, 50):
        loss = abs(math.log10(schedule.peak_lr) + 1) + rates[step - 1] + 1 / step
        yield step, loss, loss - rates[step - 1] / 2


Names = dict[str, Any]


def loop() -> Names:
    """A training loop's; ``used`` are the rates of its updates."""
    optimizer, used = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0), list[float]()
    optimizer.register_step_pre_hook(lambda *_: used.append(optimizer.param_groups[0]["lr"]))
    return {"optimizer": optimizer, "steps": 20, "batches": range(20), "used": used}


def lightning() -> Names:
    trial, module = optuna.create_study().ask(), trainings.lightning_module()
    data = torch.utils.data.DataLoader(trainings.data(), 8)
    return {
        **{"lrtune": package, "trial": trial, "module": module, "used": module.rates},
        **{"Trainer": trainings.lightning_trainer, "data": data, "held_out": data},
    }


def huggingface() -> Names:
    used, trainer = list[float](), trainings.huggingface_trainer(Path("trainer"))
    trainer.create_optimizer().register_step_pre_hook(
        lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"])
    )
    trial = optuna.create_study().ask()
    return {"lrtune": package, "trial": trial, "trainer": trainer, "used": used}


def follows_the_trial(names: Names) -> None:
    """The trial's schedule was followed, and its averages were reported."""
    assert names["used"] == pytest.approx(trainings.expected(names["trial"]), rel=1e-12)
    stored = trainings.stored(names["trial"])
    assert list(stored.intermediate_values) == [4, 8, 12]
    assert stored.user_attrs["lrtune.averaged"]


def follows_the_schedule(names: Names) -> None:
    assert names["used"] == pytest.approx(names["schedule"].rates(20), rel=1e-12)


def has_trials(count: int, *states: str) -> Callable[[Names], None]:
    def check(names: Names) -> None:
        trials = names["study"].trials
        assert len(trials) == count and {trial.state.name for trial in trials} == {*states}

    return check


def has_rates(*rates: float) -> Callable[[Names], None]:
    return lambda names: np.testing.assert_allclose(names["schedule"].rates(4), rates)


def follows_one_after_the_other(names: Names) -> None:
    parts = [*names["first"].rates(4), *names["second"].rates(4)]
    np.testing.assert_allclose(names["both"].rates(8), parts)


def shows_the_run(names: Names) -> None:
    run = names["run"]
    assert len(run.trials()) and len(run.finals()) and run.figures()["curves"].data
    assert run.verdict().lines


# By words of a Python block: the names that it takes for granted, and what is so after it.
EXAMPLES: dict[str, tuple[Callable[[], Names], Callable[[Names], None]]] = {
    "scheduler.step()": (loop, follows_the_schedule),
    "scheduler = run.best()": (loop, lambda names: names["scheduler"].optimizer),
    "lrtune.open(": (dict, shows_the_run),
    "lrtune.SurrogateSampler(space, total": (lambda: {"train": train}, has_trials(30, "COMPLETE")),
    "lrtune.SchedulePruner": (
        lambda: {"train_and_validate": train_and_validate},
        has_trials(40, "COMPLETE", "PRUNED"),
    ),
    "callbacks.lightning": (lightning, follows_the_trial),
    "callbacks.huggingface": (huggingface, follows_the_trial),
    "OptunaSearch": (lambda: {"lrtune": package}, lambda names: names["schedule"].rates(10)),
    "GPT2LMHeadModel": (dict, lambda names: check_model(names["task"])),
    "lrtune.register": (lambda: {"__name__": "readme"}, has_rates(0.001, 0.05, 0.1, 0.05)),
    '"sequence"': (dict, follows_one_after_the_other),
}
INSTALLS = re.compile(r"(python3 -m venv|\.venv/bin/pip install|\.venv/bin/python -m pytest) ")


def execute(block: str) -> None:
    chosen = [both for words, both in EXAMPLES.items() if words in block] or [(dict, len)]
    for supply, check in chosen:
        names = supply()
        exec(compile(block, "block", "exec"), names)
        check(names)


def command(line: str, lrtune: Callable[..., tuple[int, str, str]]) -> None:
    """Run one command of a block; what is installed was so before."""
    words = shlex.split(line, comments=True)
    if not words or INSTALLS.match(line):
        return
    assert words[0].removeprefix(".venv/bin/") == "lrtune", line
    into = words.pop() if ">" in words else None
    code, out, err = lrtune("", *(word for word in words[1:] if word != ">"))
    assert code == 0, f"{line}: {err}"
    if into:
        Path(into).write_text(out)


def script(block: str) -> None:
    """A script for another machine: the shell can read it, and lrtune knows its commands."""
    subprocess.run(["bash", "-n"], input=block, text=True, check=True)
    for line in block.replace("\\\n", " ").splitlines():
        if (found := re.search(r"(^|-- +)lrtune (.+)", line)) is not None:
            understood(found[2])


def manifest(block: str) -> None:
    """A Kubernetes manifest, and the command in it."""
    (document,) = yaml.safe_load_all(block)
    program, _, rest = document["spec"]["entrypoint"].partition(" ")
    assert (document["kind"], program) == ("RayJob", "lrtune")
    understood(rest)


def understood(line: str) -> None:
    """A command has these options."""
    name, *words = shlex.split(line, comments=True)
    group = typer.main.get_command(cli.app)
    assert group.commands[name].make_context(name, words).params


# Blocks that run on machines that are not here.
ELSEWHERE: dict[str, Callable[[str], None]] = {"sh": script, "yaml": manifest}


def keys(block: str) -> None:
    """A study file's keys, and that its task is made of them."""
    from lrtune.run.study_file import load
    from lrtune.tasks.options import validate

    assert load(validate(StudyFile, tomllib.loads(block), "a study file")).horizon


@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning")  # Lightning and torch
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_block_runs(name, lrtune, short, workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(workspace, tmp_path / "here", symlinks=True))
    monkeypatch.setattr("lrtune.reports.dashboard.serve", lambda *_: None)
    blocks = BLOCK.findall(text_of(name))
    assert blocks and {kind for kind, _ in blocks} <= {"bash", "python", "toml", "text", *ELSEWHERE}
    for kind, block in blocks:
        if kind in ELSEWHERE:
            ELSEWHERE[kind](block)
        elif kind == "python":
            execute(block)
        elif kind == "toml":
            keys(block)
        elif kind == "bash":
            for line in block.replace("&&", "\n").splitlines():
                command(line.strip(), lrtune)


def test_the_terminal_answer_has_the_lines_of_an_answer() -> None:
    answer = next(block for kind, block in BLOCK.findall(text_of("readme")) if kind == "text")
    assert answer.startswith(("$ lrtune search digits", "Use "))
    for label in ("Use ", "Gain ", "Sure ", "Valid ", "Cost ", "Use it "):
        assert re.search(f"^{label}", answer, re.MULTILINE), label
    assert f"lrtune export {RUN}" in answer


def test_the_readmes_test_command_is_what_ci_runs() -> None:
    tests = "python -m pytest -q -n auto --dist worksteal"
    assert f".venv/bin/{tests}\n" in text_of("readme")
    assert f"\nCI_CHROMIUM=1 {tests}\n" in (ROOT / ".ci" / "run").read_text()
