"""Logs of training runs, made by the frameworks themselves: tiny models, one core, no network."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from tests.callbacks.trainings import (
    data,
    huggingface_trainer,
    lightning_module,
    lightning_trainer,
)

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
    table = pd.DataFrame({"loss": 1.0, "lr": [*rates]})
    table.to_csv(folder / "rates.csv", index_label="step", na_rep="nan")
    return folder / "rates.csv"


def as_groups(folder: Path, make: Make, updates: int, rates: Iterable[float]) -> Path:
    """A CSV with a column for each parameter group, named as Lightning's monitor does."""
    optimizer = SGD([{"params": nn.Linear(1, 1).parameters(), "lr": rate} for rate in rates])
    scheduler, rows = make(optimizer), []
    for _ in range(updates):
        groups = enumerate(optimizer.param_groups, 1)
        rows.append({f"lr-SGD/pg{number}": group["lr"] for number, group in groups})
        optimizer.step()
        scheduler.step()
    pd.DataFrame(rows).to_csv(folder / "metrics.csv", index_label="step")
    return folder / "metrics.csv"


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


def lightning(folder: Path, make: Make, interval: str | None, epochs: int = 6) -> Path:
    """A Lightning run with its CSVLogger and LearningRateMonitor; its folder."""
    from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger

    def configure(module: Any) -> Any:
        optimizer = SGD(module.parameters(), lr=0.1)
        scheduler = {"scheduler": make(optimizer)} | ({"interval": interval} if interval else {})
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    keep = [LearningRateMonitor(logging_interval="step"), ModelCheckpoint(folder, save_last=True)]
    logger = CSVLogger(folder, name="", version="")
    more = {"logger": logger, "log_every_n_steps": 1, "enable_checkpointing": True}
    lightning_trainer(max_epochs=epochs, callbacks=keep, accumulate_grad_batches=1, **more).fit(
        lightning_module(configure), DataLoader(data(BATCHES * 2), batch_size=2)
    )
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

    def optimizers(net: nn.Module) -> tuple[Any, Any]:
        own = SGD(net.parameters(), lr=0.01)
        return (own, make(own)) if make else (None, None)

    saving = {"save_strategy": "steps", "save_steps": stop or updates, "eval_strategy": "no"}
    length = {"max_steps": updates, "gradient_accumulation_steps": 1, "logging_steps": every}
    given = {"optimizers": optimizers, "learning_rate": 0.01, **saving, **length, **arguments}
    huggingface_trainer(folder, stop=stop, **given).train()
    if stop is not None:
        at = folder / f"checkpoint-{stop}"
        if forget:
            (at / "scheduler.pt").unlink()
        huggingface_trainer(folder, **given).train(resume_from_checkpoint=str(at))
    return folder / f"checkpoint-{updates}"


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
