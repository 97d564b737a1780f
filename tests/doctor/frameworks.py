"""Logs of training runs, made by the frameworks themselves: tiny models, one core, no network."""

import csv
import json
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler

os.environ.setdefault("HF_HUB_OFFLINE", "1")

Make = Callable[[Optimizer], Any]
BATCHES = 10  # of an epoch, in torch and Lightning


def optimizer_of(lr: float) -> Optimizer:
    return SGD(nn.Linear(1, 1).parameters(), lr=lr)


def used(
    make: Make, updates: int, *, lr: float = 0.1, every: int = 1, resume: int | None = None
) -> list[float]:
    """The rates of a torch loop that steps its scheduler after every `every` updates.

    At update `resume` the process dies, and a new one makes optimizer and scheduler again without
    loading what they were.
    """
    rates = []
    optimizer = optimizer_of(lr)
    scheduler = make(optimizer)
    for update in range(updates):
        if update == resume:
            optimizer = optimizer_of(lr)
            scheduler = make(optimizer)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (update + 1) % every == 0:
            scheduler.step()
    return rates


def as_csv(folder: Path, rates: Iterable[float]) -> Path:
    path = folder / "rates.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["step", "loss", "lr"])
        rows.writerows([step, 1.0, rate] for step, rate in enumerate(rates))
    return path


def as_groups(folder: Path, make: Make, updates: int, rates: Iterable[float]) -> Path:
    """A CSV with a column for each parameter group, named as Lightning's monitor does."""
    optimizer = SGD([{"params": nn.Linear(1, 1).parameters(), "lr": rate} for rate in rates])
    scheduler = make(optimizer)
    path = folder / "metrics.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        count = len(optimizer.param_groups)
        rows.writerow(["step", *(f"lr-SGD/pg{number + 1}" for number in range(count))])
        for step in range(updates):
            rows.writerow([step, *(group["lr"] for group in optimizer.param_groups)])
            optimizer.step()
            scheduler.step()
    return path


def as_jsonl(folder: Path, rates: Iterable[float]) -> Path:
    path = folder / "rates.jsonl"
    lines = [json.dumps({"step": step, "learning_rate": rate}) for step, rate in enumerate(rates)]
    path.write_text("\n".join(lines) + "\n")
    return path


def as_events(folder: Path, rates: list[float], cut: int | None = None) -> Path:
    """TensorBoard's event files: one, or two where the run was cut and resumed."""
    from torch.utils.tensorboard import SummaryWriter

    for start, end in [(0, cut or len(rates)), (cut or 0, len(rates))][: 1 + (cut is not None)]:
        with SummaryWriter(folder, filename_suffix=f".{start}") as writer:
            for step in range(start, end):
                writer.add_scalar("train/learning_rate", rates[step], step)
    return folder


def as_checkpoint(folder: Path, make: Make, steps: int, *, lr: float = 0.1, **more: Any) -> Path:
    """What a torch loop saves: model, optimizer, scheduler."""
    optimizer = optimizer_of(lr)
    scheduler = make(optimizer)
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
    path = folder / "checkpoint.pt"
    state = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    torch.save({"model": nn.Linear(1, 1).state_dict(), **state, **more}, path)
    return path


def lightning(
    folder: Path, make: Make, interval: str | None, epochs: int = 6, *, lr: float = 0.1
) -> Path:
    """A Lightning run with its CSVLogger and LearningRateMonitor; its folder."""
    import lightning as pl
    from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger
    from torch.utils.data import DataLoader, TensorDataset

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def training_step(self, batch: Any, index: int) -> Any:
            return self.layer(batch[0]).square().mean()

        def configure_optimizers(self) -> Any:
            optimizer = SGD(self.parameters(), lr=lr)
            scheduler = {"scheduler": make(optimizer)}
            if interval:
                scheduler["interval"] = interval
            return {"optimizer": optimizer, "lr_scheduler": scheduler}

    data = DataLoader(TensorDataset(torch.ones(BATCHES * 2, 1)), batch_size=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            devices=1,
            logger=CSVLogger(folder, name="", version=""),
            callbacks=[
                LearningRateMonitor(logging_interval="step"),
                ModelCheckpoint(folder, save_last=True),
            ],
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(Module(), data)
    return folder


def huggingface(
    folder: Path,
    updates: int = 60,
    *,
    make: Make | None = None,
    stop: int | None = None,
    forget: bool = False,
    every: int = 2,
    **arguments: Any,
) -> Path:
    """A run of transformers' Trainer; the folder of its last checkpoint.

    Args:
        make: a scheduler to hand in, else its own.
        stop: where the run is cut; it is resumed from there.
        forget: whether the scheduler's state is lost at that point.
        every: how many updates between two lines of its log.
        arguments: of TrainingArguments.
    """
    from transformers import Trainer, TrainingArguments

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": (self.layer(x) - labels).square().mean()}

    data = [{"x": torch.ones(1), "labels": torch.ones(1)}] * 16

    def trainer() -> Trainer:
        model = Model()
        args = TrainingArguments(
            output_dir=str(folder),
            max_steps=updates,
            per_device_train_batch_size=2,
            logging_steps=every,
            save_steps=stop or updates,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            **{"learning_rate": 0.01} | arguments,
        )
        own = SGD(model.parameters(), lr=0.01)
        optimizers = (own, make(own)) if make else (None, None)
        return Trainer(model, args, train_dataset=data, optimizers=optimizers)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if stop is None:
            trainer().train()
        else:
            stopped = trainer()
            stopped.add_callback(stop_at(stop))
            stopped.train()
            at = folder / f"checkpoint-{stop}"
            if forget:
                (at / "scheduler.pt").unlink()
            trainer().train(resume_from_checkpoint=str(at))
    return folder / f"checkpoint-{updates}"


def stop_at(update: int) -> Any:
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            control.should_training_stop = state.global_step >= update

    return Stop()


def accelerate(make: Make, updates: int, *, processes: int, prepared: bool = True) -> list[float]:
    """The rates of a loop whose scheduler Accelerate prepared, as one of several processes."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    AcceleratorState._reset_state(True)
    accelerator = Accelerator(cpu=True)
    optimizer = optimizer_of(0.1)
    scheduler = make(optimizer)
    optimizer = accelerator.prepare(optimizer)
    if prepared:
        scheduler = accelerator.prepare(scheduler)
    PartialState._shared_state["num_processes"] = processes  # as `accelerate launch` would
    AcceleratorState._shared_state["num_processes"] = processes
    rates = []
    for _ in range(updates):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    AcceleratorState._reset_state(True)
    return rates


def step_through(scheduler: LRScheduler, metrics: Iterable[float], per: int) -> list[float]:
    """The rates under a closed loop: `per` updates between two validations."""
    rates = []
    for metric in metrics:
        rates += [scheduler.optimizer.param_groups[0]["lr"]] * per
        scheduler.optimizer.step()
        scheduler.step(metric)
    return rates
