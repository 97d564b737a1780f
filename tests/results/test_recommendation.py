"""The answer: its lines, its warnings, and what is recommended of a tie."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import lrtune
from lrtune import Metric, Plan, Split, Task
from lrtune.results.plan import Finalist
from lrtune.results.recommendation import as_json, recommendation
from lrtune.results.verdict import verdict
from lrtune.schedule import Schedule
from lrtune.tasks.ignorant import ignorant
from tests.results.test_finals_report import make
from tests.results.test_verdict import RUN, SEEDS, finals, searched

IGNORANT = {"val": {"cross_entropy": 2.3}, "test": {"cross_entropy": 2.3, "accuracy": 10.0}}


def warned(trials: pd.DataFrame, run: dict, found: dict | None = None) -> tuple[str, ...]:
    answer = recommendation(trials, run, found)
    assert answer is not None
    return answer.warnings


def test_a_sound_run_is_not_warned_of(many) -> None:
    trials, run, found, _ = make("winner", *many)
    run = {**run, "ignorant": IGNORANT, "range_test": {**run["range_test"], "message": ""}}
    assert warned(trials, run, found) == ()
    assert warned(trials, run) == ()


def test_the_lines_of_a_winner(many) -> None:
    trials, run, found, _ = make("winner", *many)
    answer = recommendation(trials, {**run, "elapsed": 65.0, "folder": "runs/my run"}, found)
    assert answer is not None
    labels, texts = zip(*answer.lines, strict=True)
    assert labels == ("", "Gain", "Sure", "Valid", "Cost", "Use it")
    best = found["families"][0]["family"]
    assert texts[0].startswith(f"Use {best}: peak ")
    (gain,) = [one for one in found["answer"]["gains"] if one["over"] == "constant"]
    assert "better than a tuned constant (95 %: " in answer.gain
    assert gain["low"] < gain["gain"] < gain["high"]
    assert "better than a tuned constant: yes (p < 0.001)" in answer.sure
    assert "3,600 updates" in answer.valid
    assert "1\u202fmin" in answer.cost and "(search " in answer.cost
    assert answer.use_it == "lrtune export 'runs/my run' --to torch"
    content = as_json(answer)
    assert content is not None and json.loads(json.dumps(content)) == content
    assert content["use"] == answer.use and content["warnings"] == list(answer.warnings)


def test_no_better_than_a_predictor_that_ignores_its_inputs(many) -> None:
    trials, run, found, _ = make("winner", *many)
    said = "No better than a predictor that ignores its inputs: cross-entropy "
    close = {"val": {"cross_entropy": 0.01}, "test": {"cross_entropy": 0.01}}
    for known in (None, found):
        assert warned(trials, {**run, "ignorant": close}, known)[0].startswith(said)
    objective = run["metrics"]["accuracy"]
    upwards = {**run, "objective": objective, "ignorant": {"val": {"accuracy": 99.9}}}
    scores = trials.assign(value=90.0)
    assert warned(scores, upwards)[0].startswith("No better than a predictor")


def test_hardly_trained(many) -> None:
    trials, run = many
    assert any(w.startswith("Hardly trained: 49 ") for w in warned(trials, {**run, "horizon": 49}))
    assert not any("Hardly" in w for w in warned(trials, {**run, "horizon": 50}))


@pytest.mark.parametrize("judge", ["last", "best"])
def test_overfitting(many, judge: str) -> None:
    trials, run = many
    run = {**run, "judge": judge}
    curve = [1.5, 0.9, *[0.3] * 5, *np.linspace(0.3, 0.6, 13)]
    worse = trials.assign(
        val_cross_entropy=[curve] * len(trials), step=[list(range(20))] * len(trials)
    )
    worse = worse[worse["state"] == "complete"].assign(judged_at=19)
    found = [w for w in warned(worse, run) if w.startswith("Overfitting: ")]
    assert len(found) == (judge == "last")  # where the best checkpoint is judged, all is well
    if found:
        said = r"best after 2 of 3,600 updates, 0\.300\s?nats against 0\.600\s?nats at the end"
        assert re.search(said, found[0])


def test_few_seeds(many) -> None:
    trials, run, found, _ = make("one seed", *many)
    assert any(w.startswith("Few trainings: 1 fresh seed ") for w in warned(trials, run, found))


def test_an_unsure_range_test_and_a_budget_that_ended(many) -> None:
    trials, run = many
    unsure = {**run, "range_test": {**run["range_test"], "message": "the seeds disagree"}}
    assert "The range test was unsure: the seeds disagree." in warned(trials, unsure)
    said = "The budget ended before the search was over: the same command with a larger one"
    assert any(w.startswith(said) for w in warned(trials, {**run, "cut": True}))


def judged(levels: dict[str, float], schedules: dict[str, Schedule], sd: float = 0.01) -> dict:
    table = finals(levels, sd=sd)
    table["schedule"] = [schedules[family].to_json() for family in table["family"]]
    who = [Finalist(family, schedules[family], 1, 0.3, "leader") for family in levels]
    return verdict(searched({0.1: 0.3}), table, who, RUN, SEEDS, Plan(seeds=5, max_seeds=5))


def test_of_a_tie_the_simplest_near_the_best_is_recommended() -> None:
    simple = Schedule("linear", peak_lr=0.1)
    knobs = {"ordinates": (0.1, 0.9, 1.0, 0.5, 0.001)}
    free = Schedule("spline", peak_lr=0.1, warmup=0.1, knobs=knobs)
    schedules = {"linear": simple, "spline": free}
    near = judged({"linear": 0.1001, "spline": 0.1}, schedules)
    assert near["answer"]["place"] == "tie" and near["answer"]["recommended"] == "linear"
    # Tied for want of seeds alone: too far from the best to be called as good.
    far = judged({"linear": 0.1, "spline": 0.09}, schedules, sd=0.012)
    gap = next(row["gap"] for row in far["families"] if row["family"] == "linear")
    assert far["answer"]["place"] == "tie" and gap > 0.004
    assert far["answer"]["recommended"] == "spline"


def test_nothing_is_recommended_where_all_was_lost() -> None:
    found = judged({"linear": math.nan}, {"linear": Schedule("linear", peak_lr=0.1)})
    assert found["answer"]["recommended"] is None and found["answer"]["gains"] == []


# What a predictor scores that ignores its inputs.


def of(targets: torch.Tensor, **given: object) -> Task:
    split = Split(torch.zeros(len(targets), 2), targets)
    kept = {"name": "made", "train": split, "val": split, "test": split, "batch_size": 4}
    outputs = given.pop("outputs", 3)
    return Task(**kept, model=lambda: nn.Linear(2, outputs), epochs=8, **given)


def test_class_frequencies_and_the_mean() -> None:
    labels = torch.tensor([0] * 27 + [1] * 9 + [2] * 0 + [0] * 0)
    found = ignorant(of(labels, classes=3))
    frequencies = np.array([28, 10, 1]) / 39
    expected = -(27 * np.log(frequencies[0]) + 9 * np.log(frequencies[1])) / 36
    assert found["val"]["cross_entropy"] == pytest.approx(expected, rel=1e-6)
    assert found["test"]["accuracy"] == 0.75
    numbers = torch.tensor([[1.0], [2.0], [6.0], [3.0]] * 4)
    mse = Metric("mse", nn.functional.mse_loss, "minimize")
    found = ignorant(of(numbers, outputs=1, loss=nn.functional.mse_loss, metrics=(mse,)))
    assert found["val"]["mse"] == pytest.approx(float(numbers.var(correction=0)))


def test_a_metric_that_wants_another_form_is_left_out() -> None:
    def wants(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        if len(outputs) == len(targets) and not outputs.requires_grad and outputs.std(0).sum() == 0:
            raise ValueError("all alike")
        return 1.0

    labels = torch.tensor([0, 1, 2, 0] * 5)
    task = of(labels, classes=3)
    task = replace(task, metrics=(*task.metrics, Metric("own", wants, "maximize")))
    assert set(ignorant(task)["val"]) == {"cross_entropy", "accuracy"}


def test_a_run_that_learns_nothing_says_so(tmp_path) -> None:
    """Labels that have nothing to do with the inputs."""
    generator = torch.Generator().manual_seed(0)
    parts = [
        Split(torch.randn(60, 2, generator=generator), torch.randint(3, (60,), generator=generator))
        for _ in range(3)
    ]
    task = Task(
        name="noise",
        train=parts[0],
        val=parts[1],
        test=parts[2],
        model=lambda: nn.Linear(2, 3),
        classes=3,
        batch_size=6,
        epochs=6,
    )
    run = lrtune.tune(
        task,
        trials=2,
        families=["constant"],
        peak_lr=(0.3, 1.0),
        out=tmp_path / "run",
        device="cpu",
        engine="serial",
    )
    answer = recommendation(run.trials(), run.told, None)
    assert answer is not None
    assert answer.warnings[0].startswith("No better than a predictor that ignores its inputs")
