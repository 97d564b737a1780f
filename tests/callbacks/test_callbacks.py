"""A trial's schedule in Lightning and in Hugging Face's Trainer: followed, reported, pruned."""

import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState

import lrtune
from tests.callbacks.trainings import (
    EPOCHS,
    FRAMEWORKS,
    TOTAL,
    After,
    HuggingFace,
    Lightning,
    Overflowing,
    asked,
    data,
    expected,
    schedule_of,
    sgd,
    stored,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning"),  # Lightning and torch
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


@pytest.mark.parametrize("family", ["greedy", "one_cycle", "plateau"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_trials_schedule_is_followed_and_its_updates_reported(framework, family, tmp_path):
    trial = asked(family)
    how = {"averaging": 0} if framework == "huggingface" else {}
    used = FRAMEWORKS[framework](trial, tmp_path, **how).train()
    assert list(stored(trial).intermediate_values) == [4, 8, 12]
    assert used == pytest.approx(expected(trial), rel=1e-12)
    assert "lrtune.averaged" not in stored(trial).user_attrs


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_update_that_a_scaler_skips_does_not_count(framework, fused, tmp_path):
    used: list[float] = []

    def adamw(module: Any) -> Any:
        optimizer = torch.optim.AdamW(module.parameters(), lr=1.0, fused=fused)
        optimizer.register_step_post_hook(
            lambda made, *_: None if getattr(made, "found_inf", 0) else used.append(rate(made))
        )
        return optimizer if framework == "lightning" else (optimizer, None)

    trial, scaler = asked("one_cycle"), Overflowing(0, 2, 3, 11)  # updates 0, 1 and 5
    more = {} if framework == "lightning" else {"max_grad_norm": 0.0}
    how = {"optimizers": adamw, "arguments": {"scaler": scaler, **more}}
    FRAMEWORKS[framework](trial, tmp_path, **how).train()
    assert used == pytest.approx(schedule_of(trial).rates(TOTAL)[:9], rel=1e-12)


def rate(optimizer: torch.optim.Optimizer) -> float:
    return float(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_pruned_trial_leaves_the_training(framework: str, tmp_path: Path) -> None:
    trial = asked("cosine", After(8))
    training = FRAMEWORKS[framework](trial, tmp_path)
    with pytest.raises(optuna.TrialPruned):
        training.train()
    assert list(stored(trial).intermediate_values) == [4, 8]
    trial.study.tell(trial, state=TrialState.PRUNED)


def test_what_lightning_averages_is_reported_as_averaged(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import EMAWeightAveraging

    trial = asked("cosine")
    training = Lightning(trial, tmp_path, before=[EMAWeightAveraging(decay=0.5)])
    training.train()
    assert stored(trial).user_attrs["lrtune.averaged"]
    plain = asked("cosine")
    Lightning(plain, tmp_path).train()
    last = training.trainer.callback_metrics["val_loss"].item()
    assert stored(trial).intermediate_values[12] == last
    assert stored(plain).intermediate_values[12] != last


def logged(training: HuggingFace, name: str) -> list[float]:
    return [entry[name] for entry in training.trainer.state.log_history if name in entry]


def test_huggingface_averages_and_reports_the_better(tmp_path: Path) -> None:
    """Averages are torch's; other callbacks see the current weights, which train on."""
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
    from transformers import TrainerCallback

    trial = asked("cosine")
    training = HuggingFace(trial, tmp_path, averaging=0.3)
    model, handler = training.trainer.model, training.trainer.callback_handler
    twin = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / (0.3 * TOTAL)))
    batch = {"x": data().tensors[0], "labels": data().tensors[1]}
    evaluated: list[float] = []
    averaged: list[float] = []
    of_twin: list[float] = []

    class Reader(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            evaluated.append(kwargs["metrics"]["eval_loss"])

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            averaged.extend(v for k, v in kwargs["logs"].items() if k == "averaged_loss")

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            twin.update_parameters(model)

        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            with torch.no_grad():
                of_twin.append(twin(**batch)["loss"].item())

    training.trainer.add_callback(Reader())
    callbacks = [*handler.callbacks]
    training.train()
    assert evaluated == logged(training, "eval_loss") and len(evaluated) == EPOCHS
    assert averaged == logged(training, "averaged_loss") != evaluated
    assert averaged == pytest.approx(of_twin, rel=1e-5)
    assert handler.callbacks == callbacks
    values = list(stored(trial).intermediate_values.values())
    assert values == pytest.approx([min(pair) for pair in zip(evaluated, averaged, strict=True)])
    assert stored(trial).user_attrs["lrtune.averaged"]

    plain = HuggingFace(asked("cosine", params=trial.params), tmp_path, averaging=0)
    plain.train()
    assert logged(plain, "eval_loss") == evaluated  # the averages were taken out again


def test_one_of_several_sets_is_the_objective(tmp_path: Path) -> None:
    trial = asked("cosine")
    training = HuggingFace(
        trial,
        tmp_path,
        monitor="eval_second_loss",
        eval_dataset=lambda rows: {"first": rows[:8], "second": rows},
    )
    training.train()
    assert list(stored(trial).intermediate_values) == [4, 8, 12]


@pytest.mark.parametrize(
    ("family", "averaging", "start"), [("one_cycle", 0, False), ("greedy", 0.3, True)]
)
def test_the_trainer_resumes_in_the_middle_of_the_schedule(family, averaging, start, tmp_path):
    """An evaluation at the start is not the trial's: of a resumed run it was reported before."""
    saving = {"save_strategy": "epoch", "save_total_limit": 3, "eval_on_start": start}
    how = {"averaging": averaging, "arguments": saving}
    trial = asked(family)
    whole = HuggingFace(trial, tmp_path, **how).train()
    assert list(stored(trial).intermediate_values) == [4, 8, 12]
    again = asked(family, params=trial.params)
    resumed = HuggingFace(again, tmp_path, **how)
    used = resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert used == pytest.approx(whole[4:], rel=1e-12)
    assert list(stored(again).intermediate_values) == [8, 12]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create")
@pytest.mark.parametrize("family", ["one_cycle", "plateau"])
def test_lightning_resumes_in_the_middle_of_the_schedule(family: str, tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    trial, folder = asked(family), tmp_path / "kept"
    keep = ModelCheckpoint(folder, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    saving = {"enable_checkpointing": True}
    whole = Lightning(trial, tmp_path, before=[keep], arguments=saving).train()
    again = asked(family, params=trial.params)
    used = Lightning(again, tmp_path).train(ckpt_path=folder / "epoch=0.ckpt")
    assert used == pytest.approx(whole[4:], rel=1e-12)
    assert list(stored(again).intermediate_values) == [8, 12]


def scheduler_too(module: Any) -> Any:
    optimizer = sgd(module)
    return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


def by_hand(module: Any) -> Any:
    module.automatic_optimization = False  # else Lightning itself refuses two
    return [sgd(module), sgd(module)], []


def scheduler_given(net: Any) -> Any:
    optimizer = sgd(net)
    return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1)


MISTAKES: list[tuple[str, dict[str, Any], str]] = [
    ("lightning", {"monitor": "los"}, "metric 'los': the validation gave .*loss"),
    ("huggingface", {"monitor": "los"}, "metric 'eval_los': the validation gave .*loss"),
    ("lightning", {"optimizers": scheduler_too}, "configure_optimizers returns a scheduler"),
    ("lightning", {"optimizers": by_hand}, "manual optimization or 2 optimizers"),
    ("huggingface", {"optimizers": scheduler_given}, "has a scheduler: give None"),
    ("lightning", {"arguments": {"limit_val_batches": 0}}, "never validated"),
    ("huggingface", {"arguments": {"eval_strategy": "no"}}, "eval_strategy='no'"),
    ("lightning", {"arguments": {"max_epochs": -1}}, "max_epochs=-1, max_steps=-1 do not say"),
    ("huggingface", {"averaging": 1.5}, "averaging=1.5"),
]


@pytest.mark.parametrize(("framework", "how", "message"), MISTAKES)
def test_mistakes_are_named(framework: str, how: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(lrtune.InputError, match=message):
        FRAMEWORKS[framework](asked("cosine"), tmp_path, **{**how}).train()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_trial_without_a_schedule_is_refused(framework: str, tmp_path: Path) -> None:
    with pytest.raises(lrtune.InputError, match="trial 0 has no schedule"):
        FRAMEWORKS[framework](optuna.create_study().ask(), tmp_path)


INSTALL = {"lightning": "lightning", "huggingface": r"transformers\[torch\]"}
BROKEN = {
    "import a_dependency": "ModuleNotFoundError: No module named 'a_dependency'",
    "raise OSError('libcudart.so.12')": "OSError: libcudart.so.12",
}


@pytest.mark.parametrize("callback", FRAMEWORKS)
def test_a_missing_framework_is_named_and_a_broken_one_not_called_missing(
    callback, tmp_path, monkeypatch
):
    names = {"lightning": ("lightning", "pytorch_lightning"), "huggingface": ("transformers",)}
    forget(monkeypatch, callback, names[callback])
    with monkeypatch.context() as patched:
        for name in names[callback]:
            patched.setitem(sys.modules, name, None)
        message = f"is not installed: pip install {INSTALL[callback]}"
        with pytest.raises(lrtune.InputError, match=message) as raised:
            __import__(f"lrtune.callbacks.{callback}")
    assert isinstance(raised.value, ImportError)  # of an optional import of one's own
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / names[callback][0]
    package.mkdir()
    for source, reason in BROKEN.items():
        (package / "__init__.py").write_text(source)
        forget(monkeypatch, callback, names[callback])
        with pytest.raises(lrtune.InputError, match="is installed but cannot be imported") as told:
            __import__(f"lrtune.callbacks.{callback}")
        assert f"{package.name}." in str(told.value) and reason in str(told.value)


def forget(monkeypatch: pytest.MonkeyPatch, callback: str, frameworks: tuple[str, ...]) -> None:
    """Have them imported again."""
    for name in list(sys.modules):
        if name.partition(".")[0] in frameworks or name == f"lrtune.callbacks.{callback}":
            monkeypatch.delitem(sys.modules, name)
