"""The examples that the README sends people to: each is searched, end to end."""

import math
import os
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.trial import TrialState

import lrtune
from lrtune.export import export
from lrtune.run.folder import Run
from lrtune.run.study_file import StudyFile, load, read_study
from lrtune.tasks.options import validate
from lrtune.verdict.best import read_best

EXAMPLES = Path(__file__).parents[1] / "studies" / "examples"
# Choosing the fastest engine would cost more than these trainings do.
TWO = {"families": ["cosine", "constant"], "peak_lr": (1e-3, 1e-2), "engine": "serial"}
TWO["budget"] = lrtune.Budget(trials=2)


def searched(name: str, folder: Path, epochs: float) -> Run:
    task = lrtune.load_task(f"{EXAMPLES / name}.py:make", epochs=epochs)
    return lrtune.tune(task, out=folder / name, **TWO)


def test_several_outputs(tmp_path: Path) -> None:
    run = searched("segmentation", tmp_path, epochs=2)
    assert run.settings.objective.name == "iou"
    best = run.trials()["value"].max()
    assert 0.5 < best < 1
    assert {"val_iou", "val_box_error"} <= set(run.trials().columns)


def test_a_regression_with_groups_of_its_own(tmp_path: Path) -> None:
    run = searched("regression", tmp_path, epochs=10)
    assert run.settings.task.groups == "groups"
    assert run.settings.task.loss == "HuberLoss()"
    trials = run.trials()
    assert trials["value"].min() < 55  # the mean alone is 66 points off
    assert run.settings.objective.unit == "points"


def test_layer_decay(tmp_path: Path) -> None:
    study = read_study(EXAMPLES / "layer_decay.toml") | {"epochs": 0.5}
    task = lrtune.load_task(study.pop("task"), **study)
    run = lrtune.tune(task, out=tmp_path / "run", **TWO)
    rows = {row.pattern or row.names[0]: row.ratio for row in run.settings.task.lr_ratios}
    assert rows["head"] == 2 and rows["0"] == 0.75**10 and rows["9"] == 0.75
    assert len(lrtune.tune(task, out=tmp_path / "run", **TWO).trials()) == 2  # it goes on
    schedule, best = read_best(tmp_path / "run" / "best.json")
    names: dict[str, Any] = {}
    exec(export(schedule, to="torch", total=10, optimizer=best.found_optimizer), names)
    groups = names["make_optimizer"](task.model()).param_groups
    assert {group["lr_ratio"] for group in groups} == {*rows.values()}


def test_an_optimizer_of_ones_own(tmp_path: Path) -> None:
    options = {"epochs": 3, "batch_size": 16, "optimizer": f"{EXAMPLES}/lion.py:lion"}
    run = lrtune.tune("digits", out=tmp_path / "lion", **options, **TWO | {"peak_lr": (1e-4, 1e-2)})
    assert run.settings.optimizer.name == "lion"
    assert run.settings.optimizer.settings["class"] == "Lion"
    assert run.trials()["value"].min() < 1 < math.log(10)


def test_fine_tuning_a_frozen_backbone(lrtune, tmp_path, monkeypatch):
    """The command of its docstring."""
    monkeypatch.chdir(tmp_path)
    example = runpy.run_path(str(EXAMPLES / "finetune.py"))
    example["main"]()
    (command,) = re.findall(r"^    lrtune (search .*)$", example["__doc__"], re.MULTILINE)
    short = "--batch-size 16 --trials 2 --families cosine,constant --peak-lr 0.01,0.1"
    code, out, _ = lrtune(f"{command} {short} --engine serial --no-confirm --out run")
    assert code == 0 and "features of the frozen backbone computed once: 1,024 numbers" in out
    run = Run(tmp_path / "run")
    assert run.settings.task.parameters == 1024 * 4 + 4  # the backbone does not count
    assert "computed once" in run.settings.features
    assert run.trials()["val_accuracy"].iloc[0][-1] > 0.5


SAID = ["decimal commas: price, units", "left out, another number in every row: or"]


@pytest.mark.parametrize(
    ("name", "constant", "notes"), [("sales", 1.2, SAID), ("reviews", 0.67, [])]
)
def test_tables_by_a_study_file(name, constant, notes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "tables.py"), run_name="__main__")
    study = validate(StudyFile, read_study(EXAMPLES / f"{name}.toml"), name)
    run = lrtune.tune(load(study), out=tmp_path / name, **TWO)
    said = "\n".join(run.settings.task.notes)
    assert all(note in said for note in notes), said
    assert run.trials()["value"].min() < 0.7 * constant


def test_weight_decay_is_tuned_with_the_schedule(tmp_path: Path) -> None:
    study = validate(StudyFile, read_study(EXAMPLES / "weight_decay.toml"), "weight_decay")
    budget = {"budget": lrtune.Budget(trials=10), "peak_lr": (1e-3, 1e-1)}
    run = lrtune.tune(load(study), tune=study.tune, out=tmp_path / "run", **TWO | budget)
    best = run.best()
    assert best is not None and best.settings["weight_decay"] > 0.1  # its own would be 0.01


SHAKESPEARE = Path(__file__).parents[2] / "shared" / "data" / "tinyshakespeare.txt"


