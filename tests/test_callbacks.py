"""A trial's schedule in Lightning and in Hugging Face's Trainer: followed, reported, pruned."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lrtune
from lrtune.schedule import Schedule

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning"),  # Lightning and torch
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]

FAMILIES = ("cosine", "greedy", "one_cycle", "plateau")
BATCHES, EPOCHS, EVERY = 8, 3, 2  # with two batches an update: 4 updates an epoch, 12 in all
TOTAL = BATCHES // EVERY * EPOCHS


class After(optuna.pruners.BasePruner):
    """Ends every trial at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def prune(self, study: optuna.Study, trial: Any) -> bool:
        return trial.last_step >= self.step


def asked(
    family: str,
    pruner: optuna.pruners.BasePruner | None = None,
    params: dict[str, Any] | None = None,
) -> optuna.Trial:
    """A trial of a family, with a schedule; with these parameters or any."""
    study = optuna.create_study(pruner=pruner or optuna.pruners.NopPruner())
    study.enqueue_trial({"family": family, **(params or {})})
    trial = study.ask()
    lrtune.suggest(trial, families=FAMILIES, peak_lr=(0.01, 0.05), warmup=(0.25, 0.25))
    return trial


def stored(trial: optuna.Trial) -> optuna.trial.FrozenTrial:
    return trial.study.trials[trial.number]


def schedule_of(trial: optuna.Trial) -> Schedule:
    return Schedule.from_json(trial.user_attrs["lrtune.schedule"])


