"""What it costs to train elsewhere: hosts of a Ray cluster, or processes, against one process.

Run: python scripts/bench/hosts.py [--slots 4] [--segments 20] [--repeats 5]
Trains the same trials of the digits CNN a segment at a time, all together: slots of one process,
as many processes over pipes, and as many hosts of a Ray cluster on this machine, in turns. All of
it, Ray's own processes too, runs on one core, so that what is compared is what moving costs.
Prints seconds per segment (medians), their ratios, and the seconds until all have a trial.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import ray
import torch

from lrtune.engine import Choice, Pool, SerialPool
from lrtune.engine.devices import Engine
from lrtune.engine.place import ClusterPlace, of_processes
from lrtune.tasks import Task, load_task

RATE = 0.01
os.environ["RAY_AUTH_MODE"] = "disabled"  # else a token that another Ray has left is asked for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--segments", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    task = replace(load_task("digits", model="cnn", epochs=40), validations=40)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        address = stack.enter_context(Ray(given.slots))
        kinds: dict[str, Callable[[], Pool]] = {
            "one process": lambda: SerialPool(task, given.slots),
            "processes": lambda: stack.enter_context(
                of_processes(task, given.slots, ("cpu",) * given.slots, threads=1)
            ),
            "hosts": lambda: hosts(task, given.slots, address, Path(folder), stack),
        }
        pools, starts = {}, {}
        for name, make in kinds.items():
            began = time.perf_counter()
            pools[name] = make()
            for slot in range(given.slots):
                pools[name].start(slot, np.full(task.horizon, RATE), seed=slot)
            starts[name] = time.perf_counter() - began
        seconds: dict[str, list[float]] = {name: [] for name in pools}
        losses = {}
        for _ in range(given.repeats):
            for name, pool in pools.items():
                seconds[name].append(timed(pool, given.segments // given.repeats))
                losses[name] = [found.loss for found in pool.advance()]
    assert losses["one process"] == losses["processes"] == losses["hosts"], "not the same trials"
    base = seconds["one process"]
    for name, times in seconds.items():
        ratios = [mine / theirs for mine, theirs in zip(times, base, strict=True)]
        print(
            f"{name:12} {1000 * median(times):7.1f} ms per segment, "
            f"{median(ratios):.3f} times one process ({min(ratios):.3f} to {max(ratios):.3f}), "
            f"{starts[name]:.1f} s to begin"
        )
    machine = {"cores": 1, "machine": platform.machine(), "torch": torch.__version__}
    print(json.dumps({"seconds": seconds, "starts": starts, **vars(given), **machine}))


def timed(pool: Pool, segments: int) -> float:
    """Seconds of a segment of all slots."""
    began = time.perf_counter()
    for _ in range(segments):
        pool.advance()
    return (time.perf_counter() - began) / segments


def hosts(task: Task, count: int, address: str, folder: Path, stack: ExitStack) -> Pool:
    """A pool over hosts, in lockstep."""
    engine = Engine("serial", slots=count, cluster=address, hosts=count, lockstep=True)
    place = stack.enter_context(ClusterPlace(engine, print, folder / "states", count))
    return place.pool(task, Choice("serial", count, threads=1, devices=("cpu",) * count))


class Ray:
    """A cluster of this machine, as long as the block lasts."""

    def __init__(self, cpus: int) -> None:
        self._cpus = cpus

    def __enter__(self) -> str:
        self._folder = tempfile.TemporaryDirectory(prefix="ray")
        options = ["--head", "--port=0", f"--num-cpus={self._cpus}", "--include-dashboard=false"]
        options += [f"--temp-dir={self._folder.name}", "--disable-usage-stats", "--block"]
        command = [str(Path(sys.executable).with_name("ray")), "start", *options]
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "RAY_worker_niceness": "0"},
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "--address=" in line:
                return line.partition("--address=")[2].split()[0].strip("'")
        raise RuntimeError("Ray did not start")

    def __exit__(self, *_: object) -> None:
        ray.shutdown()
        self._process.terminate()
        self._process.wait()
        self._folder.cleanup()


if __name__ == "__main__":
    main()
