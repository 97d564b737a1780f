"""Does memory stay bounded? A data set larger than ``--limit`` is trained on, and watched.

    python scripts/bench/streaming.py --gigabytes 2 --limit 200MB

A child process trains one epoch on made-up images that exist nowhere at once; this one adds up the
memory of it and of its workers (proportional set size, where shared pages count once), once a
second. The same model on a data set of a hundredth of that size is the comparison.
"""

import argparse
import subprocess
import sys
import time

import numpy as np
import psutil
import torch
from torch import nn
from torch.utils.data import Dataset

from lrtune.engine import SerialPool
from lrtune.tasks import Stream, Task
from lrtune.tasks.stream import parse_size, size

SIDE = 128
BATCH = 64


class Made(Dataset):
    """Image ``row`` is a function of ``row``: 48 KiB of noise, brighter in class 1."""

    def __init__(self, samples: int) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        noise = np.frombuffer(np.random.default_rng(row).bytes(3 * SIDE * SIDE), np.uint8)
        pixels = (noise >> 1) + np.uint8(20 * (row % 2))
        return torch.from_numpy(pixels).view(3, SIDE, SIDE), row % 2


class Scale(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float() / 64 - 1


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 8, stride=8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * (SIDE // 8) ** 2, 2)
    )


def child(samples: int, limit: int) -> None:
    torch.set_num_threads(1)
    start = time.perf_counter()
    task = Task(
        name="made",
        train=Made(samples),
        val=Made(256),
        model=small,
        prepare=Scale(),
        classes=2,
        batch_size=BATCH,
        epochs=1,
        validations=4,
        memory=limit,
    )
    where = "streamed" if isinstance(task.train, Stream) else "in memory"
    print(f"  {where}; read through once in {time.perf_counter() - start:.1f} s", flush=True)
    pool = SerialPool(task, 4)
    for slot in range(4):
        pool.start(slot, np.full(task.horizon, 0.01 * (slot + 1)), 0)
    while (reached := pool.advance())[0].update < task.horizon:
        pass
    figures = [round(p.metrics["accuracy"], 3) for p in reached]
    print(f"  4 trials in step, {task.horizon} updates each, val accuracy {figures}", flush=True)


def watch(samples: int, limit: int) -> int:
    """Peak bytes of a child and of its workers."""
    words = [sys.executable, __file__, "--child", str(samples), "--limit", f"{limit}B"]
    process = subprocess.Popen(words)
    peak = 0
    while process.poll() is None:
        try:
            family = [psutil.Process(process.pid)]
            family += family[0].children(recursive=True)
            peak = max(peak, sum(one.memory_full_info().pss for one in family))
        except psutil.Error:  # one of them has just ended
            pass
        time.sleep(1)
    if process.returncode:
        raise SystemExit(process.returncode)
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--limit", type=parse_size, default=parse_size("200MB"))
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child, args.limit)
    samples = round(args.gigabytes * 1e9 / (3 * SIDE * SIDE + 8))
    peaks = {}
    for count in (samples // 100, samples):
        whole = count * (3 * SIDE * SIDE + 8)
        print(f"{count:,} images, {size(whole)}, limit {size(args.limit)}", flush=True)
        peaks[count] = watch(count, args.limit)
        print(f"  peak of the processes together: {size(peaks[count])}", flush=True)
    more = peaks[samples] - peaks[samples // 100]
    print(
        f"a hundred times the data took {size(max(1, more))} more; the limit is {size(args.limit)}"
    )


if __name__ == "__main__":
    main()
