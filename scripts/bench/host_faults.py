"""How long does a search stand still where a host is lost? Until the trial's next validation.

Run, as root (network namespaces): python scripts/bench/host_faults.py [--repeats 5]
A Ray cluster on this machine has its head here and two nodes in network namespaces, with room for
two hosts each; its health checks are those of `lrtune guide cluster`. Two hosts train a digits MLP
in segments of a tenth of a second. The process of one host is killed, or its whole machine is, or
its link is cut; the seconds run from then to the end of the segment that both had begun. The start
of another process is in them, the task, the trial's last state and the updates since then.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import ray
import torch

from lrtune.engine import Choice
from lrtune.engine.devices import Engine
from lrtune.engine.place import place_of
from lrtune.engine.spread import SpreadPool
from lrtune.tasks import Task, load_task
from tests.cluster.rays import Network, Node, Rays, kill

HEALTH = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
SEGMENTS = 5  # before the fault
RATE = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    task = load_task("digits", epochs=100, batch_size=64)
    faults: dict[str, Callable[[Network, Node, int], None]] = {
        "process killed": lambda network, node, machine: kill(node.hosts),
        "machine killed": lambda network, node, machine: node.kill(),
        "link cut": lambda network, node, machine: network.cut(machine),
    }
    seconds: dict[str, list[float]] = {name: [] for name in faults}
    for _ in range(repeats):
        for name, fault in faults.items():
            seconds[name].append(after(fault, task))
            print(f"{name}: {seconds[name][-1]:.1f} s", flush=True)
    for name, found in seconds.items():
        print(f"{name}: median {median(found):.1f} s ({min(found):.1f} to {max(found):.1f})")
    print(json.dumps({"seconds": seconds, "cores": os.cpu_count(), "load": os.getloadavg()}))


def after(fault: Callable[[Network, Node, int], None], task: Task) -> float:
    """Seconds from a fault to the end of the segment in which it was, in a cluster of its own."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        network = stack.enter_context(Network(2))
        rays = stack.enter_context(Rays(network.ip, **HEALTH))
        rays.head.wait()
        nodes = [
            rays.add(2, ip=network.ip_of(machine), inside=network.inside(machine)).wait()
            for machine in range(2)
        ]
        ray.init(rays.address, log_to_driver=False, logging_level=logging.ERROR, namespace="lrtune")
        stack.callback(ray.shutdown)
        engine = Engine("serial", slots=2, cluster=rays.address, hosts=2, lockstep=True)
        place = stack.enter_context(place_of(engine, print, folder / "states", lambda n: (n, "")))
        pool = place.pool(task, Choice("serial", 2, threads=1))
        assert isinstance(pool, SpreadPool)
        for slot in range(2):
            pool.start(slot, np.full(task.horizon, RATE), seed=slot)
        for _ in range(SEGMENTS):
            pool.advance()
            for slot in range(2):
                pool.snapshot(slot)
        lost = next(machine for machine in range(2) if nodes[machine].hosts)
        pool.launch(0)
        began = time.perf_counter()
        fault(network, nodes[lost], lost)
        reached = pool.collect(0)
        elapsed = time.perf_counter() - began
        assert len(reached) == 2 and pool.losses  # another one may be started on the dead machine
        return elapsed


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
