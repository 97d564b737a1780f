import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]


def test_lrtune_alone_shows_its_commands(lrtune) -> None:
    code, out, err = lrtune()
    assert (code, err) == (0, "")
    from lrtune.cli import commands as cli

    for command in cli.app.registered_commands:
        name = (command.name or command.callback.__name__).replace("_", "-")
        assert re.search(rf"^  {name} +\w", out, re.MULTILINE), name
    assert lrtune("--help")[1] == out


def test_the_version_and_the_module(lrtune) -> None:
    from importlib.metadata import version

    assert lrtune("--version") == (0, f"lrtune {version('lrtune')}\n", "")
    command = [sys.executable, "-m", "lrtune", "families", "cosin"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "did you mean 'cosine'?" in ended.stderr


def test_compare_fits_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from lrtune.cli.result import print_comparison
    from lrtune.reports.compare import find_verdicts, table, wins

    narrow = Console(width=80, highlight=False, markup=False)
    rows = table(find_verdicts([ROOT / "studies" / "results"]))
    print_comparison(rows, narrow)
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines())
    first, second, *_ = rows[rows["task"].str.contains("cifar10-cnn")].to_dict("records")
    assert (first["place"], second["place"]) == ("winner", "behind")
    told = rf"{first['family']} +{first['mean']:.3g} +{second['family']} by {second['gap']:.3g}"
    assert re.search(rf"^cifar10-cnn-sgd, cnn, +{told} *$", out, re.MULTILINE)
    cosine = wins(rows).set_index("family").loc["cosine"]
    counts = " +".join(f"{cosine[name]:.0f}" for name in ("tasks", "wins", "ties", "losses"))
    assert re.search(rf"^cosine +{counts} +{cosine['mean_rank']:.3g} *$", out, re.MULTILINE)
    assert "…" not in out and "|" not in out


