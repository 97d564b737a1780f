"""Trainings of seconds with Lightning and with Hugging Face's Trainer, each for a trial."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lrtune
from lrtune.schedule import Schedule

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


def lightning_module(optimizers: Callable[[Any], Any] = lambda optimizer: optimizer) -> Any:
    """One that notes the rates of its updates."""
    import lightning.pytorch as pl

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
            return optimizers(torch.optim.SGD(self.parameters(), lr=1.0))

    pl.seed_everything(0, verbose=False)
    return Module()


def lightning_trainer(**arguments: Any) -> Any:
    """A quiet one."""
    import lightning.pytorch as pl

    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    length = {"max_epochs": EPOCHS, "accumulate_grad_batches": EVERY, "devices": 1}
    return pl.Trainer(**{"accelerator": "cpu", **length, **quiet, **arguments})


class Lightning:
    """One training with Lightning."""

    def __init__(self, trial: optuna.Trial | None, folder: Path, **how: Any) -> None:
        from lrtune.callbacks.lightning import TrialCallback

        self.module = lightning_module(**{k: v for k, v in how.items() if k == "optimizers"})
        callback = TrialCallback(trial, how.get("monitor", "val_loss"))
        callbacks = [*how.get("before", ()), callback]
        self.trainer = lightning_trainer(callbacks=callbacks, **how.get("arguments", {}))

    def train(self, **resume: Any) -> list[float]:
        """Train; the rates used."""
        self.trainer.fit(self.module, DataLoader(data(), 8), DataLoader(data(), 64), **resume)
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


def huggingface_trainer(folder: Path, **how: Any) -> Any:
    """A quiet one."""
    from transformers import Trainer, TrainingArguments, set_seed

    set_seed(0)
    rows = [{"x": x, "labels": y} for x, y in data()]
    arguments = {
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
    }
    return Trainer(
        Net(),
        TrainingArguments(str(folder), **arguments),
        train_dataset=rows,
        eval_dataset=how.get("eval_dataset", lambda rows: rows)(rows),
        optimizers=how.get("optimizers", (None, None)),
    )


class HuggingFace:
    """One training with the Trainer."""

    def __init__(self, trial: optuna.Trial | None, folder: Path, **how: Any) -> None:
        from transformers import TrainerCallback

        from lrtune.callbacks.huggingface import TrialCallback

        self.rates: list[float] = []

        class Rates(TrainerCallback):
            def on_pre_optimizer_step(_, args: Any, state: Any, control: Any, **kw: Any) -> None:
                self.rates.append(kw["optimizer"].param_groups[0]["lr"])

        self.trainer = huggingface_trainer(folder, **how)
        self.trainer.add_callback(Rates())
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
