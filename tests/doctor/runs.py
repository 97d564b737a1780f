"""Runs that went wrong and runs that did not, each made by a framework, and what is to be said.

A run is a function that writes its log into a folder and returns the log's path.
"""

import math
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import nn
from torch.optim import SGD
from torch.optim import lr_scheduler as torchs
from torch.utils.data import DataLoader

from tests.callbacks.trainings import data, huggingface_trainer, lightning_module, lightning_trainer

BATCHES = 10  # of an epoch, in torch and Lightning


class Broken(NamedTuple):
    """A run, the name of what is wrong, the horizon that is found, and the run's total if given."""

    run: Any
    finding: str
    horizon: int | None = None
    total: int | None = None


def of(name, *args, **kwargs):
    """What makes a scheduler of torch's, of an optimizer."""
    return lambda optimizer: getattr(torchs, name)(optimizer, *args, **kwargs)


def cosine(total, **more):
    return of("CosineAnnealingLR", T_max=total, **more)


def warm_cosine(warmup, total):
    def make(optimizer):
        rise = torchs.LinearLR(optimizer, start_factor=0.01, total_iters=warmup)
        fall = torchs.CosineAnnealingLR(optimizer, T_max=total - warmup)
        return torchs.SequentialLR(optimizer, [rise, fall], milestones=[warmup])

    return make


def of_transformers(name, *args, **kwargs):
    def make(optimizer):
        import transformers

        return getattr(transformers, name)(optimizer, *args, **kwargs)

    return make


def named(name, warmup=0, **more):
    """A schedule as the Trainer makes it, without the cost of a Trainer."""

    def make(optimizer):
        from transformers import get_scheduler

        return get_scheduler(name, optimizer, warmup, 60, scheduler_specific_kwargs=more)

    return in_csv(make, 60)


def linear_to(total):
    return of("LambdaLR", lambda step: 1 - step / total)


def not_a_number(step):
    return math.nan if step == 40 else 1 / (1 + step)


def optimizer_of(*rates):
    return SGD([{"params": nn.Linear(1, 1).parameters(), "lr": rate} for rate in rates], lr=0.1)


def used(make, updates, *, lr=0.1, every=1, times=1, resume=None):
    """The rates of a torch loop that steps its scheduler so many times after every `every` updates.

    At update `resume` the process dies, and a new one makes optimizer and scheduler again without
    loading what they were.
    """
    rates = []
    for update in range(updates):
        if update in (0, resume):
            optimizer = optimizer_of(lr)
            scheduler = make(optimizer)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for _ in range(times if (update + 1) % every == 0 else 0):
            scheduler.step()
    return rates


def as_csv(folder, rates):
    table = pd.DataFrame({"loss": 1.0, "lr": [*rates]})
    table.to_csv(folder / "rates.csv", index_label="step", na_rep="nan")
    return folder / "rates.csv"


def as_events(folder, rates, cut=None):
    """TensorBoard's event files: one, or two where the run was cut and resumed."""
    from torch.utils.tensorboard import SummaryWriter

    for start, end in [(0, cut or len(rates)), (cut or 0, len(rates))][: 1 + (cut is not None)]:
        with SummaryWriter(folder, filename_suffix=f".{start}") as writer:
            for step in range(start, end):
                writer.add_scalar("train/learning_rate", rates[step], step)
    return folder


def in_csv(make, updates, **more):
    return lambda folder: as_csv(folder, used(make, updates, **more))


def events(make, updates, cut=None, **more):
    return lambda folder: as_events(folder, used(make, updates, **more), cut)


def groups(make, updates, *rates):
    """A CSV with a column for each parameter group, named as Lightning's monitor does."""

    def write(folder):
        optimizer, rows = optimizer_of(*rates), []
        scheduler = make(optimizer)
        for _ in range(updates):
            numbered = enumerate(optimizer.param_groups, 1)
            rows.append({f"lr-SGD/pg{number}": group["lr"] for number, group in numbered})
            optimizer.step()
            scheduler.step()
        pd.DataFrame(rows).to_csv(folder / "metrics.csv", index_label="step")
        return folder / "metrics.csv"

    return write