@pytest.mark.parametrize("updates", [4, pytest.param(300, marks=pytest.mark.slow)])
def test_a_gpt2_with_muon_and_wsd_from_the_task_to_its_trainer(updates, tmp_path, request):
    """The exported code trains the model with the optimizer and the rates of the search."""
    from transformers import Trainer, TrainingArguments

    task = lrtune.load_task(f"{EXAMPLES / 'gpt2.py'}:make", epochs=0.05, optimizer="muon")
    if updates > task.horizon:
        if not SHAKESPEARE.exists():
            pytest.skip("Shakespeare is not there")
        text = torch.tensor(list(SHAKESPEARE.read_bytes()[:400_000])).view(-1, 50)
        splits = {"train": text[:7000], "val": text[7000:7500], "test": text[7500:]}
        data = {name: {"input_ids": rows, "labels": rows} for name, rows in splits.items()}
        task = replace(task, **data, epochs=updates * task.batch_size / 7000)
    assert task.horizon == updates
    wsd = TWO | {"families": ["wsd"]}
    best = lrtune.tune(task, out=tmp_path / "run", **wsd).best()
    assert best.family == "wsd"
    command, file = request.getfixturevalue("lrtune"), tmp_path / "code.py"
    assert command("export", tmp_path / "run", "--to", "huggingface", "--out", file)[0] == 0
    code = runpy.run_path(str(file))
    model, used = task.model(), list[float]()
    optimizer = code["make_optimizer"](model)
    optimizer.register_step_pre_hook(lambda *_: used.append(optimizer.param_groups[0]["lr"]))
    hidden = {id(p) for p in optimizer.param_groups[0]["params"]}
    assert hidden == {id(p) for n, p in model.named_parameters() if ".h." in n and p.dim() == 2}
    Trainer(
        model,
        TrainingArguments(
            str(tmp_path / "trainer"),
            max_steps=task.horizon,
            per_device_train_batch_size=task.batch_size,
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=[{"input_ids": row, "labels": row} for row in task.train.targets],
        optimizers=(optimizer, code["make_scheduler"](optimizer)),
    ).train()
    assert used == pytest.approx(list(best.rates(task.horizon)), rel=1e-12)


def test_a_bert_of_padding_loaders(tmp_path: Path) -> None:
    run = searched("bert", tmp_path, epochs=0.1)
    assert run.settings.task.loss == "model_loss" and run.settings.objective.name == "loss"
    assert {"val_loss", "val_accuracy"} <= set(run.trials().columns)


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a script finds its neighbours."""
    monkeypatch.syspath_prepend(EXAMPLES)


@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning")  # Lightning and torch
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.parametrize(
    ("name", "trials", "untrained", "trained"),
    [
        ("plain_optuna", 10, 2.3, 0.3),
        ("lightning_module", 10, 2.3, 1.0),
        ("huggingface_trainer", 8, 5.5, 3.5),
    ],
)
def test_the_pruner_in_a_study_of_ones_own(name, trials, untrained, trained, beside, capsys):
    example = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    study = example["main"](trials=trials)
    assert study.best_trial.last_step == example["UPDATES"]
    assert all("lrtune.averaged" in trial.user_attrs for trial in study.trials)
    pruned = study.get_trials(states=(TrialState.PRUNED,))
    for trial in pruned:
        assert trial.last_step < example["UPDATES"]
        decision = study.pruner.decisions[trial.number]
        assert decision.prune and decision.best > 0.999 * study.best_value
    assert pruned
    assert study.best_value < trained < untrained
    assert f"best {study.best_value:.4f}" in capsys.readouterr().out


def test_a_loop_in_float16_that_accumulates(beside, capsys):
    """It holds itself that the schedule has come as far as there were updates."""
    loss, skipped = runpy.run_path(str(EXAMPLES / "mixed_precision.py"))["main"]()
    assert loss < 0.5 and skipped > 0
    assert f"{skipped} of 100 updates were skipped" in capsys.readouterr().out


def test_what_ray_tune_runs_for_a_trial(beside: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Ray's processes."""
    example, losses = runpy.run_path(str(EXAMPLES / "ray_tune.py")), []
    monkeypatch.setattr(example["tune"], "report", lambda result: losses.append(result["loss"]))
    search = example["OptunaSearch"](example["SPACE"].define, "loss", "min")
    example["train"](search.suggest("a trial"))
    assert len(losses) == example["UPDATES"] // example["EVERY"]
    assert losses[-1] < losses[0] < 3


@pytest.mark.slow
def test_ray_tune_searches_the_space(tmp_path: Path) -> None:
    # Ray's raylet waits 15 seconds for its agents, whatever it is told (ray-project/ray#65983). On
    # a busy machine they may take longer, less so once their modules are compiled.
    for _ in range(2):
        run = subprocess.run(
            [sys.executable, str(EXAMPLES / "ray_tune.py")],
            cwd=tmp_path,
            env=os.environ | {"HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"},
            capture_output=True,
            text=True,
        )
        if "timed out during startup" not in run.stderr:
            break
    else:
        pytest.skip("Ray's own processes do not start within 15 seconds on this machine, or now")
    assert run.returncode == 0, run.stderr[-4000:]
    (best,) = re.findall(r"^best (\S+) with Schedule\(family='\w+'", run.stdout, re.MULTILINE)
    assert 0 < float(best) < 0.5  # an untrained network's is 2.3


def test_a_study_file_with_weights_that_decay_by_the_peak(lrtune: Any, tmp_path: Path) -> None:
    """Its engine is the fused one; what is exported decays likewise."""
    study, out = EXAMPLES / "decay_by_peak.toml", tmp_path / "run"
    options = f"--budget 9 --epochs 0.5 --engine fused --slots 2 --peak-lr 0.002,0.02 --out {out}"
    code, printed, errors = lrtune(f"search {study} {options}")
    assert code == 0, errors
    assert re.search(r"\nValid +adamw, .* weight decay 0.1 by the peak, batch 4", printed)
    code, source, _ = lrtune(f"export {out} --to torch")
    assert "optimizer.register_step_pre_hook(decay_weights)" in source
