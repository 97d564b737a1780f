"""What does the averaged signal cost? The same trials with it and without, a segment each in turn.

    python scripts/bench/averaging.py

Seconds of a segment, training and validation at the default interval, of a pool with the average
over one without; Optuna's part of a search, which both have, is left out. Medians over a trial's
segments, and quartiles.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lrtune.engine import Pool, SerialPool
from lrtune.engine.fused import FusedPool
from lrtune.tasks import Task, load_task

RESULTS = Path(__file__).parents[2] / "studies" / "results" / "bench"
ROWS = {  # model, batch size, trials together (1: serial), compiled, most segments
    "digits-mlp-16, fused": ("mlp", 16, 32, False, 30),
    "digits-mlp-16, fused, compiled": ("mlp", 16, 32, True, 30),
    "digits-mlp-128, fused, compiled": ("mlp", 128, 32, True, 30),
    "digits-mlp-128, serial": ("mlp", 128, 1, False, 30),
    "digits-cnn-128, serial": ("cnn", 128, 1, False, 30),
    "digits-cnn-16, fused": ("cnn", 16, 8, False, 6),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", help="; between, of " + "; ".join(ROWS))
    args = parser.parse_args()
    out = RESULTS / f"averaging-{args.device}.json"
    rows = json.loads(out.read_text()) if out.exists() else {}
    for name in args.only.split(";") if args.only else ROWS:
        model, batch, trials, compiled, most = ROWS[name]
        task = load_task("digits", model=model, batch_size=batch)
        pools = [
            made(replace(task, average=average), trials, args.device, compiled)
            for average in (None, task.average)
        ]
        ratios = []
        for segment in range(min(most, len(task.checkpoints) - 1) + 1):
            bare, averaged = (seconds(pool) for pool in pools)
            if segment:  # the first compiles
                ratios.append(averaged / bare)
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75]) - 1
        rows[name] = {
            "cost": middle,
            "quartiles": [low, high],
            "segments": len(ratios),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        out.write_text(json.dumps(rows, indent=1) + "\n")
        print(f"{name}: {middle:+.1%} ({low:+.1%} to {high:+.1%})", flush=True)


def made(task: Task, trials: int, device: str, compiled: bool) -> Pool:
    """A pool full of trials."""
    pool: Pool = SerialPool(task, 1, device)
    if trials > 1:
        pool = FusedPool(task, trials, device, compiled=compiled)
    for slot in range(trials):
        pool.start(slot, np.full(task.horizon, 0.001 * (1 + slot)), seed=0)
    return pool


def seconds(pool: Pool) -> float:
    """Of one segment of all trials."""
    began = time.perf_counter()
    pool.advance()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