def test_search_from_a_study_file_with_an_option_on_top(lrtune, tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text(
        'task = "digits"\nbatch_size = 32\nepochs = 1\nfamilies = ["cosine", "wsd"]\ntrials = 2\n'
        'peak_lr = [0.01, 0.2]\njudge = "best"\noptimizer = "adamw:weight_decay=0.1"\n'
        f'out = "{tmp_path}/run"\n'
    )
    code, out, err = lrtune("search", study, "--trials", 3)
    assert (code, err) == (0, "")
    assert re.search(r"\nUse (cosine|wsd): peak ", out) and "report.html" in out
    settings = json.loads((tmp_path / "run" / "run.json").read_text())
    adamw = {"name": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "amsgrad": False}
    assert settings["optimizer"] == {**adamw, "weight_decay": 0.1}
    assert (settings["families"], settings["judge"]) == (["cosine", "wsd"], "best")
    assert re.search(r"lrtune search .*study\.toml --trials 3", settings["command"])
    assert len((tmp_path / "run" / "journal.log").read_text().splitlines()) > 10


def test_early_stopping_as_it_was_asked_for(lrtune, tmp_path: Path) -> None:
    words = ["search digits --batch-size 32 --epochs 1 --trials 2 --families cosine,linear"]
    words += ["--peak-lr", "0.01,0.2", "--engine", "serial"]
    code, out, err = lrtune(*words, "--out", tmp_path / "off", "--no-prune")
    assert (code, err) == (0, "")
    assert "trials: 2 complete, 0 plateaued, 0 pruned, 0 diverged, 0 failed\n" in out
    kept = json.loads((tmp_path / "off" / "run.json").read_text())["stopping"]
    assert (kept["pruner"], kept["patience"]) == ("none", 0)
    for curve in pd.read_parquet(tmp_path / "off" / "trials.parquet")["averaged"]:
        assert pd.isna(curve).all()  # nothing to look at it, so nothing is averaged
    given = {"pruner": "schedule", "epsilon": 0.1, "patience": 2, "min_delta": 0.01, "audit": 0.5}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    code, out, err = lrtune(*words, "--out", tmp_path / "on", *options)
    assert (code, err) == (0, "")
    assert json.loads((tmp_path / "on" / "run.json").read_text())["stopping"] == given
    code, out, err = lrtune(*words, "--out", tmp_path / "on")
    assert code == 2 and "was searched with stopping." in err


def test_the_study_files_that_we_ship_are_read() -> None:
    from lrtune.run.study_file import StudyFile, check, read_study
    from lrtune.tasks.options import validate

    for path in (ROOT / "studies").glob("*.toml"):
        study = validate(StudyFile, read_study(path), str(path))
        check(study)
        assert study.budget or study.time


def test_export_names_its_targets_and_writes_each(lrtune, run: Path) -> None:
    from lrtune.export import EXPORTERS, TABLES

    best = json.loads((run / "best.json").read_text())
    trained = "# The peak rate holds for sgd, momentum 0.9, weight decay 0, batch 32, "
    found = f"\n# Found by trial {best['found']['trial']} of {best['study']}: digits"
    _, told, _ = lrtune("export", "--help")
    for target in EXPORTERS:
        assert re.search(rf"\b{target}\b", told)
        code, out, err = lrtune("export", run / "best.json", "--to", target, "--total", 50)
        assert (code, err) == (0, "") and "50" in out
        code_of_it = target not in TABLES
        assert out.startswith(f"{trained}{best['horizon']} updates.\n") == code_of_it
        assert (found in out) == code_of_it
        assert target != "csv" or len(out.splitlines()) == 51
    code, _, err = lrtune("export", run / "best.json", "--to", "tensorflow")
    assert code == 2 and "export target 'tensorflow' is unknown: one of torch, lightning" in err


def test_export_of_a_runs_folder_is_that_of_its_best_json(lrtune, run: Path, tmp_path) -> None:
    from torch import nn

    code, out, err = lrtune("export", run / "best.json", "--to", "torch")
    assert lrtune("export", run, "--to", "pytorch") == (code, out, err) == (0, out, "")
    assert lrtune("export", run, "--out", tmp_path / "made.py")[0] == 0
    assert (tmp_path / "made.py").read_text() == out
    journal = (run / "journal.log").read_bytes()
    code, _, err = lrtune("export", run, "--out", run / "journal.log")
    assert code == 2 and "a file of the run: give another file" in err
    assert (run / "journal.log").read_bytes() == journal
    code, _, err = lrtune("export", tmp_path)
    assert code == 2 and f"{tmp_path}: has no best.json: give the folder of a run" in err
    names: dict = {}
    exec(compile(lrtune("export", run, "--to", "lightning")[1], "exported", "exec"), names)
    optimizer = names["configure_optimizers"](nn.Linear(2, 2))["optimizer"]
    searched = json.loads((run / "run.json").read_text())["optimizer"]
    assert searched.pop("name") == type(optimizer).__name__.lower() == "sgd"
    assert searched.items() <= optimizer.defaults.items()


def test_export_replays_the_rates_of_a_closed_loop(lrtune, run: Path, tmp_path: Path) -> None:
    words = ["search digits --batch-size 32 --epochs 2 --trials 2 --families plateau"]
    words += ["--engine", "serial", "--no-confirm", "--no-prune", "--out", tmp_path / "run"]
    assert lrtune(*words)[0] == 0
    best = tmp_path / "run" / "best.json"
    code, _, err = lrtune("export", best, "--to", "csv")
    assert code == 2 and "cannot hold plateau" in err and "--replay" in err
    code, out, _ = lrtune("export", best, "--to", "csv", "--replay")
    rates = [float(line.split(",")[1]) for line in out.splitlines()[1:]]
    trials = pd.read_parquet(tmp_path / "run" / "trials.parquet").set_index("number")
    trial = trials.loc[json.loads(best.read_text())["found"]["trial"]]
    assert len(rates) == trial["step"][-1]
    assert [rates[step - 1] for step in trial["step"]] == trial["rate"].tolist()
    alone = tmp_path / "best.json"
    shutil.copy(best, alone)
    code, _, err = lrtune("export", alone, "--replay")
    assert code == 2 and "trials.parquet: not there" in err
    code, _, err = lrtune("export", run / "best.json", "--replay")
    assert code == 2 and "leave out --replay" in err


def test_preview_draws(lrtune, run: Path) -> None:
    code, out, _ = lrtune("preview", "cosine:warmup=0.2", run / "best.json", "plateau")
    assert code == 0
    drawn = [line for line in out.splitlines() if "█" in line]
    assert len(drawn) == 3 and "cosine: peak" in drawn[0]
    assert "plateau: peak 0.1, factor 0.1" in drawn[2]


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
    assert re.search(r"base_lr +0\.0\d+", out) and "max_lr" in out and "peak_lr" in out
    assert (tmp_path / "r.html").exists()


def test_report_is_written_again(lrtune, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for name in ("report.html", "best.json", "trials.parquet"):
        (copy / name).unlink()
    assert lrtune("report", copy)[0] == 0
    assert (copy / "best.json").read_text() == (run / "best.json").read_text()
    assert (copy / "report.html").exists() and (copy / "trials.parquet").exists()


def test_ctrl_c_stops_a_search_and_the_same_command_goes_on(tmp_path: Path) -> None:
    words = shlex.split("search digits --batch-size 32 --epochs 3 --trials 12")
    words += ["--families", "cosine,linear"]
    words += ["--peak-lr", "0.01,0.1", "--no-confirm", "--out", str(tmp_path / "run")]
    command = [sys.executable, "-m", "lrtune", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    journal = tmp_path / "run" / "journal.log"
    while not journal.exists() or len(journal.read_text().splitlines()) < 60:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    ours = [line for line in err.splitlines() if line.startswith("lrtune")]
    assert ours == ["lrtune: stopped; a search goes on from here with the same command"]
    assert "Traceback" not in err  # torch's compiler has its own words, on Python 3.13.0 say

    before = pd.read_parquet(tmp_path / "run" / "trials.parquet")
    assert 0 < len(before) < 12
    subprocess.run(command, check=True, capture_output=True)
    after = pd.read_parquet(tmp_path / "run" / "trials.parquet")
    assert list(after["number"]) == list(range(12))
    # Side by side, a later one may have ended before the one that was cut short.
    same = after.set_index("number").loc[before["number"], ["state", "value"]]
    pd.testing.assert_frame_equal(same.reset_index(), before[["number", "state", "value"]])


def test_a_full_memory_is_told_in_a_sentence(lrtune, monkeypatch) -> None:
    def full(**_: object) -> None:
        raise MemoryError("cuda:1: CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr("lrtune.cli.commands.app", full)
    code, out, err = lrtune("search", "digits")
    assert (code, out) == (1, "")
    assert err == (
        "lrtune: out of memory: cuda:1: CUDA out of memory. Tried to allocate 2 GiB: the same "
        "command again goes on where a search stopped; fewer --slots or a smaller --batch-size "
        "need less\n"
    )


def test_a_bug_keeps_its_traceback(lrtune, monkeypatch) -> None:
    monkeypatch.setattr("lrtune.cli.commands.app", lambda **_: {}["bug"])
    with pytest.raises(KeyError, match="bug"):
        lrtune("families")


def test_a_broken_installation_is_told_in_a_sentence(lrtune, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.markdown", None)
    code, _, err = lrtune("guide")
    assert code == 1 and err.count("\n") == 1
    assert err.startswith("lrtune: rich.markdown cannot be imported (")


LEAVING = """
import sys

import torch
from torch.nn import functional as F

import lrtune


calls = []


def loss(outputs, targets):
    calls.append(0)
    if len(calls) > 99:
        sys.exit(3)  # doctor's code
    return F.cross_entropy(outputs, targets)


def make():
    split = lrtune.Split(torch.randn(64, 4), torch.randint(0, 2, (64,)))
    model = lambda: torch.nn.Linear(4, 2)
    return lrtune.Task(name="leaving", train=split, val=split, model=model, loss=loss, batch_size=8)
"""


def test_a_loss_that_ends_the_process_is_named(lrtune, tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(LEAVING)
    words = ["--trials", 2, "--peak-lr", "0.1,1", "--engine", "serial", "--out", tmp_path / "run"]
    code, _, err = lrtune("search", f"{tmp_path}/task.py:make", *words)
    assert code == 1
    assert "task.py, line 16: sys.exit(3) ended the search" in err


@pytest.mark.parametrize("how", [[], pytest.param(["--json"], marks=pytest.mark.slow)])
def test_a_search_goes_on_where_nobody_reads_what_it_prints(how: list[str], tmp_path: Path) -> None:
    """``| head -1``."""
    words = "search digits --epochs 1 --trials 2 --families constant --peak-lr 0.01,0.1"
    words += f" --batch-size 64 --no-confirm --out {tmp_path}/run"
    command = [sys.executable, "-m", "lrtune", *words.split(), *how]
    reads, writes = os.pipe()
    process = subprocess.Popen(command, stdout=writes, stderr=subprocess.PIPE, text=True)
    os.close(writes)
    os.read(reads, 1)
    os.close(reads)
    _, err = process.communicate()
    assert process.returncode == 0 and "roken" not in err
    assert len(pd.read_parquet(tmp_path / "run" / "trials.parquet")) == 2
