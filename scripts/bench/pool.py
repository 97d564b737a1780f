"""What does a fused pool of 32 trials cost beside its updates and its validations?

    python scripts/bench/pool.py

The time of whole segments, of the updates in them, and of the validations; medians of the segments.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

from lrtune.engine import FusedPool, stacked
from lrtune.tasks import load_task

TRIALS = 32
CASES = [("mlp", 16), ("mlp", 128), ("cnn", 16)]


class Timer:
    """Seconds spent in what it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any) -> Any:
            began = time.perf_counter()
            result = function(*given)
            self.seconds += time.perf_counter() - began
            return result

        return timed


def shares(model: str, batch_size: int, compiled: bool) -> tuple[float, float, float]:
    """Seconds of an update, and the shares of a segment of the validation and of the rest."""
    task = load_task("digits", model=model, batch_size=batch_size, epochs=5)
    pool = FusedPool(task, TRIALS, compiled=compiled)
    for slot in range(TRIALS):
        pool.admit(slot, np.full(task.horizon, 0.01), seed=0)
    pool.advance()  # compiles
    found = []
    update = stacked.StackedPool._update
    judge = stacked.judge
    for _ in range(len(task.checkpoints) - 1):
        updates, validation = Timer(), Timer()
        stacked.StackedPool._update = lambda self, size, t=updates: t(update(self, size))
        stacked.judge = validation(judge)
        began = time.perf_counter()
        pool.advance()
        whole = time.perf_counter() - began
        rest = whole - updates.seconds - validation.seconds
        found.append((updates.seconds, validation.seconds / whole, rest / whole))
    stacked.StackedPool._update, stacked.judge = update, judge
    length = task.horizon / len(task.checkpoints)
    seconds, validation_share, rest_share = (median(column) for column in zip(*found, strict=True))
    return seconds / length, validation_share, rest_share


def main() -> None:
    """Print the table."""
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, K = {TRIALS}")
    print("| digits | batch | | ms an update of all | validation | the rest |")
    print("|---|---|---|---|---|---|")
    for model, batch_size in CASES:
        for compiled in (False, True):
            seconds, validation, rest = shares(model, batch_size, compiled)
            how = "compiled" if compiled else "eager"
            print(
                f"| {model} | {batch_size} | {how} | {1000 * seconds:.1f} "
                f"| {validation:.1%} | {rest:.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
