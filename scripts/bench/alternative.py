"""Time to an answer on the embedded digits: lrtune beside the loop that people write for it.

    python scripts/bench/alternative.py

The loop: a DataLoader, Optuna's TPE with its median pruner, 20 trials of a cosine with warmup and
20 of a constant, both over four decades of the peak rate, validated after every epoch; the best of
each is trained on five fresh seeds and judged on the test split: 50 trainings. ``lrtune search
digits`` is the command with its defaults. Both have the same task, data, model and optimizer; each
runs in a process of its own, Python's start and all imports counted, and they take turns.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import chain, islice, repeat
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parents[2] / "studies" / "results" / "bench"
SHAPES, TRIALS, SEEDS, PEAKS = ("cosine", "constant"), 20, 5, (1e-4, 1.0)
EVALUATION_BATCH = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "alternative.json")
    parser.add_argument("--plain", type=int, metavar="SEED", help="run the loop once, here")
    args = parser.parse_args()
    if args.plain is not None:
        return print(json.dumps(plain(args.plain)))
    rows = []
    for seed in range(args.repeats):
        row = {"load": os.getloadavg()[0], "plain": timed_plain(seed), "lrtune": timed_lrtune(seed)}
        rows.append(row)
        print(json.dumps(row), flush=True)
        args.out.write_text(json.dumps(rows, indent=1) + "\n")
    return print(summary(rows))


def timed_plain(seed: int) -> dict[str, Any]:
    start = time.perf_counter()
    command = [sys.executable, __file__, "--plain", str(seed)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {"seconds": time.perf_counter() - start, **json.loads(told.splitlines()[-1])}


def timed_lrtune(seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        words = ["search", "digits", "--seed", str(seed), "--no-transfer", "--quiet"]
        command = [sys.executable, "-m", "lrtune", *words, "--out", f"{folder}/run"]
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.perf_counter() - start

        import lrtune

        run = lrtune.open(f"{folder}/run")
        updates = int(run.trials()["updates"].sum()) + int(run.finals()["updates"].sum())
        return {"seconds": seconds, "updates": updates}


def plain(seed: int) -> dict[str, Any]:
    """The whole loop; updates, and per shape the peak and the test losses on fresh seeds."""
    import optuna
    import torch
    from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, SequentialLR
    from torch.utils.data import DataLoader, TensorDataset

    import lrtune

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    task = lrtune.load_task("digits", seed=seed)
    total, epoch = task.horizon, len(task.train.inputs) // task.batch_size
    updates = 0

    def data(split: Any, batch: int, shuffle: bool = False) -> Any:
        inputs = task.prepare(split.inputs)
        return DataLoader(TensorDataset(inputs, split.targets.long()), batch, shuffle)

    @torch.no_grad()
    def evaluate(model: Any, loader: Any) -> float:
        model.eval()
        losses = [task.loss(model(x), y).item() * len(x) for x, y in loader]
        model.train()
        return sum(losses) / len(loader.dataset)

    val, test = data(task.val, EVALUATION_BATCH), data(task.test, EVALUATION_BATCH)

    def train(shape: str, peak: float, warmup: float, seed: int, trial: Any = None) -> Any:
        nonlocal updates
        torch.manual_seed(seed)
        model = task.model()
        optimizer = torch.optim.SGD(model.parameters(), peak, **task.settings)
        first = max(1, round(warmup * total))
        rest = (
            CosineAnnealingLR(optimizer, total - first)
            if shape == "cosine"
            else ConstantLR(optimizer, 1.0)
        )
        rise = LinearLR(optimizer, 1 / (first + 1), total_iters=first)
        scheduler = SequentialLR(optimizer, [rise, rest], [first])
        loader = data(task.train, task.batch_size, shuffle=True)
        batches = chain.from_iterable(repeat(loader))
        for update, (x, y) in enumerate(islice(batches, total), 1):
            optimizer.zero_grad()
            task.loss(model(x), y).backward()
            optimizer.step()
            scheduler.step()
            updates += 1
            if trial is not None and update % epoch == 0:
                trial.report(evaluate(model, val), update)
                if trial.should_prune():
                    raise optuna.TrialPruned
        return model

    found: dict[str, Any] = {}
    for shape in SHAPES:

        def objective(trial: optuna.Trial, shape: str = shape) -> float:
            peak = trial.suggest_float("peak_lr", *PEAKS, log=True)
            warmup = trial.suggest_float("warmup", 0.0, 0.2) if shape == "cosine" else 0.0
            value = evaluate(train(shape, peak, warmup, seed, trial), val)
            return value if value == value else float("inf")

        study = optuna.create_study(
            sampler=optuna.samplers.TPESampler(seed=seed), pruner=optuna.pruners.MedianPruner()
        )
        study.optimize(objective, TRIALS)
        best = study.best_params
        tests = [
            evaluate(train(shape, best["peak_lr"], best.get("warmup", 0.0), 1000 + n), test)
            for n in range(SEEDS)
        ]
        found[shape] = {"peak_lr": best["peak_lr"], "test": tests}
    return {"updates": updates, **found}


def summary(rows: list[dict[str, Any]]) -> str:
    ratios = sorted(row["lrtune"]["seconds"] / row["plain"]["seconds"] for row in rows)
    work = sorted(row["lrtune"]["updates"] / row["plain"]["updates"] for row in rows)
    seconds = {way: median(row[way]["seconds"] for row in rows) for way in ("plain", "lrtune")}
    return (
        f"lrtune's time over the loop's: {median(ratios):.2f} "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f}), its updates over the loop's: {median(work):.2f}; "
        f"medians {seconds['lrtune']:.0f} s and {seconds['plain']:.0f} s"
    )


if __name__ == "__main__":
    main()
