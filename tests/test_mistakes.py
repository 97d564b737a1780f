"""What the user gets wrong: exit code 2, and one line that says what and how to mend it."""

import json
from pathlib import Path

import pytest


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
        (["export", "nowhere.json", "--replay"], "cannot be read"),
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


def test_a_schedule_alone_has_no_horizon(lrtune, run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.json"
    alone.write_text(json.dumps(json.loads((run / "best.json").read_text())["schedule"]))
    assert_mistake(lrtune("export", alone), "--total")
    assert lrtune("export", alone, "--total", 20)[0] == 0
