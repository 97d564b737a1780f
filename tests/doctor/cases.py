"""Runs that went wrong and runs that did not, each made by a framework, and what is to be said."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import frameworks as made
from torch.optim import lr_scheduler as torchs

import lrtune


class Broken(NamedTuple):
    """A log, the name of what is wrong, the horizon that is found, and the run's total if given."""

    log: Callable[[Path], Path]
    finding: str
    horizon: int | None = None
    total: int | None = None


def cosine(total: int, **more: Any) -> made.Make:
    return lambda optimizer: torchs.CosineAnnealingLR(optimizer, T_max=total, **more)


def warm_cosine(warmup: int, total: int) -> made.Make:
    def make(optimizer: Any) -> Any:
        rise = torchs.LinearLR(optimizer, start_factor=0.01, total_iters=warmup)
        fall = torchs.CosineAnnealingLR(optimizer, T_max=total - warmup)
        return torchs.SequentialLR(optimizer, [rise, fall], milestones=[warmup])

    return make


def of(name: str, *args: Any, **kwargs: Any) -> made.Make:
    return lambda optimizer: getattr(torchs, name)(optimizer, *args, **kwargs)


def of_transformers(name: str, *args: Any, **kwargs: Any) -> made.Make:
    def make(optimizer: Any) -> Any:
        import transformers

        return getattr(transformers, name)(optimizer, *args, **kwargs)

    return make


def ours(family: str, total: int) -> made.Make:
    return lambda optimizer: lrtune.Schedule(family, peak_lr=0.1, warmup=0.1).torch(
        optimizer, total=total
    )


def linear_to(total: int) -> made.Make:
    return lambda optimizer: torchs.LambdaLR(optimizer, lambda step: 1 - step / total)


def not_a_number(step: int) -> float:
    return math.nan if step == 40 else 1 / (1 + step)


LOSSES = [1, 0.8, 0.7, 0.7, 0.7, 0.7, 0.6, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.49, 0.49, 0.4]


def closed(make: made.Make, losses: Sequence[float] = LOSSES) -> Callable[[Path], Path]:
    """A closed loop: seven updates between two validations."""
    return lambda folder: made.as_jsonl(
        folder, made.step_through(make(made.optimizer_of(0.1)), losses, per=7)
    )


def hf(**arguments: Any) -> Callable[[Path], Path]:
    return lambda folder: made.huggingface(folder, **arguments) / "trainer_state.json"


def pl(make: made.Make, interval: str | None, **more: Any) -> Callable[[Path], Path]:
    return lambda folder: made.lightning(folder, make, interval, **more) / "metrics.csv"


def pl_checkpoint(make: made.Make, interval: str | None) -> Callable[[Path], Path]:
    return lambda folder: made.lightning(folder, make, interval) / "last.ckpt"


def torch_csv(make: made.Make, updates: int, **more: Any) -> Callable[[Path], Path]:
    return lambda folder: made.as_csv(folder, made.used(make, updates, **more))


def torch_jsonl(make: made.Make, updates: int) -> Callable[[Path], Path]:
    return lambda folder: made.as_jsonl(folder, made.used(make, updates))


def events(make: made.Make, updates: int, cut: int | None = None, **more: Any):
    return lambda folder: made.as_events(folder, made.used(make, updates, **more), cut)


def groups(make: made.Make, updates: int, *rates: float) -> Callable[[Path], Path]:
    return lambda folder: made.as_groups(folder, make, updates, rates)


def checkpoint(make: made.Make, steps: int, **more: Any) -> Callable[[Path], Path]:
    return lambda folder: made.as_checkpoint(folder, make, steps, **more)


def accelerated(make: made.Make, updates: int, **more: Any) -> Callable[[Path], Path]:
    return lambda folder: made.as_events(folder, made.accelerate(make, updates, **more))


def named(name: str, warmup: int = 0, **more: Any) -> Callable[[Path], Path]:
    """A schedule as the Trainer makes it, without the cost of a Trainer."""

    def make(optimizer: Any) -> Any:
        from transformers import get_scheduler

        return get_scheduler(name, optimizer, warmup, 60, scheduler_specific_kwargs=more)

    return torch_csv(make, 60)


