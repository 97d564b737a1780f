"""What is tuned with the schedule, from the command to the exported code."""

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch

import lrtune
from lrtune import InputError
from lrtune.engine import SerialPool
from lrtune.export import FoundOptimizer, export
from lrtune.model.surrogate import PeakGuess
from lrtune.model.transfer import published
from lrtune.schedule import Schedule, Setting
from lrtune.schedule.setting import changed
from lrtune.search import Space, SurrogateSampler
from lrtune.search.sampler import HEDGED, Tuner
from lrtune.search.space import SCHEDULE
from lrtune.search.trials import tuned_on
from lrtune.verdict.best import BestSchedule
from lrtune.verdict.recommendation import recommendation
from lrtune.verdict.settings import TaskFacts, TuneFacts
from tests.documents import TASK

RANGES = {"weight_decay": (1e-3, 1.0), "beta1": (0.8, 0.99), "label_smoothing": (0.0, 0.2)}
DECAY = Setting("weight_decay", 1e-3, 1.0, own=0.01)
MOMENTUM = Setting("momentum", 0.8, 0.99, own=0.5)  # out of the range
SPACE = Space(("cosine", "linear"), (1e-3, 1.0), tune=(DECAY, MOMENTUM))


@pytest.fixture(scope="module")
def task() -> lrtune.Task:
    return lrtune.load_task("digits", batch_size=64, epochs=1, optimizer="adamw")


def test_a_space_has_them_for_every_family() -> None:
    params = {"family": "cosine", **SPACE.defaults("cosine"), "cosine.peak_lr": 0.1}
    params |= {"cosine.warmup": 0.0, **SPACE.start}
    assert SPACE.contains(params)
    schedule = SPACE.schedule(params)
    # The task's own value is no setting; what is as near to it as the range reaches is one.
    assert schedule.settings == pytest.approx({"momentum": 0.8})
    assert (
        SPACE.places(Schedule("linear", 0.1)) == SPACE.places(schedule) == pytest.approx([1 / 3, 1])
    )
    high = Schedule("linear", 0.1, settings={"weight_decay": 1.0, "momentum": 0.99})
    assert SPACE.places(high) == pytest.approx([1, 0])


def test_the_search_finds_what_goes_with_the_schedule_and_keeps_no_idle_setting() -> None:
    """A weight decay of 0.3 is best, and momentum is without effect."""
    study = optuna.create_study(sampler=SurrogateSampler(SPACE, 100, seed=0))
    for number in range(24):
        trial = study.ask()
        schedule = lrtune.search.space.suggest_from(SPACE, trial)
        trial.set_user_attr(SCHEDULE, schedule.to_json())
        own = {name: trial.params[name] for name in SPACE.beside}
        assert number >= HEDGED or own == SPACE.start
        decay = schedule.settings.get("weight_decay", DECAY.own)
        loss = abs(np.log10(schedule.peak_lr / 0.05)) + abs(np.log10(decay / 0.3))
        trial.report(loss, 100)
        study.tell(trial, loss)
    assert study.best_value < 0.3
    tuner = Tuner(study, SPACE, 100, PeakGuess(np.log(0.05), 1.0), published())
    best = Schedule.from_json(study.best_trial.user_attrs[SCHEDULE])
    assert best.settings["weight_decay"] == pytest.approx(0.3, rel=1)
    assert not tuner.tuned("linear").settings
    # Of the task's own momentum, out of the range, no trial tells anything.
    assert tuner.plain(best, most=100.0).settings.keys() == {"momentum"}
    off = Schedule(best.family, best.peak_lr, settings={"weight_decay": 1e-3})
    assert tuner.expected([off]) > tuner.expected([best])


def test_a_run(task: lrtune.Task, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"families": ["cosine", "linear"], "peak_lr": (1e-3, 1e-1)}
    arguments |= {"out": tmp_path, "stopping": lrtune.Stopping("none", patience=0)}
    arguments |= {"engine": lrtune.Engine("serial", slots=2), "listener": lrtune.Listener()}
    run = lrtune.tune(task, budget=lrtune.Budget(trials=8), tune=RANGES, **arguments)
    assert run.space.tune[0] == Setting("weight_decay", *RANGES["weight_decay"], own=0.01)
    trials = run.trials()
    tuned = trials[trials["schedule"].str.contains("settings")]
    assert 1 <= len(tuned) <= len(trials) - HEDGED
    for row in tuned.itertuples():
        schedule = Schedule.from_json(row.schedule)
        assert schedule.settings.keys() <= RANGES.keys()
        pool = SerialPool(task)
        pool.start(0, schedule.rates(task.horizon), 0, None, tuned_on(task, schedule))
        while (progress := pool.advance()[0]).update < task.horizon:
            pass
        assert progress.metrics["cross_entropy"] == row.value
    answer = recommendation(tuned, run.settings, None)
    best = BestSchedule.of(tuned, run.settings, None)
    assert answer is not None and best is not None
    for name, value in best.schedule.settings.items():
        assert f"{name} {value:.3g}" in answer.use
        assert f"{name}={value:.6g}" in best.comments
    optimizer = changed(best.optimizer.settings, best.schedule.settings)
    assert optimizer.items() <= best.optimizer.settings.items()
    with pytest.raises(InputError, match=r"tune\.beta1\.high=0\.99, now tune\.beta1\.high=None"):
        lrtune.tune(task, budget=lrtune.Budget(trials=9), **arguments)


