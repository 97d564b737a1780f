"""The examples that the README sends people to: each is searched, end to end."""

import runpy
import sys
from pathlib import Path

import pytest
from optuna.trial import TrialState

import lrtune
from lrtune.run import Run

EXAMPLES = Path(__file__).parents[1] / "studies" / "examples"
TWO = {"families": ["cosine", "constant"], "peak_lr": (1e-3, 1e-2), "trials": 2}


def searched(name: str, folder: Path, epochs: float) -> Run:
    task = lrtune.load_task(f"{EXAMPLES / name}.py:make", epochs=epochs)
    return lrtune.tune(task, out=folder / name, **TWO)


def test_several_outputs(tmp_path: Path) -> None:
    run = searched("segmentation", tmp_path, epochs=2)
    assert run.settings["objective"]["name"] == "iou"
    best = run.trials()["value"].max()
    assert 0.5 < best < 1
    assert {"val_iou", "val_box_error"} <= set(run.trials().columns)


def test_a_regression_with_groups_of_its_own(tmp_path: Path) -> None:
    run = searched("regression", tmp_path, epochs=10)
    assert run.settings["task"]["groups"] == "groups"
    assert run.settings["task"]["loss"] == "HuberLoss()"
    trials = run.trials()
    assert trials["value"].min() < 55  # the mean alone is 66 points off
    assert run.settings["objective"]["unit"] == "points"


def test_fine_tuning_a_frozen_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(lrtune.InputError, match=r"backbone\.pt: make it first: python .*finetune"):
        lrtune.load_task(f"{EXAMPLES}/finetune.py:make")
    monkeypatch.setattr(sys, "argv", ["finetune.py", "backbone.pt"])
    runpy.run_path(str(EXAMPLES / "finetune.py"), run_name="__main__")
    losses = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert losses[-1] < losses[0]
    run = searched("finetune", tmp_path, epochs=4)
    head = 2 * 768 + 768 * 5 + 5  # batch norm and the linear layer: the backbone does not count
    assert run.settings["task"]["parameters"] == head
    assert run.trials()["val_accuracy"].iloc[0][-1] > 0.5


def test_the_pruner_in_a_study_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(EXAMPLES / "plain_optuna.py"))
    study = example["main"](trials=10)
    pruned = study.get_trials(states=(TrialState.PRUNED,))
    assert pruned
    assert all(trial.last_step < example["UPDATES"] for trial in pruned)
    for trial in pruned:
        decision = study.pruner.decisions[trial.number]
        assert decision.prune and decision.best > 0.999 * study.best_value
    assert study.best_value < 0.3  # an untrained network's is 2.3
    assert f"best {study.best_value:.4f}" in capsys.readouterr().out
