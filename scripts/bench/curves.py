"""Record the pools of schedules that ``pruning.py`` replays: whole trainings, none stopped early.

    python scripts/bench/curves.py --images CIFAR_FOLDER --text tinyshakespeare.txt

For each task 180 schedules, drawn at random over all families and 2.5 decades of the peak rate, one
training each with one seed; then the best schedules of eight families with three more. One
Parquet file a task, ``studies/results/curves/``; what is there is not trained again.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import optuna
import pandas as pd
import torch
from torch import Tensor, nn

from lrtune.engine import Pool, Progress, choose
from lrtune.schedule import Schedule
from lrtune.tasks import Split, Task, load_task
from lrtune.tuning import tune

CURVES = Path(__file__).parents[2] / "studies" / "results" / "curves"
TRIALS, SEEDS = 180, (1, 2, 3)
REPEATED = 8  # families whose best schedule is trained with other seeds too
KEPT = ["number", "family", "state", "schedule", "step", "averaged", "train_loss", "rate"]


class Gpt(nn.Module):
    """A small decoder-only transformer: two layers of torch's own."""

    def __init__(self, context: int, vocabulary: int, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(0.02 * torch.randn(context, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                4,
                4 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(2)
        )
        self.head = nn.Linear(width, vocabulary)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(context))

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens.long()) + self.places
        for layer in self.layers:
            hidden = layer(hidden, src_mask=self.get_buffer("mask"))
        logits: Tensor = self.head(hidden)
        return logits


def digits_mlp(args: argparse.Namespace) -> Task:
    return load_task("digits", model="mlp", batch_size=16, epochs=12.0)


def digits_cnn(args: argparse.Namespace) -> Task:
    return load_task("digits", model="cnn", optimizer="adamw", batch_size=64, epochs=8.0)


def diabetes(args: argparse.Namespace) -> Task:
    return load_task("diabetes", optimizer="adamw", batch_size=16, epochs=40.0)


def cifar_cnn(args: argparse.Namespace) -> Task:
    """At 16 by 16 pixels, on a third of the images: what fits two cores."""
    task = load_task(args.images, image_size=16, model="cnn", optimizer="sgd", batch_size=64)
    order = torch.randperm(task.train.samples, generator=torch.Generator().manual_seed(0))
    train = Split(task.train.inputs[order[:16_000]], task.train.targets[order[:16_000]])
    order = torch.randperm(task.val.samples, generator=torch.Generator().manual_seed(0))
    val = Split(task.val.inputs[order[:500]], task.val.targets[order[:500]])
    return replace(task, train=train, val=val, test=None, augment=("flip",), epochs=0.7)


def letters(args: argparse.Namespace, context: int) -> tuple[Tensor, Tensor, int]:
    """Windows of the text, (n, context + 1) each: of its first nine tenths, and of the rest."""
    text = Path(args.text).read_text(encoding="utf-8")
    known = sorted(set(text))
    tokens = torch.tensor([known.index(letter) for letter in text], dtype=torch.uint8)
    cut = 9 * len(tokens) // 10
    draw = torch.Generator().manual_seed(0)
    parts = []
    for part, count in (tokens[:cut], 40_000), (tokens[cut:], 1_000):
        starts = torch.randint(len(part) - context - 1, (count, 1), generator=draw)
        parts.append(part[starts + torch.arange(context + 1)])
    return parts[0], parts[1], len(known)


def text_transformer(args: argparse.Namespace) -> Task:
    train, val, count = letters(args, 32)
    return Task(
        name="shakespeare-transformer",
        train=Split(train[:, :-1], train[:, 1:]),
        val=Split(val[:200, :-1], val[:200, 1:]),
        model=partial(Gpt, 32, count),
        loss=load_task("digits").loss,
        optimizer="adamw",
        settings={"weight_decay": 0.1},
        batch_size=16,
        epochs=300 * 16 / 40_000,
        model_name="gpt",
    )