def test_what_is_tuned_of_parameters_by_name(task: lrtune.Task, tmp_path: Path) -> None:
    ratio = Setting("linear.lr_ratio", 1, 30, own=2.0)  # a family's name is none of its knobs
    assert (ratio.param, ratio.log) == ("lr_ratio(linear)", True)
    row = {"pattern": "head", "ratio": 4.0, "parameters": 10, "names": ["fc"]}
    facts = TaskFacts.model_validate(TASK | {"lr_ratios": [row]})
    schedule = Schedule("cosine", 0.1, settings={"head.lr_ratio": 6.0, "head.cooldown": 0.25})
    tuned = facts.tuned(schedule, {"head.lr_ratio": TuneFacts(low=1, high=30, own=2)})
    (words,) = tuned.rates
    assert words[:2] == ("head", "at 12x, over the last 25% to zero, the rate")
    run = lrtune.tune(
        lrtune.load_task("digits", batch_size=64, epochs=1, groups=["head=2x"]),
        tune={"head.lr_ratio": (1, 30), "head.cooldown": (0.1, 0.9)},
        families=["cosine"],
        peak_lr=(0.01, 0.1),
        budget=lrtune.Budget(trials=6),
        out=tmp_path / "run",
        engine="serial",
    )
    params = [trial.params for trial in run.study().trials]
    assert {"lr_ratio(head)", "cooldown(head)"} < params[-1].keys()
    assert params[0]["lr_ratio(head)"] == pytest.approx(2) != params[-1]["lr_ratio(head)"]


def test_exported_code_makes_the_optimizer_with_them() -> None:
    settings = {"weight_decay": 0.3, "label_smoothing": 0.1}
    schedule = Schedule("cosine", 0.01, settings=settings)
    adamw = {"betas": (0.9, 0.95), "eps": 1e-8, "amsgrad": False}
    found = FoundOptimizer("adamw", adamw | {"weight_decay": 0.3}, "decay_matrices")
    torch_code = export(schedule, to="torch", total=100, optimizer=found)
    assert "weight_decay=0.3" in torch_code and "torch.optim.AdamW(" in torch_code
    arguments = export(schedule, to="huggingface", total=100, optimizer=found)
    assert '"weight_decay": 0.3' in arguments and '"label_smoothing_factor": 0.1' in arguments


def test_an_optimizer_made_without_them_is_warned_of() -> None:
    schedule = Schedule("cosine", 0.01, settings={"weight_decay": 0.3, "label_smoothing": 0.1})
    weight = torch.zeros(1, requires_grad=True)
    schedule.torch(torch.optim.AdamW([weight], weight_decay=0.3), total=10)
    with pytest.warns(
        lrtune.ScheduleWarning, match=r"weight_decay=0\.3, and .* weight_decay=0\.01"
    ):
        schedule.torch(torch.optim.AdamW([weight]), total=10)


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        (["weight_decay"], "tune='weight_decay': expected name=low:high"),
        ({"weight_decay": 0.1}, "tune='weight_decay=0.1': expected name=low:high"),
        (["eps=1e-9:1e-7", "eps=1e-9:1e-6"], "eps twice"),
        ({"weight_decy": (0.1, 1)}, "unknown; did you mean 'weight_decay'"),
        ({"momentum": (0.8, 0.9)}, "tune momentum: unknown.*: adamw on this task has"),
        ({"amsgrad": (0, 1)}, "tune amsgrad: False is no number"),
        ({"weight_decay": (0, 1)}, "log scale"),
        ({"beta1": (0.9, 0.8)}, "the lower first"),
        ({"label_smoothing": (0.5, 1.5)}, r"label_smoothing=0.5:1.5: expected a range in \[0, 1\)"),
        ({"head.lr_ratio": (1, 30)}, "tune head.lr_ratio: unknown"),
        ({"batch_size": (8, 64)}, "batch_size changes the number of updates.*--out, then lrtune"),
    ],
)
def test_what_cannot_be_tuned(task: lrtune.Task, tmp_path: Path, tune: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        lrtune.tune(task, tune=tune, budget=8, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_baseline_with_a_setting_that_the_task_lacks(task: lrtune.Task, tmp_path: Path) -> None:
    mine = Schedule("cosine", 0.01, settings={"momentum": 0.8})
    with pytest.raises(InputError, match="setting of adamw 'momentum' is unknown"):
        lrtune.tune(task, baselines=[mine], out=tmp_path / "run")
