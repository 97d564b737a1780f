"""What the user gets wrong: exit code 2, and one line that says what and how to mend it."""

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import get_args

import pytest


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('task = "digits"\nmodle = "mlp"', "unknown key 'modle'; did you mean 'model'?"),
        ("epochs = 3", "task is missing"),
        ('task = "digits"\nepochs = "three"', "study.toml: epochs must be a number (got 'three')"),
        ('task = "digits"\npeak_lr = [0.1]', "peak_lr"),
        ('task = "digits"\ntime = "10 parsecs"', "such as 90s, 10m or 1h30m (got '10 parsecs')"),
        ('task = "digits"\nmodel = "mpl"', "did you mean 'mlp'?"),
        ('task = "digits"\noptimizer = "sgd:momentun=0.9"', "did you mean 'momentum'?"),
        ('task = "digits"\ntrials = 1\nepochs = -1.0', "epochs must be positive (got -1.0)"),
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


MISTAKES = (  # what is typed, and what is said
    ("search digit", "did you mean 'digits'?"),
    ("search nowhere.toml", "nowhere.toml: cannot be read"),
    ("search digits --families custom", "no ranges to search"),
    ("search digits --trials many", "--trials"),
    ("search digits --nosuch 1", "--nosuch"),
    ("search", "TASK"),
    ("search digits --seed -1", "--seed must be at least 0 and at most"),
    ("search digits --batch-size 32 --epochs 1e12", "epochs=1000000000000.0"),
    ("search digits --storage sqlite://", "in memory"),
    ("preview cosine --total 1000000000000", "total=1000000000000"),
    ("preview custom:function=os:getpid", "register"),
    ("search digits --batch-size 32 --epochs 0", "--epochs must be positive (got 0.0)"),
    ("search digits --peak-lr 0.1", "--peak-lr must be two numbers with a comma"),
    ("search digits --engine fuse", "did you mean 'fused'?"),
    ("search digits --pruner medain", "--pruner must be schedule, halving, hyper"),
    ("search digits --epsilon 0", "--epsilon must be above 0 and below 1 (got 0.0)"),
    ("search digits --patience -1", "--patience must be at least 0 (got -1)"),
    ("search digits --min-delta 1", "--min-delta must be at least 0 and below"),
    ("search digits --audit 3", "--audit must be at least 0 and at most 1"),
    ("search digits --pruner median --epsilon 0.1", "median takes none"),
    ("search digits --storage nosuch://x --trials 1", "nosuch://x"),
    ("search digits --judge frist", "--judge must be last or best (got 'frist')"),
    ("families cosin", "did you mean 'cosine'?"),
    ("preview cosine:eta_mim=0.1", "did you mean 'eta_min'?"),
    ("preview cosine:eta_min=2", "eta_min=2"),
    ("preview cosine:peak_lr=nan", "peak_lr"),
    ("preview cosine --total 0", "total=0"),
    ("range-test digits --low 1 --high 0.1", "the lower first"),
    ("range-test digits --seeds 0", "seeds=0"),
    ("report nowhere", "not a run"),
    ("export nowhere.json", "cannot be read"),
)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        *((line.split(), message) for line, message in MISTAKES),
        (["search", "digits", "--families", ""], "family ''"),
        (["search", "digits", "--out", ""], "out='': name a folder"),
        (["search", "digits", "--model", ""], "model ''"),
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


# What is wrong with these is told before data is read.
EARLY = {
    "--trials -5": "--trials must be positive (got -5)",
    "--device tpu": "device 'tpu': cpu, cuda",
    "--optimizer sdg": "did you mean 'sgd'?",
    "--optimizer sgd:momentun=0.9": "did you mean 'momentum'?",
    "--optimizer adagrad --families one_cycle --cycle-momentum": "adagrad has no momentum to cycle",
    "--metric acuracy": "did you mean 'accuracy'?",
    "--families cosin": "did you mean 'cosine'?",
    "--peak-lr 0.2,0.1": "the lower first",
    "--warmup 0.5,1": "two fractions in [0, 1)",
    "--augment flop": "did you mean 'flip'?",
    "--memory much": "memory='much'",
    "--time 10x": "(got '10x')",
    "--budget 3 --updates 9": "budget and updates: one of the two",
    "--baseline step:gama=0.1": "did you mean 'gamma'?",
    "--baseline step": "says no peak rate",
    "--no-prune --pruner median": "leave out pruner",
    "--hosts 4": "hosts=4: is of a cluster: give cluster too",
    "--num-gpus 0": "num_gpus=0.0: is of a cluster",
    "--lockstep": "lockstep=True: is of a cluster",
    "--cluster auto --device cpu": "device 'cpu' and cluster: one of the two",
    "--cluster ray://head:10001": "ray job submit -- lrtune search",
    "--cluster head": "cluster 'head': expected auto, or HOST:PORT",
    "--cluster auto --hosts 8 --slots 4": "slots=4: at least one for each of 8 hosts",
    "--cluster auto --num-gpus 2": "--num-gpus must be at least 0 and at most 1",
}


@pytest.mark.parametrize("words", EARLY)
def test_what_needs_no_data_is_told_before_they_are_read(
    lrtune, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setattr("lrtune.tasks.load_task", lambda *_, **__: pytest.fail("read the data"))
    assert_mistake(lrtune("search", "digits", *words.split()), EARLY[words])


@pytest.mark.parametrize(("found", "message"), [("", "lrtune[cluster]"), ("2.9.3", "ray>=2.49")])
def test_a_cluster_needs_a_ray_that_is_new_enough(
    lrtune, monkeypatch: pytest.MonkeyPatch, found: str, message: str
) -> None:
    def version(name: str) -> str:
        if not found:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr("lrtune.engine.devices.version", version)
    assert_mistake(lrtune("search", "digits", "--cluster", "auto"), message)


def test_no_cuda_device(lrtune) -> None:
    assert_mistake(lrtune("search", "digits", "--device", "cuda"), "No CUDA device found")


def test_words_of_a_study_file_are_those_of_the_tables() -> None:
    from lrtune.engine.choose import ENGINES
    from lrtune.run.study_file import StudyFile
    from lrtune.search import PRUNERS, Stopping
    from lrtune.search.storage import JUDGES

    tables = {"engine": ENGINES, "pruner": PRUNERS, "judge": JUDGES}
    for name, table in tables.items():
        assert get_args(StudyFile.model_fields[name].annotation) == tuple(table)
    for name in ("epsilon", "min_delta", "audit"):
        text = StudyFile.model_fields[name].description
        assert text.endswith(f"[{getattr(Stopping(), name):g}]")