class Grams(nn.Sequential):
    """Embeddings of the letters before, then an MLP."""

    def __init__(self, context: int, count: int) -> None:
        embed = nn.Embedding(count, 16)
        super().__init__(
            embed, nn.Flatten(), nn.Linear(16 * context, 128), nn.ReLU(), nn.Linear(128, count)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = super().forward(tokens.long())
        return logits


def text_grams(args: argparse.Namespace) -> Task:
    train, val, count = letters(args, 8)
    return Task(
        name="shakespeare-grams",
        train=Split(train[:, :-1], train[:, -1]),
        val=Split(val[:, :-1], val[:, -1]),
        model=partial(Grams, 8, count),
        loss=load_task("digits").loss,
        batch_size=32,
        epochs=900 * 32 / 40_000,
        model_name="grams",
    )


class Row(NamedTuple):
    """A task, and the peak rates that are drawn from."""

    make: Callable[[argparse.Namespace], Task]
    peak_lr: tuple[float, float]


TASKS = {
    "digits-mlp-sgd": Row(digits_mlp, (3e-3, 1.0)),
    "digits-cnn-adamw": Row(digits_cnn, (1e-4, 3e-2)),
    "diabetes-mlp-adamw": Row(diabetes, (1e-4, 3e-2)),
    "shakespeare-grams-sgd": Row(text_grams, (1e-2, 3.0)),
    "cifar10-cnn-sgd": Row(cifar_cnn, (3e-3, 1.0)),
    "shakespeare-transformer-adamw": Row(text_transformer, (1e-4, 3e-2)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, help="CIFAR-10 as a folder of images")
    parser.add_argument("--text", required=True, help="tiny Shakespeare")
    parser.add_argument("--only", help=f"of {','.join(TASKS)}")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--out", type=Path, default=CURVES)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for name in args.only.split(",") if args.only else TASKS:
        path = args.out / f"{name}.parquet"
        if path.exists():
            continue
        task = replace(TASKS[name].make(args), validations=30)
        found = pool_of(task, TASKS[name].peak_lr, args.trials)
        found = pd.concat([found, repeated(task, found)], ignore_index=True)
        found.insert(0, "task", name)
        found["horizon"] = task.horizon
        path.parent.mkdir(parents=True, exist_ok=True)
        found.to_parquet(path, compression="zstd", index=False)
        print(f"{name}: {len(found)} trainings of {task.horizon} updates, {path.stat().st_size} B")


def pool_of(task: Task, peak_lr: tuple[float, float], trials: int) -> pd.DataFrame:
    """Random schedules, one seed."""
    with tempfile.TemporaryDirectory() as folder:
        sampler = optuna.samplers.RandomSampler(seed=0)
        options = {"pruner": "none", "patience": 0, "tell": print}
        run = tune(task, trials=trials, peak_lr=peak_lr, sampler=sampler, out=folder, **options)
        frame = run.trials()
    return frame[KEPT].assign(loss=frame[f"val_{task.objective.name}"], seed=0)


def repeated(task: Task, found: pd.DataFrame) -> pd.DataFrame:
    """The best schedule of each open-loop family, with other seeds."""
    done = found[(found["state"] == "complete")]
    order = done["loss"].map(lambda curve: curve[-1]).sort_values().index
    best = done.loc[order].drop_duplicates("family")
    best = best[[not Schedule.from_json(text).closed_loop for text in best["schedule"]]][:REPEATED]
    _, pool = choose(task, "cpu", engine="serial", slots=1)
    rows = []
    for row in best.itertuples():
        schedule = Schedule.from_json(row.schedule)
        rates = schedule.rates(task.horizon)
        for seed in SEEDS:
            told = trained(pool, schedule, seed)
            rows.append(
                {
                    **{name: getattr(row, name) for name in ("number", "family", "schedule")},
                    "state": "complete",
                    "step": [one.update for one in told],
                    "loss": [one.metrics[task.objective.name] for one in told],
                    "averaged": [one.averaged for one in told],
                    "train_loss": [float(one.losses.mean()) for one in told],
                    "rate": [float(rates[one.update - 1]) for one in told],
                    "seed": seed,
                }
            )
    return pd.DataFrame(rows)


def trained(pool: Pool, schedule: Schedule, seed: int) -> list[Progress]:
    """One whole training, validation by validation."""
    horizon = pool.task.horizon
    controller = schedule.controller(horizon) if schedule.closed_loop else None
    pool.admit(0, schedule.rates(horizon) if controller is None else controller.rates, seed)
    told = [pool.advance()[0]]
    while told[-1].update < horizon:
        if controller is not None:
            controller.observe(told[-1].update, told[-1].loss)
            pool.revise(0, controller.rates)
        told += pool.advance()
    pool.release(0)
    return told


if __name__ == "__main__":
    main()
