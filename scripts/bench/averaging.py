"""What does the averaged signal cost a search? The same search with it and without, in turn.

    python scripts/bench/averaging.py --images CIFAR_FOLDER --text tinyshakespeare.txt

Without pruning, at the default validations; seconds of a whole search from its first validation to
its last, the ratio of each pair, medians of five.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from statistics import median
from typing import Any

import optuna
from engine import CASES, RESULTS, Clock, Size, shortened, task_of

from lrtune.tasks import Task
from lrtune.tuning import tune

CHOSEN = ("digits-mlp-16", "digits-mlp-128", "digits-cnn-128", "cifar-cnn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--images", help="CIFAR-10 as a folder of images")
    parser.add_argument("--text", help="tiny Shakespeare")
    parser.add_argument("--only", default=",".join(CHOSEN), help=f"of {','.join(CASES)}")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    out = RESULTS / f"averaging-{args.device}.json"
    rows = json.loads(out.read_text()) if out.exists() else {}
    for name in args.only.split(","):
        size: Size = getattr(CASES[name], args.device)
        task = task_of(CASES[name], args)
        task = task if size.updates is None else shortened(task, size.updates)
        ratios, choice = [], {}
        for _ in range(args.repeats):
            bare, choice = rate(replace(task, average=None), name, size, args, choice)
            averaged, choice = rate(task, name, size, args, choice)
            ratios.append(bare / averaged)
            print(
                f"{name}: {ratios[-1]:.3f} {choice.get('name')} {choice.get('slots')}", flush=True
            )
        rows[name] = {"cost": [ratio - 1 for ratio in ratios], "engine": choice}
        out.write_text(json.dumps(rows, indent=1) + "\n")
    for name, row in rows.items():
        low, high = min(row["cost"]), max(row["cost"])
        print(f"{name}: {median(row['cost']):+.1%} ({low:+.1%} to {high:+.1%})")


def rate(
    task: Task, name: str, size: Size, args: argparse.Namespace, choice: dict[str, Any]
) -> tuple[float, dict[str, Any]]:
    """Updates a second, and the engine: what the first search has chosen serves all."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        run = tune(
            task,
            trials=size.auto,
            peak_lr=CASES[name].peak_lr,
            out=folder,
            device=args.device,
            engine=choice.get("name", "auto"),
            slots=choice.get("slots"),
            pruner="none",
            patience=0,
            watch=clock.watch,
        )
    return clock.rates()["steady"], run.settings["engine"]


if __name__ == "__main__":
    main()
