import json
import math
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lrtune import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_search_from_a_study_file_with_an_option_on_top(lrtune, tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text(
        'task = "digits"\nepochs = 1\nfamilies = ["cosine", "wsd"]\ntrials = 2\n'
        f'peak_lr = [0.01, 0.2]\noptimizer = "adamw:weight_decay=0.1"\nout = "{tmp_path}/run"\n'
    )
    code, out, err = lrtune("search", study, "--trials", 3)
    assert (code, err) == (0, "")
    assert re.search(r"(winner|first of the tie): Schedule\(", out) and "report.html" in out
    settings = json.loads((tmp_path / "run" / "run.json").read_text())
    assert settings["optimizer"] == {"name": "adamw", "weight_decay": 0.1}
    assert settings["families"] == ["cosine", "wsd"]
    assert re.search(r"lrtune search .*study\.toml --trials 3", settings["command"])
    assert len((tmp_path / "run" / "journal.log").read_text().splitlines()) > 10


def test_early_stopping_as_it_was_asked_for(lrtune, tmp_path: Path) -> None:
    words = ["search", "digits", "--epochs", 1, "--trials", 2, "--families", "cosine,linear"]
    words += ["--peak-lr", "0.01,0.2", "--engine", "serial"]
    code, out, err = lrtune(*words, "--out", tmp_path / "off", "--no-prune")
    assert (code, err) == (0, "")
    assert "trials: 2 complete, 0 stalled, 0 pruned, 0 diverged, 0 failed\n" in out
    kept = json.loads((tmp_path / "off" / "run.json").read_text())["stopping"]
    assert (kept["pruner"], kept["patience"]) == ("none", 0)
    for curve in pd.read_parquet(tmp_path / "off" / "trials.parquet")["averaged"]:
        assert pd.isna(curve).all()  # nothing to look at it, so nothing is averaged
    assert "no pruner; no trial stalls" in (tmp_path / "off" / "report.html").read_text()
    given = {"pruner": "schedule", "epsilon": 0.1, "patience": 2, "min_delta": 0.01, "audit": 0.5}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    code, out, err = lrtune(*words, "--out", tmp_path / "on", *options)
    assert (code, err) == (0, "")
    assert json.loads((tmp_path / "on" / "run.json").read_text())["stopping"] == given
    code, out, err = lrtune(*words, "--out", tmp_path / "on")
    assert code == 2 and "was searched with stopping." in err


def test_the_study_files_that_we_ship_are_read(lrtune) -> None:
    from lrtune import InputError
    from lrtune.config import StudyFile, load, read_study
    from lrtune.options import validate

    files = sorted((ROOT / "studies").glob("*.toml"))
    assert len(files) > 5
    for path in files:
        study = validate(StudyFile, read_study(path), str(path))
        assert study.trials or study.updates or study.time
        try:
            task = load(study)
        except InputError as error:  # data that the user has to fetch
            assert path.stem.startswith(("cifar10", "shakespeare")), error
            assert re.search("not under data/|nor of digits", str(error))
        else:
            assert task.horizon > 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('task = "digits"\nmodle = "mlp"', "unknown key 'modle'; did you mean 'model'?"),
        ("epochs = 3", "task is missing"),
        ('task = "digits"\nepochs = "three"', "epochs='three'"),
        ('task = "digits"\ntrials = true', "trials=True"),
        ('task = "digits"\npeak_lr = [0.1]', "peak_lr"),
        ('task = "digits"\ntime = "10 parsecs"', "time='10 parsecs'"),
        ('task = "digits"\nfamilies = []', "families is empty"),
        ('task = "digits"\nmodel = "mpl"', "did you mean 'mlp'?"),
        ('task = "digits"\noptimizer = "sgd:momentun=0.9"', "did you mean 'momentum'?"),
        ('task = "digits"\noptimizer = "sgd:lr=0.1"', "peak_lr"),
        ('task = "digits"\ntrials = 1\nepochs = -1.0', "epochs=-1.0"),
        ('task = "digits"\nprunner = "none"', "did you mean 'pruner'?"),
        ('task = "digits"\npatience = 2.5', "patience=2.5: expected a whole number"),
        ('task = "digits"\nno_prune = true\npruner = "halving"', "leave out pruner"),
        ('task = "digits', "not a TOML file"),
        ("\udcff", "not a TOML file"),
    ],
)
def test_study_files_with_a_mistake(lrtune, tmp_path: Path, content: str, message: str) -> None:
    study = tmp_path / "study.toml"
    study.write_bytes(content.encode(errors="surrogateescape"))
    assert_mistake(lrtune("search", study, "--out", tmp_path / "run"), message)
    assert not (tmp_path / "run" / "journal.log").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search", "digit"], "did you mean 'digits'?"),
        (["search", "nowhere.toml"], "nowhere.toml: cannot be read"),
        (["search", "digits", "--families", "cosin"], "did you mean 'cosine'?"),
        (["search", "digits", "--families", "custom"], "no ranges to search"),
        (["search", "digits", "--families", ""], "family ''"),
        (["search", "digits", "--trials", "0"], "trials=0"),
        (["search", "digits", "--trials", "many"], "--trials"),
        (["search", "digits", "--nosuch", "1"], "--nosuch"),
        (["search"], "TASK"),
        (["search", "digits", "--seed", "-1"], "seed=-1"),
        (["search", "digits", "--epochs", "1e12"], "epochs=1000000000000.0"),
        (["search", "digits", "--out", ""], "out='.'"),
        (["search", "digits", "--model", ""], "model ''"),
        (["search", "digits", "--storage", "sqlite://"], "in memory"),
        (["preview", "cosine", "--total", str(10**12)], "total=1000000000000"),
        (["preview", "custom:function=os:getpid"], "register"),
        (["preview", "cosine", "--out", "nowhere/x.html"], "folder that exists"),
        (["range-test", "digits", "--out", "x.jpg"], ".html or .png"),
        (["search", "digits", "--updates", "-5"], "updates=-5"),
        (["search", "digits", "--epochs", "0"], "epochs=0.0"),
        (["search", "digits", "--epochs", "nan"], "epochs=nan"),
        (["search", "digits", "--peak-lr", "0.1"], "peak-lr='0.1'"),
        (["search", "digits", "--peak-lr", "0.2,0.1"], "the lower first"),
        (["search", "digits", "--device", "nosuch"], "device 'nosuch'"),
        (["search", "digits", "--engine", "fuse"], "engine 'fuse': one of auto, serial, fused"),
        (["search", "digits", "--slots", "0"], "slots=0: at least 1"),
        (["search", "digits", "--pruner", "medain"], "pruner 'medain': one of schedule, halving"),
        (["search", "digits", "--pruner", "medain"], "did you mean 'median'?"),
        (["search", "digits", "--epsilon", "0"], "epsilon=0.0: a probability"),
        (["search", "digits", "--epsilon", "1.5"], "epsilon=1.5"),
        (["search", "digits", "--epsilon", "nan"], "epsilon=nan"),
        (["search", "digits", "--epsilon", "small"], "--epsilon"),
        (["search", "digits", "--patience", "-1"], "patience=-1: a number of validations"),
        (["search", "digits", "--patience", "2.5"], "--patience"),
        (["search", "digits", "--min-delta", "1"], "min_delta=1.0: a share of the value"),
        (["search", "digits", "--min-delta", "-0.1"], "min_delta=-0.1"),
        (["search", "digits", "--min-delta", "nan"], "min_delta=nan"),
        (["search", "digits", "--audit", "3"], "audit=3.0: a share of the pruned trials"),
        (["search", "digits", "--audit", "nan"], "audit=nan"),
        (["search", "digits", "--no-prune", "--pruner", "median"], "no_prune: trains every trial"),
        (["search", "digits", "--no-prune", "--patience", "3"], "leave out patience"),
        (["search", "digits", "--pruner", "median", "--epsilon", "0.1"], "median takes none"),
        (["search", "digits", "--storage", "nosuch://x", "--trials", "1"], "nosuch://x"),
        (["families", "cosin"], "did you mean 'cosine'?"),
        (["preview", "cosin"], "did you mean 'cosine'?"),
        (["preview", "cosine:eta_mim=0.1"], "did you mean 'eta_min'?"),
        (["preview", "cosine:eta_min=2"], "eta_min=2"),
        (["preview", "cosine:peak_lr=nan"], "peak_lr"),
        (["preview", "cosine", "--total", "0"], "total=0"),
        (["preview", "cosine", "--total", "-3"], "total=-3"),
        (["preview", "cosine", "--out", "x.gif"], ".gif"),
        (["range-test", "digits", "--low", "1", "--high", "0.1"], "the lower first"),
        (["range-test", "digits", "--seeds", "0"], "seeds=0"),
        (["report", "nowhere"], "not a run"),
        (["dashboard", "nowhere"], "not a run"),
        (["export", "nowhere.json"], "cannot be read"),
    ],
)
def test_mistakes_on_the_command_line(
    lrtune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_mistake(lrtune(*words), message)


def assert_mistake(ended: tuple[int, str, str], message: str) -> None:
    code, _, err = ended
    assert code == 2
    assert message in err
    assert err.startswith("lrtune: ") and err.count("\n") == 1, err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 1, "schedule": {"format": 1, "family": "cos', "best.json"),
        ('{"format": 99, "schedule": {}}', "upgrade lrtune"),
        ('{"format": 1, "family": "constant", "peak_lr": 0.1}', "best.json"),
    ],
)
def test_a_best_json_that_cannot_be_used(
    lrtune, tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "best.json"
    path.write_text(content)
    assert_mistake(lrtune("export", path), message)


def test_export_prints_code_that_runs(lrtune, run: Path, tmp_path: Path) -> None:
    import torch

    code, out, _ = lrtune("export", run / "best.json", "--to", "torch", "--total", 50)
    assert code == 0
    namespace: dict = {}
    exec(compile(out, "exported", "exec"), namespace)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = namespace["make_scheduler"](optimizer)
    assert scheduler.get_last_lr()[0] > 0
    assert lrtune("export", run / "best.json", "--out", tmp_path / "made.py")[0] == 0
    assert "def make_scheduler" in (tmp_path / "made.py").read_text()


def test_a_schedule_alone_has_no_horizon(lrtune, run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.json"
    alone.write_text(json.dumps(json.loads((run / "best.json").read_text())["schedule"]))
    assert_mistake(lrtune("export", alone), "--total")
    assert lrtune("export", alone, "--total", 20)[0] == 0


def test_preview_draws(lrtune, run: Path, tmp_path: Path) -> None:
    code, out, _ = lrtune("preview", "cosine:warmup=0.2", run / "best.json", "plateau")
    assert code == 0
    assert out.count("└") == 3
    for name in ("x.html", "x.png"):
        assert lrtune("preview", "wsd", "step", "--out", tmp_path / name)[0] == 0
        assert (tmp_path / name).stat().st_size > 1000


def test_families_are_told(lrtune) -> None:
    from lrtune.schedule import FAMILIES

    _, out, _ = lrtune("families")
    for name, family in FAMILIES.items():
        assert name in out
        code, one, _ = lrtune("families", name)
        assert code == 0
        assert all(knob.name in one for knob in family.knobs)


def test_range_test_suggests(lrtune, tmp_path: Path) -> None:
    code, out, _ = lrtune("range-test", "digits", "--updates", 120, "--out", tmp_path / "r.html")
    assert code == 0
    assert re.search(r"base_lr +0\.00\d+", out) and "max_lr" in out
    assert (tmp_path / "r.html").exists()


def test_report_is_written_again(lrtune, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for name in ("report.html", "best.json", "trials.parquet"):
        (copy / name).unlink()
    assert lrtune("report", copy)[0] == 0
    assert (copy / "best.json").read_text() == (run / "best.json").read_text()
    assert (copy / "report.html").exists() and (copy / "trials.parquet").exists()


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM])
def test_dashboard_serves_the_study_and_ends(run: Path, ended_by: signal.Signals) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "lrtune.cli", "dashboard", str(run), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[0]
            assert url == f"http://127.0.0.1:{port}/"
            with urllib.request.urlopen(f"{url}api/studies", timeout=30) as answer:
                studies = json.loads(answer.read())["study_summaries"]
            assert [study["study_name"] for study in studies] == ["digits-mlp-sgd-72"]
            process.send_signal(ended_by)
            assert process.wait(timeout=30) == 0
        finally:
            process.terminate()  # leaving the block waits for it
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_ctrl_c_stops_a_search_and_the_same_command_goes_on(tmp_path: Path) -> None:
    words = ["search", "digits", "--epochs", "3", "--trials", "12", "--families", "cosine,linear"]
    words += ["--peak-lr", "0.01,0.1", "--no-confirm", "--out", str(tmp_path / "run")]
    command = [sys.executable, "-m", "lrtune.cli", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    journal = tmp_path / "run" / "journal.log"
    while not journal.exists() or len(journal.read_text().splitlines()) < 60:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "lrtune: stopped; a search goes on from here with the same command\n"

    before = pd.read_parquet(tmp_path / "run" / "trials.parquet")
    assert 0 < len(before) < 12
    subprocess.run(command, check=True, capture_output=True)
    after = pd.read_parquet(tmp_path / "run" / "trials.parquet")
    assert list(after["number"]) == list(range(12))
    np.testing.assert_array_equal(after["value"][: len(before)], before["value"])


def test_every_command_is_in_the_readme() -> None:
    names = [command.name or command.callback.__name__ for command in cli.app.registered_commands]
    assert len(names) == 10
    for name in names:
        assert f"lrtune {name.replace('_', '-')}" in README


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
