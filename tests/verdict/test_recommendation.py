"""The answer: its lines and its warnings."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lrtune import Metric, Split, Task
from lrtune.schedule import Schedule
from lrtune.tasks.sanity_check import dummy_scores
from lrtune.verdict.recommendation import FEW_SEEDS, recommendation
from lrtune.verdict.settings import RunSettings
from lrtune.verdict.verdict import Verdict
from tests.documents import changed
from tests.reports.conftest import FEW, run_record, search
from tests.reports.test_finals_report import make

IGNORANT = {"val": {"cross_entropy": 2.3}, "test": {"cross_entropy": 2.3, "accuracy": 10.0}}
LINEAR = Schedule("linear", peak_lr=0.1)


@pytest.fixture(scope="module")
def many():
    """(trials, run) of a search over some families."""
    return search(FEW, 8), run_record(FEW)


def warned(trials: pd.DataFrame, run: RunSettings, found: Verdict | None = None) -> list[str]:
    answer = recommendation(trials, run, found)
    assert answer is not None
    return answer.warnings


def test_a_sound_run_is_not_warned_of(many) -> None:
    trials, run, found, _ = make("winner", *many)
    run = changed(run, dummy_scores=IGNORANT, range_test={"message": ""})
    assert warned(trials, run, found) == []
    assert warned(trials, run) == []


def test_the_lines_of_a_winner(many) -> None:
    trials, run, found, _ = make("winner", *many)
    answer = recommendation(trials, changed(run, elapsed=65.0, folder="runs/my run"), found)
    assert answer is not None
    labels, texts = zip(*answer.lines, strict=True)
    assert labels == ("", "Gain", "Sure", "Valid", "Cost", "Use it")
    best = found.families[0].family
    assert texts[0].startswith(f"Use {best}: peak ")
    (gain,) = [one for one in found.answer.gains if one.over == "constant"]
    assert "better than a tuned constant (95 %: " in answer.gain
    assert gain.low < gain.gain < gain.high
    assert "better than a tuned constant: yes (p < 0.001)" in answer.sure
    assert "3,600 updates" in answer.valid
    assert "1\u202fmin" in answer.cost and "(search " in answer.cost
    assert answer.use_it == "lrtune export 'runs/my run' --to torch"
    assert json.loads(json.dumps(answer.to_json()))["warnings"] == answer.warnings


def test_no_better_than_a_predictor_that_ignores_its_inputs(many) -> None:
    trials, run, found, _ = make("winner", *many)
    said = "No better than a predictor that ignores its inputs: cross-entropy "
    close = {"val": {"cross_entropy": 0.01}, "test": {"cross_entropy": 0.01}}
    for known in (None, found):
        assert warned(trials, changed(run, dummy_scores=close), known)[0].startswith(said)
    objective = run.metrics["accuracy"]
    upwards = changed(run, objective=objective, dummy_scores={"val": {"accuracy": 99.9}})
    scores = trials.assign(value=90.0)
    assert warned(scores, upwards)[0].startswith("No better than a predictor")


def test_a_short_an_unsure_and_a_cut_search(many) -> None:
    trials, run, found, _ = make("winner", *many)

    def said(text: str, known: Verdict | None = None, **change: object) -> bool:
        return any(w.startswith(text) for w in warned(trials, changed(run, **change), known))

    assert said("Hardly trained: 49 ", horizon=49) and not said("Hardly", horizon=50)
    unsure = {"message": "the loss never fell"}
    assert said("The range test was unsure: the loss never fell.", range_test=unsure)
    assert said("The budget ended before the search was over: ", cut=True)
    assert said("The budget ended before all was settled: ", found, cut=True)


@pytest.mark.parametrize("judge", ["last", "best"])
def test_overfitting(many, judge: str) -> None:
    trials, run = many
    curve = [1.5, 0.9, *[0.3] * 5, *np.linspace(0.3, 0.6, 13)]
    worse = trials[trials["state"] == "complete"].assign(judged_at=19)
    curves = {"val_cross_entropy": [curve] * len(worse), "step": [list(range(20))] * len(worse)}
    said = warned(worse.assign(**curves), changed(run, judge=judge))
    found = [w for w in said if w.startswith("Overfitting: ")]
    assert len(found) == (judge == "last")  # where the best checkpoint is judged, all is well
    if found:
        said = r"best after 2 of 3,600 updates, 0\.300\s?nats against 0\.600\s?nats at the end"
        assert re.search(said, found[0])


@pytest.mark.parametrize("place", ["tied", "winner"])
def test_few_seeds(many, place: str) -> None:
    """Where a few told all apart, more would tell nothing; one alone tells nothing apart."""
    trials, run, found, _ = make({"tied": "one seed", "winner": "winner"}[place], *many)
    best = found.recommended
    assert best.place == place and best.seeds < FEW_SEEDS
    assert any("Few trainings: " in w for w in warned(trials, run, found)) == (place == "tied")


# What a predictor scores that ignores its inputs.


def of(targets: torch.Tensor, **given: object) -> Task:
    split = Split(torch.zeros(len(targets), 2), targets)
    kept = {"name": "made", "train": split, "val": split, "test": split, "batch_size": 4}
    outputs = given.pop("outputs", 3)
    return Task(**kept, model=lambda: nn.Linear(2, outputs), epochs=8, **given)


def test_class_frequencies_and_the_mean() -> None:
    labels = torch.tensor([0] * 27 + [1] * 9)
    found = dummy_scores(of(labels, classes=3))
    frequencies = np.array([28, 10, 1]) / 39
    expected = -(27 * np.log(frequencies[0]) + 9 * np.log(frequencies[1])) / 36
    assert found["val"]["cross_entropy"] == pytest.approx(expected, rel=1e-6)
    assert found["test"]["accuracy"] == 0.75
    numbers = torch.tensor([[1.0], [2.0], [6.0], [3.0]] * 4)
    mse = Metric("mse", nn.functional.mse_loss, "minimize")
    found = dummy_scores(of(numbers, outputs=1, loss=nn.functional.mse_loss, metrics=(mse,)))
    assert found["val"]["mse"] == pytest.approx(float(numbers.var(correction=0)))


def test_a_metric_that_wants_another_form_is_left_out() -> None:
    def wants(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        if len(outputs) == len(targets) and not outputs.requires_grad and outputs.std(0).sum() == 0:
            raise ValueError("all alike")
        return 1.0

    labels = torch.tensor([0, 1, 2, 0] * 5)
    task = of(labels, classes=3)
    task = replace(task, metrics=(*task.metrics, Metric("own", wants, "maximize")))
    assert set(dummy_scores(task)["val"]) == {"cross_entropy", "accuracy"}