def data() -> TensorDataset:
    inputs = torch.randn(8 * BATCHES, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(inputs, inputs.sum(1, keepdim=True))


def expected(trial: optuna.Trial) -> np.ndarray:
    """The rates of the updates; of a closed loop, after what it was told."""
    schedule = schedule_of(trial)
    if not schedule.closed_loop:
        return schedule.rates(TOTAL)
    controller = schedule.controller(TOTAL)
    for step, value in stored(trial).intermediate_values.items():
        controller.observe(step, value)
    return controller.rates


class Lightning:
    """One training with Lightning."""

    def __init__(self, trial: optuna.Trial | None, folder: Path, **how: Any) -> None:
        import lightning.pytorch as pl

        from lrtune.callbacks.lightning import TrialCallback

        class Module(pl.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.net = nn.Linear(4, 1)
                self.rates: list[float] = []

            def training_step(self, batch: list[Tensor]) -> Tensor:
                return ((self.net(batch[0]) - batch[1]) ** 2).mean()

            def validation_step(self, batch: list[Tensor]) -> None:
                self.log("val_loss", self.training_step(batch), sync_dist=True)

            def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
                self.rates.append(optimizer.param_groups[0]["lr"])

            def configure_optimizers(self) -> Any:
                return how.get("optimizers", lambda of: of)(
                    torch.optim.SGD(self.parameters(), lr=1.0)
                )

        pl.seed_everything(0, verbose=False)
        self.callback = TrialCallback(trial, how.get("monitor", "val_loss"))
        self.module = Module()
        self.trainer = pl.Trainer(
            max_epochs=EPOCHS,
            accumulate_grad_batches=EVERY,
            callbacks=[*how.get("before", ()), self.callback],
            accelerator="cpu",
            devices=how.get("devices", 1),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    def train(self) -> list[float]:
        """Train; the rates used."""
        self.trainer.fit(self.module, DataLoader(data(), 8), DataLoader(data(), 64))
        return self.rates

    @property
    def rates(self) -> list[float]:
        return self.module.rates

    @property
    def weights(self) -> Tensor:
        return self.module.net.weight.detach()


class Net(nn.Module):
    """For the Trainer: what it takes are dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 1)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        out = self.net(x)
        return {"loss": ((out - labels) ** 2).mean(), "logits": out}


class HuggingFace:
    """One training with the Trainer."""

    def __init__(self, trial: optuna.Trial | None, folder: Path, **how: Any) -> None:
        from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

        from lrtune.callbacks.huggingface import TrialCallback

        self.rates: list[float] = []

        class Rates(TrainerCallback):
            def on_pre_optimizer_step(_, args: Any, state: Any, control: Any, **kw: Any) -> None:
                self.rates.append(kw["optimizer"].param_groups[0]["lr"])

        set_seed(0)
        rows = [{"x": x, "labels": y} for x, y in data()]
        arguments = TrainingArguments(
            str(folder),
            **{
                "num_train_epochs": EPOCHS,
                "gradient_accumulation_steps": EVERY,
                "per_device_train_batch_size": 8,
                "eval_strategy": "epoch",
                "save_strategy": "no",
                "report_to": "none",
                "disable_tqdm": True,
                "dataloader_pin_memory": False,
                "use_cpu": True,
                **how.get("arguments", {}),
            },
        )
        self.trainer = Trainer(
            Net(),
            arguments,
            train_dataset=rows,
            eval_dataset=how.get("eval_dataset", lambda rows: rows)(rows),
            callbacks=[Rates()],
            optimizers=how.get("optimizers", (None, None)),
        )
        chosen = {key: how[key] for key in ("monitor", "averaging") if key in how}
        self.trainer.add_callback(TrialCallback(self.trainer, trial, **chosen))

    def train(self, **resume: Any) -> list[float]:
        """Train; the rates used."""
        self.trainer.train(**resume)
        return self.rates

    @property
    def weights(self) -> Tensor:
        return self.trainer.model.net.weight.detach()


FRAMEWORKS = {"lightning": Lightning, "huggingface": HuggingFace}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_trials_schedule_is_followed_and_its_updates_reported(
    framework: str, family: str, tmp_path: Path
) -> None:
    trial = asked(family)
    how = {"averaging": 0} if framework == "huggingface" else {}
    used = FRAMEWORKS[framework](trial, tmp_path, **how).train()
    assert list(stored(trial).intermediate_values) == [4, 8, 12]
    assert used == pytest.approx(expected(trial), rel=1e-12)
    assert "lrtune.averaged" not in stored(trial).user_attrs


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


def test_huggingface_reports_the_better_of_current_and_averaged(tmp_path: Path) -> None:
    trial = asked("cosine")
    training = HuggingFace(trial, tmp_path, averaging=0.3)
    training.train()
    logs = training.trainer.state.log_history
    current = [entry["eval_loss"] for entry in logs if "eval_loss" in entry]
    averaged = [entry["averaged_loss"] for entry in logs if "averaged_loss" in entry]
    assert len(current) == len(averaged) == 3 and current != averaged
    told = list(stored(trial).intermediate_values.values())
    assert told == pytest.approx([min(pair) for pair in zip(current, averaged, strict=True)])
    assert stored(trial).user_attrs["lrtune.averaged"]

    plain = HuggingFace(asked("cosine", params=trial.params), tmp_path, averaging=0)
    plain.train()
    assert torch.equal(plain.weights, training.weights)  # the averages were taken out again


def test_the_averages_are_those_of_torch(tmp_path: Path) -> None:
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
    from transformers import TrainerCallback

    training = HuggingFace(asked("cosine"), tmp_path, averaging=0.3)
    model = training.trainer.model
    twin = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / (0.3 * TOTAL)))
    batch = {"x": data().tensors[0], "labels": data().tensors[1]}
    losses: list[float] = []

    class Twin(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            twin.update_parameters(model)

        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            with torch.no_grad():
                losses.append(twin(**batch)["loss"].item())

    training.trainer.add_callback(Twin())
    training.train()
    logs = training.trainer.state.log_history
    averaged = [entry["averaged_loss"] for entry in logs if "averaged_loss" in entry]
    assert averaged == pytest.approx(losses, rel=1e-5)


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


def test_the_trainer_resumes_in_the_middle_of_the_schedule(tmp_path: Path) -> None:
    trial = asked("one_cycle")
    saving = {"save_strategy": "epoch", "save_total_limit": 3}
    whole = HuggingFace(trial, tmp_path, arguments=saving).train()
    again = asked("one_cycle", params=trial.params)
    resumed = HuggingFace(again, tmp_path, arguments=saving)
    used = resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert used == pytest.approx(whole[4:], rel=1e-12)
    assert list(stored(again).intermediate_values) == [8, 12]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_mistakes_are_named(framework: str, tmp_path: Path) -> None:
    make = FRAMEWORKS[framework]
    empty = optuna.create_study().ask()
    with pytest.raises(lrtune.InputError, match=r"trial 0 has no schedule: call lrtune.suggest"):
        make(empty, tmp_path)
    with pytest.raises(
        lrtune.InputError, match=r"metric '(eval_)?los': the validation gave .*loss"
    ):
        make(asked("cosine"), tmp_path, monitor="los").train()


def test_a_scheduler_beside_ours_is_refused(tmp_path: Path) -> None:
    def both(optimizer: torch.optim.Optimizer) -> Any:
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    with pytest.raises(lrtune.InputError, match=r"configure_optimizers returns a scheduler"):
        Lightning(asked("cosine"), tmp_path, optimizers=both).train()
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    given = (optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1))
    with pytest.raises(lrtune.InputError, match=r"optimizers=\(optimizer, scheduler\)"):
        HuggingFace(asked("cosine"), tmp_path, optimizers=given)


def test_a_trainer_that_never_validates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(lrtune.InputError, match=r"eval_strategy='no': say 'steps' or 'epoch'"):
        HuggingFace(asked("cosine"), tmp_path, arguments={"eval_strategy": "no"})


def test_two_optimizers_are_refused(tmp_path: Path) -> None:
    def two(optimizer: torch.optim.Optimizer) -> Any:
        return [optimizer, torch.optim.SGD(optimizer.param_groups[0]["params"], lr=1.0)], []

    # Lightning itself refuses them without manual optimization; either says so before a step.
    with pytest.raises((lrtune.InputError, RuntimeError), match=r"(?i)manual.optimization"):
        Lightning(asked("cosine"), tmp_path, optimizers=two).train()


@pytest.mark.parametrize(
    ("callback", "missing", "way_out"),
    [
        ("lightning", ("lightning", "pytorch_lightning"), "pip install lightning"),
        ("huggingface", ("transformers",), r"pip install transformers\[torch\]"),
    ],
)
def test_a_missing_framework_is_named(
    callback: str, missing: tuple[str, ...], way_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] in missing or name == f"lrtune.callbacks.{callback}":
            monkeypatch.delitem(sys.modules, name)
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(lrtune.InputError, match=rf"is not installed: {way_out}"):
        __import__(f"lrtune.callbacks.{callback}")


def one_of_two(framework: str, folder: Path) -> None:
    """What each of two processes runs: rank 0 alone has a trial."""
    rank = int(os.environ["RANK"])
    trial = asked("one_cycle", After(4)) if rank == 0 else None
    training = FRAMEWORKS[framework](trial, folder, devices=2)
    try:
        training.train()
        end = "complete"
    except optuna.TrialPruned:
        end = "pruned"
    told = (
        [schedule_of(trial).rates(6).tolist(), stored(trial).intermediate_values] if trial else []
    )
    (folder / f"{rank}.json").write_text(json.dumps([end, training.rates, *told]))


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_two_processes_follow_one_trial_and_end_together(framework: str, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run = subprocess.run(
        [*launch, __file__, framework, str(tmp_path)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-4000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    end, used, rates, reported = first
    assert second == [end, used]
    assert end == "pruned"
    assert used == pytest.approx(rates[:4], rel=1e-12)  # two updates an epoch, with twice the data
    assert list(reported) == ["2", "4"]


if __name__ == "__main__":
    one_of_two(sys.argv[1], Path(sys.argv[2]))