LINEAR = "get_linear_schedule_with_warmup"

BROKEN: dict[str, Broken] = {
    "torch: cosine stepped past T_max, its checkpoint": Broken(
        checkpoint(cosine(50), 80), "overshoot", 50
    ),
    "torch: cosine for 200 in a run of 300": Broken(torch_csv(cosine(200), 300), "overshoot", 200),
    "Trainer: linear schedule for half the run": Broken(
        hf(make=of_transformers(LINEAR, 3, 30)), "overshoot", 30
    ),
    "transformers: linear schedule for four times the run": Broken(
        torch_csv(of_transformers(LINEAR, 0, 240), 60), "never-annealed", 240
    ),
    "Trainer: resumed without scheduler.pt": Broken(
        hf(stop=30, forget=True, lr_scheduler_type="cosine", warmup_steps=6), "jump"
    ),
    "transformers: warmup longer than the run": Broken(
        named("constant_with_warmup", 500), "warmup-unfinished"
    ),
    "Lightning: cosine for epochs, stepped per batch": Broken(
        pl(cosine(6), "step"), "wrong-unit", 6
    ),
    "Lightning: the same, its checkpoint": Broken(
        pl_checkpoint(cosine(6), "step"), "wrong-unit", 6
    ),
    "Lightning: cosine for updates, stepped per epoch": Broken(pl(cosine(60), None), "wrong-unit"),
    "torch: OneCycleLR for updates, stepped per epoch": Broken(
        torch_csv(of("OneCycleLR", 0.1, total_steps=60), 60, every=10), "wrong-unit"
    ),
    "torch: StepLR for epochs, stepped per batch": Broken(
        events(of("StepLR", 10, 0.1), 300), "wrong-unit"
    ),
    "torch: ExponentialLR for epochs, stepped per batch, its checkpoint": Broken(
        checkpoint(of("ExponentialLR", 0.9), 2000), "wrong-unit"
    ),
    "torch: a lambda below zero": Broken(torch_csv(linear_to(80), 120), "negative"),
    "torch: a lambda that is not a number": Broken(
        torch_jsonl(of("LambdaLR", not_a_number), 60), "not-finite"
    ),
    "torch: resumed without the scheduler's state, two event files": Broken(
        events(cosine(100), 100, cut=60, resume=60), "jump"
    ),
    "torch: resumed without its warmup cosine": Broken(
        torch_csv(warm_cosine(10, 100), 100, resume=55), "jump"
    ),
    "torch: eta_min above the rate": Broken(
        checkpoint(cosine(50, eta_min=0.5), 50), "eta-min-above-peak"
    ),
    "torch: the rate is zero": Broken(torch_csv(cosine(50), 50, lr=0.0), "zero-rate"),
    "torch: the rates of all groups are zero": Broken(
        groups(cosine(50), 50, 0.0, 0.0), "zero-rate"
    ),
    "Accelerate: prepared, four processes, totals of one": Broken(
        accelerated(warm_cosine(40, 400), 400, processes=4), "overshoot", 100
    ),
    "Accelerate: totals for four processes, not prepared, never annealed": Broken(
        accelerated(warm_cosine(80, 1600), 400, processes=4, prepared=False),
        *("never-annealed", 1600),
    ),
    "torch: stopped early, by the total that is given": Broken(
        checkpoint(cosine(1000), 400), "never-annealed", 1000, total=400
    ),
}

