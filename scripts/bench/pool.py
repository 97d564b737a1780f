"""What does a fused pool of 32 trials cost beside its updates?

    python scripts/bench/pool.py

Whole segments, and in turn with them the same updates alone: the same program, eager or compiled,
on a copy of the same rows and on batches gathered before. What a segment takes beyond those updates
and its validation is the pool's own; its parts are timed in the segment itself. ``slower updates``
is what updates take longer there than alone, ``other`` what all parts leave, mostly Python. With 32
seeds each trial has batches of its own. On the CPU it is one thread and its CPU time.
"""

import argparse
import json
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from lrtune.engine import fused
from lrtune.engine.fused import StackedPool
from lrtune.engine.stacked import StackedState
from lrtune.tasks import load_task

RESULTS = Path(__file__).parents[2] / "studies" / "results" / "bench"
TRIALS = 32
ROWS = {  # model, batch size, compiled, seeds
    "digits-mlp-16": ("mlp", 16, False, 1),
    "digits-mlp-16, compiled": ("mlp", 16, True, 1),
    "digits-mlp-16, compiled, 32 seeds": ("mlp", 16, True, TRIALS),
    "digits-mlp-128": ("mlp", 128, False, 1),
    "digits-mlp-128, compiled": ("mlp", 128, True, 1),
    "digits-mlp-128, compiled, 32 seeds": ("mlp", 128, True, TRIALS),
    "digits-cnn-16": ("cnn", 16, False, 1),
}
OWN = ("batches", "rates", "copy to go back to", "averages", "slower updates")
COLUMNS = ("own", "of training", *OWN, "other", "validation")
now = time.perf_counter


class Clock:
    """Seconds by part."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def of(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*given: Any) -> Any:
            began = now()
            result = function(*given)
            self.seconds[part] += now() - began
            return result

        return timed

    def items(self, part: str, function: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        """The function, and each item that it yields, timed."""
        nothing = object()

        def timed(*given: Any) -> Iterator[Any]:
            items = self.of(part, function)(*given)
            step = self.of(part, lambda: next(items, nothing))
            while (item := step()) is not nothing:
                yield item

        return timed

    def entry(
        self, part: str, function: Callable[..., AbstractContextManager[None]]
    ) -> Callable[..., AbstractContextManager[None]]:
        """The context manager, its beginning timed."""

        def timed(*given: Any) -> AbstractContextManager[None]:
            stack = ExitStack()
            self.of(part, stack.enter_context)(function(*given))
            return stack

        return timed


def measure(name: str, device: str, segments: int) -> dict[str, Any]:
    """A row: medians of the segments, and all of them."""
    model, batch_size, compiled, seeds = ROWS[name]
    task = load_task("digits", model=model, batch_size=batch_size)
    pool = StackedPool(task, TRIALS, device, compiled, print)
    for slot in range(TRIALS):
        pool.start(slot, np.full(task.horizon, 0.001), seed=slot % seeds)
    pool.advance()  # compiles
    pool.advance()
    found = []
    for number in range(min(segments, len(task.checkpoints) - 2)):
        start, stop = (int(end) for end in task.checkpoints[number + 1 : number + 3])
        spans = [(trial.seed, start, stop) for trial in pool._trials]
        batches = list(pool._batches(spans))
        state = pool._state.map(torch.clone)
        if number % 2:
            alone, (whole, parts) = updates(pool, state, batches), segment(pool)
        else:
            (whole, parts), alone = segment(pool), updates(pool, state, batches)
        parts["slower updates"] = parts["updates"] - alone
        trained = whole - parts["validation"]
        parts["other"] = trained - alone - sum(parts[part] for part in OWN)
        shares = {part: parts[part] / whole for part in COLUMNS[2:]}
        own = trained - alone
        found.append({"own": own / whole, "of training": own / trained, **shares, "seconds": whole})
    return {
        "updates": int(task.checkpoints[1] - task.checkpoints[0]),
        **{key: median(one[key] for one in found) for key in found[0]},
        "segments": found,
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "torch threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load": os.getloadavg(),
        "date": date.today().isoformat(),
    }


def segment(pool: StackedPool) -> tuple[float, dict[str, float]]:
    """Seconds of a segment, and of its parts."""
    clock = Clock()
    plain = StackedState.mix, fused.evaluate
    batches, update = pool._batches, pool._updates[TRIALS]  # the others are the class's
    pool._updates[TRIALS] = clock.of("updates", update)
    pool._batches = clock.items("batches", pool._batches)
    pool._tables = clock.of("rates", pool._tables)
    pool._undone_by_errors = clock.entry("copy to go back to", pool._undone_by_errors)
    StackedState.mix = clock.of("averages", StackedState.mix)
    fused.evaluate = clock.of("validation", fused.evaluate)
    wait(pool)
    began = now()
    pool.advance()
    wait(pool)
    whole = now() - began
    StackedState.mix, fused.evaluate = plain
    pool._batches, pool._updates[TRIALS] = batches, update
    del pool._undone_by_errors, pool._tables
    return whole, clock.seconds


def updates(pool: StackedPool, state: StackedState, batches: list[Any]) -> float:
    """Seconds of the updates alone."""
    update = pool._update(TRIALS)
    state = state.part(0, TRIALS)
    tree = pool._grouped(state).tree
    like = {"dtype": torch.float64, "device": pool.device_task.device}
    rates, momenta = (torch.full((TRIALS,), value, **like) for value in (0.001, torch.nan))
    wait(pool)
    began = now()
    with pool.device_task.training():
        for inputs, parts in batches:
            columns = pool._optimizer.columns(state.states, rates, momenta, rates)
            update(tree, inputs, parts, columns)
    wait(pool)
    return now() - began


def wait(pool: StackedPool) -> None:
    """Until the device has done what it was given."""
    if pool.device_task.device.type == "cuda":
        torch.cuda.synchronize(pool.device_task.device)


def main() -> None:
    """Print the table, and keep it."""
    global now
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", help="; between, of " + "; ".join(ROWS))
    parser.add_argument("--segments", type=int, default=15, help="at most")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
        now = time.process_time
    out = args.out or RESULTS / f"pool-{args.device}.json"
    rows = json.loads(out.read_text()) if out.exists() else {}
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, K = {TRIALS}")
    print(f"| shares of a segment | updates | ms | {' | '.join(COLUMNS)} |")
    print("|---" * (len(COLUMNS) + 3) + "|")
    for name in args.only.split(";") if args.only else ROWS:
        row = rows[name] = measure(name, args.device, args.segments)
        out.write_text(json.dumps(rows, indent=1) + "\n")
        shares = " | ".join(f"{row[key]:.1%}" for key in COLUMNS)
        print(f"| {name} | {row['updates']} | {1000 * row['seconds']:.0f} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