def checkpoint(make, steps, **more):
    """What a torch loop saves: model, optimizer, scheduler."""

    def write(folder):
        optimizer = optimizer_of(0.1)
        scheduler = make(optimizer)
        for _ in range(steps):
            optimizer.step()
            scheduler.step()
        states = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
        torch.save({"model": nn.Linear(1, 1).state_dict(), **states, **more}, folder / "x.pt")
        return folder / "x.pt"

    return write


LOSSES = [1, 0.8, 0.7, 0.7, 0.7, 0.7, 0.6, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.49, 0.49, 0.4]


def closed(make, losses=LOSSES):
    """A closed loop: seven updates between two validations."""

    def write(folder):
        scheduler, rates = make(optimizer_of(0.1)), []
        for metric in losses:
            rates += [scheduler.optimizer.param_groups[0]["lr"]] * 7
            scheduler.optimizer.step()
            scheduler.step(metric)
        return as_csv(folder, rates)

    return write


def lightning(make, interval, name="metrics.csv"):
    """A run with Lightning's CSVLogger and LearningRateMonitor, or its checkpoint."""

    def configure(module):
        optimizer = SGD(module.parameters(), lr=0.1)
        scheduler = {"scheduler": make(optimizer)} | ({"interval": interval} if interval else {})
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def write(folder):
        from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
        from lightning.pytorch.loggers import CSVLogger

        trainer = lightning_trainer(
            max_epochs=6,
            accumulate_grad_batches=1,
            callbacks=[LearningRateMonitor("step"), ModelCheckpoint(folder, save_last=True)],
            logger=CSVLogger(folder, name="", version=""),
            log_every_n_steps=1,
            enable_checkpointing=True,
        )
        trainer.fit(lightning_module(configure), DataLoader(data(BATCHES * 2), batch_size=2))
        return folder / name

    return write


def huggingface(*, make=None, stop=None, forget=False, every=2, **arguments):
    """A run of transformers' Trainer, 60 updates; the state in its last checkpoint.

    Args:
        make: of a scheduler to hand in, else its own.
        stop: where the run is cut; it is resumed from there.
        forget: whether the scheduler's state is lost at that point.
        every: how many updates between two lines of its log.
        arguments: of TrainingArguments.
    """

    def optimizers(net):
        own = SGD(net.parameters(), lr=0.01)
        return (own, make(own)) if make else (None, None)

    def write(folder):
        saving = {"save_strategy": "steps", "save_steps": stop or 60, "eval_strategy": "no"}
        length = {"max_steps": 60, "gradient_accumulation_steps": 1, "logging_steps": every}
        given = {"optimizers": optimizers, "learning_rate": 0.01, **saving, **length, **arguments}
        huggingface_trainer(folder, stop=stop, **given).train()
        if stop is not None:
            at = folder / f"checkpoint-{stop}"
            if forget:
                (at / "scheduler.pt").unlink()
            huggingface_trainer(folder, **given).train(resume_from_checkpoint=str(at))
        return folder / "checkpoint-60" / "trainer_state.json"

    return write


LINEAR = "get_linear_schedule_with_warmup"
EXPONENTIAL = of("ExponentialLR", 0.9)
TRAINER_COSINE = {"lr_scheduler_type": "cosine", "warmup_steps": 6}

