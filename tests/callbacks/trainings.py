"""Trainings of seconds with Lightning and with Hugging Face's Trainer: quiet, on one core."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

import lrtune
from lrtune.schedule import Schedule

os.environ.setdefault("HF_HUB_OFFLINE", "1")

FAMILIES = ("cosine", "greedy", "one_cycle", "plateau")
BATCHES, EPOCHS, EVERY = 8, 3, 2  # with two batches an update: 4 updates an epoch, 12 in all
TOTAL = BATCHES // EVERY * EPOCHS


class After(optuna.pruners.BasePruner):
    """Ends every trial at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def prune(self, study: optuna.Study, trial: Any) -> bool:
        return trial.last_step >= self.step


def asked(family, pruner=None, params=None):
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


class Overflowing(torch.amp.GradScaler):
    """Skips updates, as float16 does: the gradients of these batches are not finite."""

    def __init__(self, *batches: int) -> None:
        super().__init__("cpu", init_scale=4.0)
        self.batch, self.batches = -1, batches

    def scale(self, outputs: Any) -> Any:
        self.batch += 1
        return super().scale(outputs * (float("inf") if self.batch in self.batches else 1.0))


def data(rows: int = 8 * BATCHES) -> TensorDataset:
    inputs = torch.randn(rows, 4, generator=torch.Generator().manual_seed(0))
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


def sgd(module: nn.Module) -> Any:
    return SGD(module.parameters(), lr=1.0)


def lightning_module(configure=sgd, validate=None):
    """One that notes the rates of its updates; `validate` may say its validation loss."""
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 1)
            self.rates: list[float] = []

        def training_step(self, batch: list[Tensor]) -> Tensor:
            return ((self.net(batch[0]) - batch[1]) ** 2).mean()

        def validation_step(self, batch: list[Tensor]) -> None:
            loss = torch.tensor(validate(self)) if validate else self.training_step(batch)
            self.log("val_loss", loss, sync_dist=True)

        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            self.rates.append(optimizer.param_groups[0]["lr"])

        def configure_optimizers(self) -> Any:
            return configure(self)

    pl.seed_everything(0, verbose=False)
    return Module()


def lightning_trainer(scaler: Overflowing | None = None, **arguments: Any) -> Any:
    import lightning.pytorch as pl

    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    length = {"max_epochs": EPOCHS, "accumulate_grad_batches": EVERY, "devices": 1}
    if scaler is not None:
        plugin = pl.plugins.MixedPrecision("16-mixed", "cpu", scaler)
        arguments["plugins"] = [plugin]
    return pl.Trainer(**{"accelerator": "cpu", **length, **quiet, **arguments})


class Lightning:
    """One training with Lightning, for a trial."""

    def __init__(self, trial: optuna.Trial | None, folder: Path, **how: Any) -> None:
        from lrtune.callbacks.lightning import TrialCallback

        self.module = lightning_module(how.get("optimizers", sgd))
        callback = TrialCallback(trial, how.get("monitor", "val_loss"))
        callbacks = [*how.get("before", ()), callback]
        self.trainer = lightning_trainer(callbacks=callbacks, **how.get("arguments", {}))
        self.rates = self.module.rates

    def train(self, **resume: Any) -> list[float]:
        """Train; the rates used."""
        self.trainer.fit(self.module, DataLoader(data(), 8), DataLoader(data(), 64), **resume)
        return self.rates


class Net(nn.Module):
    """For the Trainer: what it takes are dictionaries."""

    def __init__(self, validate: Callable[[], float] | None) -> None:
        super().__init__()
        self.net, self.validate = nn.Linear(4, 1), validate

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        out = self.net(x)
        loss = ((out - labels) ** 2).mean()
        if self.validate and not self.training:
            loss = torch.tensor(self.validate())
        return {"loss": loss, "logits": out}


def huggingface_trainer(
    folder,
    *,
    rates=None,
    stop=None,
    validate=None,
    eval_dataset=lambda rows: rows,
    optimizers=lambda net: (None, None),
    callbacks=(),
    scaler=None,
    **arguments,
):
    """One that adds the rates of its updates to `rates`, and ends when those are `stop`."""
    from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

    used = [] if rates is None else rates

    class Rates(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kw: Any) -> None:
            used.append(kw["optimizer"].param_groups[0]["lr"])

        def on_step_end(self, args: Any, state: Any, control: Any, **kw: Any) -> None:
            control.should_training_stop |= len(used) == stop

    set_seed(0)
    net, rows = Net(validate), [{"x": x, "labels": y} for x, y in data()]
    quiet = {
        "num_train_epochs": EPOCHS,
        "gradient_accumulation_steps": EVERY,
        "per_device_train_batch_size": 8,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "use_cpu": True,
    }
    trainer = Trainer(
        net,
        TrainingArguments(str(folder), **quiet | arguments),
        train_dataset=rows,
        eval_dataset=eval_dataset(rows),
        optimizers=optimizers(net),
        callbacks=[Rates(), *callbacks],
    )
    trainer.accelerator.scaler = scaler  # fp16=True is refused on a CPU
    return trainer


class HuggingFace:
    """One training with the Trainer, for a trial."""

    def __init__(self, trial: optuna.Trial | None, folder: Path, **how: Any) -> None:
        from lrtune.callbacks.huggingface import TrialCallback

        self.rates: list[float] = []
        chosen = {key: how.pop(key) for key in ("monitor", "averaging") if key in how}
        arguments = how.pop("arguments", {})
        self.trainer = huggingface_trainer(folder, rates=self.rates, **how, **arguments)
        self.trainer.add_callback(TrialCallback(self.trainer, trial, **chosen))

    def train(self, **resume: Any) -> list[float]:
        """Train; the rates used."""
        self.trainer.train(**resume)
        return self.rates


FRAMEWORKS = {"lightning": Lightning, "huggingface": HuggingFace}
