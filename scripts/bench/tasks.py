"""Are the defaults good? The shipped tasks under a hand-picked cosine schedule, on the test split.

    python scripts/bench/tasks.py --images CIFAR_FOLDER --text tinyshakespeare.txt

Trains each task of ``studies/`` with its default model and optimizer, once a seed (of the split as
of the training), and prints a table. The peak rates are hand-picked, those of the two tables by
their validation loss; the test split is looked at once, at the end of each training.
"""

import argparse
import json
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lrtune.engine import SerialPool
from lrtune.schedule import Schedule
from lrtune.tasks import Task, load_task

RESULTS = Path(__file__).parents[2] / "studies" / "results" / "bench"


class Case(NamedTuple):
    """One row of the table."""

    what: str  # for load_task; {images} and {text} are where the user has them
    options: dict[str, Any]
    peak_lr: float
    metric: str
    target: str  # what we ask of it


CASES = {
    "digits": Case("digits", {}, 0.02, "accuracy", ">= 0.97"),
    "breast cancer": Case("breast_cancer", {}, 1e-3, "accuracy", ">= 0.96"),
    "diabetes": Case("diabetes", {}, 1e-3, "r2", ">= ridge - 0.02"),
    "CIFAR-10 images": Case(
        "{images}",
        {
            "model": "resnet9",
            "augment": ["flip", "crop"],
            "optimizer": "nesterov:weight_decay=0.0005",
            "label_smoothing": 0.1,
            "epochs": 30.0,
            "batch_size": 128,
        },
        0.1,
        "accuracy",
        ">= 0.93 within 30 epochs, on a GPU",
    ),
    "Shakespeare": Case("{text}", {}, 3e-3, "cross_entropy", "< 1.70 nats a character"),
}


def main() -> None:
    args = arguments()
    places = {"images": args.images, "text": args.text}
    rows = json.loads(args.out.read_text()) if args.out.exists() else {}
    for name in args.only or CASES:
        case = CASES[name]
        place = case.what.format_map({k: v or "" for k, v in places.items()})
        if not place:
            print(f"{name}: left out: give --images or --text")
            continue
        options = case.options | ({"epochs": args.epochs} if args.epochs else {})
        tasks = [load_task(place, seed=seed, **options) for seed in range(args.seeds)]
        task = tasks[0]
        scores, seconds = zip(*(train(t, case, s, args) for s, t in enumerate(tasks)), strict=True)
        row = {
            "model": task.model_name,
            "horizon": task.horizon,
            "epochs": task.epochs,
            "batch_size": task.batch_size,
            "optimizer": task.optimizer,
            "settings": {name: str(value) for name, value in task.settings.items()},
            "peak_lr": case.peak_lr,
            "metric": case.metric,
            "test": scores,
            "median": float(np.median(scores)),
            "seconds": float(np.median(seconds)),
            "target": case.target,
            "fingerprints": [t.fingerprint for t in tasks],
            "ridge": [ridge(t) for t in tasks] if case.metric == "r2" else None,
        }
        rows[name] = row | conditions(args)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", help="CIFAR-10 as a folder of images")
    parser.add_argument("--text", help="tiny Shakespeare")
    parser.add_argument("--only", action="append", choices=CASES)
    parser.add_argument("--epochs", type=float, help="in place of the task's own")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out = args.out or RESULTS / f"tasks-{args.device}.json"
    return args


def train(task: Task, case: Case, seed: int, args: argparse.Namespace) -> tuple[float, float]:
    """The test score of one training, and its seconds."""
    judged = replace(task, val=task.test, validations=2)
    schedule = Schedule("cosine", peak_lr=case.peak_lr, warmup=0.1)
    pool = SerialPool(judged, 1, args.device)
    start = time.perf_counter()
    reached = pool.start(0, schedule.rates(task.horizon), seed)
    while reached.update < task.horizon and reached.error is None:
        (reached,) = pool.advance()
        passed = time.perf_counter() - start
        print(f"  seed {seed} update {reached.update} {reached.metrics} {passed:.0f} s", flush=True)
    if reached.error is not None:
        raise SystemExit(reached.error)
    return reached.metrics[case.metric], time.perf_counter() - start


def ridge(task: Task) -> float:
    """Test R2 of scikit-learn's ridge regression, its own defaults, on the same split."""
    from sklearn.linear_model import Ridge

    fitted = Ridge().fit(task.train.inputs.numpy(), task.train.targets.numpy())
    return float(fitted.score(task.test.inputs.numpy(), task.test.targets.numpy()))


def conditions(args: argparse.Namespace) -> dict[str, Any]:
    device = torch.cuda.get_device_name() if args.device != "cpu" else "CPU"
    return {
        "device": device,
        "threads": args.threads,
        "seeds": args.seeds,
        "schedule": "cosine, warmup 0.1",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| task | model | updates | seeds | test: median (range) | asked |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        score = f"{row['median']:.4g} ({min(row['test']):.4g} to {max(row['test']):.4g})"
        asked = row["target"]
        if row["ridge"]:
            ahead = np.subtract(row["test"], row["ridge"])
            asked += (
                f"; it is ridge {np.median(ahead):+.3f} ({min(ahead):+.3f} to {max(ahead):+.3f})"
            )
        lines.append(
            f"| {name} | {row['model']} | {row['horizon']:,} | {row['seeds']} | "
            f"{row['metric']} {score} | {asked} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