BROKEN = {
    # of torch
    "past T_max, checkpoint": Broken(checkpoint(cosine(50), 80), "overshoot", 50),
    "below zero": Broken(in_csv(linear_to(80), 120), "negative"),
    "not a number": Broken(in_csv(of("LambdaLR", not_a_number), 60), "not-finite"),
    "resumed anew, two files": Broken(events(cosine(100), 100, cut=60, resume=60), "jump"),
    "resumed anew, warmup": Broken(in_csv(warm_cosine(10, 100), 100, resume=55), "jump"),
    "eta_min": Broken(checkpoint(cosine(50, eta_min=0.5), 50), "eta-min-above-peak"),
    "zero in all groups": Broken(groups(cosine(50), 50, 0.0, 0.0), "zero-rate"),
    "stopped early": Broken(checkpoint(cosine(1000), 400), "never-annealed", 1000, total=400),
    "OneCycleLR per epoch": Broken(
        in_csv(of("OneCycleLR", 0.1, total_steps=60), 60, every=10), "wrong-unit"
    ),
    "StepLR per batch": Broken(events(of("StepLR", 10, 0.1), 300), "wrong-unit"),
    "ExponentialLR per batch, checkpoint": Broken(checkpoint(EXPONENTIAL, 2000), "wrong-unit"),
    # of Accelerate, with four processes
    "prepared, totals of one": Broken(events(warm_cosine(40, 400), 400, times=4), "overshoot", 100),
    "not prepared, totals for four": Broken(
        events(warm_cosine(80, 1600), 400), "never-annealed", 1600
    ),
    # of Lightning
    "cosine per batch": Broken(lightning(cosine(6), "step"), "wrong-unit", 6),
    "the same, checkpoint": Broken(lightning(cosine(6), "step", "last.ckpt"), "wrong-unit", 6),
    "cosine per epoch": Broken(lightning(cosine(60), None), "wrong-unit"),
    # of transformers
    "half the run": Broken(huggingface(make=of_transformers(LINEAR, 3, 30)), "overshoot", 30),
    "four runs": Broken(in_csv(of_transformers(LINEAR, 0, 240), 60), "never-annealed", 240),
    "without scheduler.pt": Broken(huggingface(stop=30, forget=True, **TRAINER_COSINE), "jump"),
    "long warmup": Broken(named("constant_with_warmup", 500), "warmup-unfinished"),
}

# A run, and the family that is found of it.
SOUND = {
    # of the Trainer and of transformers
    "Trainer": (huggingface(), "linear"),
    "Trainer, seldom logged": (huggingface(**TRAINER_COSINE, every=7), "cosine"),
    "Trainer, resumed": (huggingface(stop=30, **TRAINER_COSINE), None),
    "constant with warmup": (named("constant_with_warmup", 6), "constant"),
    "restarts": (named("cosine_with_restarts", num_cycles=3), "cosine_restarts"),
    "stable, decay": (named("warmup_stable_decay", 6, num_decay_steps=20), "wsd"),
    "inverse_sqrt": (named("inverse_sqrt", 6), "inverse_sqrt"),
    "linear, checkpoint": (checkpoint(of_transformers(LINEAR, 3, 30), 30), None),
    "greedy": (closed(of_transformers("GreedyLR", factor=0.8, patience=1), LOSSES * 2), None),
    # of Lightning
    "per epoch": (lightning(cosine(6), "epoch"), "cosine"),
    "per epoch, checkpoint": (lightning(cosine(6), "epoch", "last.ckpt"), None),
    # of torch
    "OneCycleLR": (in_csv(of("OneCycleLR", 0.1, total_steps=60), 60), "one_cycle"),
    "OneCycleLR, checkpoint": (checkpoint(of("OneCycleLR", 0.1, total_steps=90), 60), None),
    "warmup, two event files": (events(warm_cosine(10, 100), 100, cut=60), "cosine"),
    "warmup, half-way": (checkpoint(warm_cosine(10, 100), 50), None),
    "warm restarts": (events(of("CosineAnnealingWarmRestarts", 20), 130), "cosine_restarts"),
    "triangles": (events(of("CyclicLR", 0.01, 0.1, 25), 320), "cyclic"),
    "StepLR per epoch": (in_csv(of("StepLR", 3, 0.1), 120, every=10), "step"),
    "MultiStepLR": (in_csv(of("MultiStepLR", [60, 90]), 120), "multistep"),
    "ExponentialLR": (in_csv(of("ExponentialLR", 0.98), 200), "exponential"),
    "plateau": (closed(of("ReduceLROnPlateau", factor=0.5, patience=2)), "multistep"),
    "one group frozen": (groups(cosine(50), 50, 0.0, 0.1), None),
    "four processes": (events(warm_cosine(160, 1600), 400, times=4), None),
}