SOUND: dict[str, Callable[[Path], Path]] = {
    "Trainer: linear": hf(),
    "Trainer: cosine with warmup, seldom logged": hf(
        lr_scheduler_type="cosine", warmup_steps=6, every=7
    ),
    "Trainer: resumed with its scheduler": hf(stop=30, lr_scheduler_type="cosine", warmup_steps=6),
    "transformers: constant with warmup": named("constant_with_warmup", 6),
    "transformers: constant": named("constant"),
    "transformers: cosine with restarts": named("cosine_with_restarts", num_cycles=3),
    "transformers: cosine to a floor": named("cosine_with_min_lr", 6, min_lr_rate=0.1),
    "transformers: warmup, stable, decay": named("warmup_stable_decay", 6, num_decay_steps=20),
    "transformers: inverse square root": named("inverse_sqrt", 6),
    "transformers: polynomial": named("polynomial"),
    "Lightning: cosine per epoch": pl(cosine(6), "epoch"),
    "Lightning: cosine per epoch, its checkpoint": pl_checkpoint(cosine(6), "epoch"),
    "torch: OneCycleLR": torch_csv(of("OneCycleLR", 0.1, total_steps=60), 60),
    "torch: cosine": torch_csv(cosine(200), 200),
    "torch: cosine with warmup, two event files": events(warm_cosine(10, 100), 100, cut=60),
    "torch: warm restarts": events(of("CosineAnnealingWarmRestarts", 20), 130),
    "torch: warm restarts, each twice as long": torch_csv(
        of("CosineAnnealingWarmRestarts", 20, 2), 200
    ),
    "torch: triangles": events(of("CyclicLR", 0.01, 0.1, 25), 320),
    "torch: triangles that shrink": torch_csv(
        of("CyclicLR", 0.01, 0.1, 25, mode="triangular2"), 320
    ),
    "torch: StepLR per epoch": torch_csv(of("StepLR", 3, 0.1), 120, every=10),
    "torch: MultiStepLR": torch_jsonl(of("MultiStepLR", [60, 90]), 120),
    "torch: ExponentialLR per epoch": torch_csv(of("ExponentialLR", 0.9), 200, every=10),
    "torch: ExponentialLR": torch_csv(of("ExponentialLR", 0.98), 200),
    "torch: constant": torch_csv(of("ConstantLR", 1.0), 50),
    "torch: plateau": closed(of("ReduceLROnPlateau", factor=0.5, patience=2)),
    "transformers: greedy, up and down": closed(
        of_transformers("GreedyLR", factor=0.8, patience=1), LOSSES * 2
    ),
    "transformers: greedy, ever better": closed(
        of_transformers("GreedyLR", patience=1), [1 / (1 + i) for i in range(20)]
    ),
    "torch: cosine, one group frozen": groups(cosine(50), 50, 0.0, 0.1),
    "transformers: linear, its checkpoint at the end": checkpoint(
        of_transformers(LINEAR, 3, 30), 30
    ),
    "torch: a checkpoint half-way": checkpoint(warm_cosine(10, 100), 50),
    "torch: a checkpoint at the end": checkpoint(cosine(100), 100),
    "torch: OneCycleLR, its checkpoint": checkpoint(of("OneCycleLR", 0.1, total_steps=90), 60),
    "Accelerate: prepared, four processes, totals of four": accelerated(
        warm_cosine(160, 1600), 400, processes=4
    ),
    "lrtune: wsd": torch_csv(ours("wsd", 300), 300),
    "lrtune: rex": torch_jsonl(ours("rex", 300), 300),
    "lrtune: spline": torch_csv(ours("spline", 300), 300),
}

# What is found of them.
FITTED = {
    "Trainer: linear": "linear",
    "Trainer: cosine with warmup, seldom logged": "cosine",
    "transformers: constant with warmup": "constant",
    "transformers: cosine with restarts": "cosine_restarts",
    "transformers: warmup, stable, decay": "wsd",
    "transformers: inverse square root": "inverse_sqrt",
    "Lightning: cosine per epoch": "cosine",
    "torch: OneCycleLR": "one_cycle",
    "torch: warm restarts": "cosine_restarts",
    "torch: triangles": "cyclic",
    "torch: triangles that shrink": "cyclic",
    "torch: StepLR per epoch": "step",
    "torch: MultiStepLR": "multistep",
    "torch: ExponentialLR": "exponential",
    "torch: plateau": "multistep",
    "lrtune: wsd": "wsd",
    "lrtune: rex": "rex",
}
