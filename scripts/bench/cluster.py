"""A search over a thousand hosts on a virtual clock: what share of the hosts' time trains.

Run: python scripts/bench/cluster.py --simulate [--hosts 1000] [--slots 8] [--segment 60]
         [--minutes 40] [--lockstep] [--profile FILE]
Loop, search, sampler, early stopping, journal and checkpoint are the real ones. The CPU time that
they take here is added to the virtual clock, while hosts that have come to a validation wait; so is
a millisecond for each message to a host and its answer. Waiting for the disk is not in it. A host
takes a segment's time with a jitter of 5 %. In an hour 5 % of the hosts are lost; another one takes
the place after 60 s and trains again what was not in the last checkpoint.
"""

import argparse
import cProfile
import heapq
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from overhead import IdlePool, idle_task

from lrtune.engine import Progress
from lrtune.engine.pool import Snapshot
from lrtune.search import (
    Limits,
    Loop,
    Search,
    SearchState,
    Space,
    SurrogateSampler,
    loop,
    open_study,
)
from lrtune.search.early_stopping import Stopping
from lrtune.search.trials import TrialQueue

JITTER = 0.05  # standard deviation of a segment's time, as a share
LOST = 0.05  # of the hosts, in an hour
REPLACED = 60.0  # seconds until another host takes the place of one that is lost
MESSAGE = 1e-3  # seconds of the head for ``advance`` and its answer, over Ray


class OverTime(Exception):
    """The virtual time is over."""


class VirtualPool(IdlePool):
    """Hosts that train nothing, on a clock that the head's CPU time and their segments move on."""

    def __init__(
        self, hosts: int, slots: int, segment: float, seconds: float, *, in_order: bool
    ) -> None:
        """``seconds``: when it ends; ``segment``: seconds that one takes; ``slots``: of a host."""
        super().__init__(idle_task(), hosts * slots)
        self.in_order = in_order
        self.now = 0.0
        self.reports = 0
        self._hosts, self._segment, self.end = hosts, segment, seconds
        self._rng = np.random.default_rng(0)
        self._cpu = time.process_time()
        self._saved = np.zeros(hosts)  # seconds trained since the last checkpoint
        self._lost = [self._rng.exponential(3600 / LOST) for _ in range(hosts)]
        width = slots * (hosts if in_order else 1)
        self._groups = [range(first, first + width) for first in range(0, self.slots, width)]
        self._due: dict[int, tuple[float, float, float]] = {}  # by group: end, seconds, share
        self._queue: list[tuple[float, int]] = []  # those ends
        self._trained = 0.0  # seconds of hosts, in segments that are over

    @property
    def groups(self) -> Sequence[range]:
        return self._groups

    def clock(self) -> float:
        """Seconds now: the head's work moves it on."""
        cpu = time.process_time()
        self.now += cpu - self._cpu
        self._cpu = cpu
        return self.now

    def spent(self) -> bool:
        if self.clock() >= self.end:
            raise OverTime
        return False

    @property
    def share(self) -> float:
        """Of the hosts' time until the end, what was spent in segments that count."""
        under_way = (
            share * min(seconds, max(0.0, self.end - end + seconds))
            for end, seconds, share in self._due.values()
        )
        return (self._trained + sum(under_way)) / (self._hosts * self.end)

    def launch(self, group: int) -> None:
        hosts = [group] if not self.in_order else [*range(self._hosts)]
        now, share = self.clock(), 0.0
        slots = self._groups[group]
        share = sum(slot in self._updates for slot in slots) / len(slots)
        ends, took = [], []
        for host in hosts:
            seconds = self._segment * max(0.5, self._rng.normal(1, JITTER))
            end = now + seconds
            if self._lost[host] < end:
                lost = max(now, self._lost[host])
                end = lost + REPLACED + self._saved[host] + seconds
                self._lost[host] = end + self._rng.exponential(3600 / LOST)
            self._saved[host] += seconds
            ends.append(end)
            took.append(seconds)
        self._due[group] = max(ends), float(np.sum(took)), share
        heapq.heappush(self._queue, (max(ends), group))

    def ready(self, launched: Sequence[int]) -> int:
        end, group = heapq.heappop(self._queue)
        self.now = max(self.clock(), end)
        return group

    def collect(self, group: int) -> list[Progress]:
        self.clock()
        _, seconds, share = self._due.pop(group)
        self._trained += seconds * share
        slots = (slot for slot in self._groups[group] if slot in self._updates)
        checkpoints = self._checkpoints
        reached = [
            self._progress(
                slot, checkpoints[np.searchsorted(checkpoints, self._updates[slot], "right")]
            )
            for slot in slots
        ]
        self.reports += len(reached)
        self._cpu = time.process_time()  # what stands for training costs the head nothing
        self.now += MESSAGE * (self._hosts if self.in_order else 1)
        return reached

    def snapshot(self, slot: int) -> Snapshot:
        self._saved[slot * self._hosts // self.slots] = 0.0
        return super().snapshot(slot)


class TimedSearch(Search):
    """Knows what its trials cost the head until they start."""

    seconds, started = 0.0, 0

    def next(self, *given: Any) -> Any:
        began = time.process_time()
        active = super().next(*given)
        self.seconds += time.process_time() - began
        self.started += active is not None
        return active


def simulate(pool: VirtualPool, folder: Path) -> TimedSearch:
    """Search until the time is over."""
    space, total = Space(), pool.task.horizon
    study = open_study(folder / "journal.log", "cluster", "minimize")
    study.sampler = SurrogateSampler(space, total)
    stopping = Stopping()
    study.pruner = stopping.make_pruner(total, len(pool.task.checkpoints))
    loop.time = SimpleNamespace(monotonic=pool.clock)  # when a checkpoint is due
    TrialQueue.close = lambda *_: None  # nobody goes on with it
    state = SearchState(Limits(trials=10**9))
    search = TimedSearch(study, space, pool, state, stopping=stopping, watch=lambda s: s.share)
    checkpoint = folder / "checkpoint.safetensors"
    try:
        Loop(pool, [search], checkpoint=checkpoint, spent=pool.spent).run()
    except (OverTime, KeyboardInterrupt):
        pool.end = min(pool.end, pool.now)
        return search
    raise AssertionError("the search ended before its time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulate", action="store_true", required=True)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=8, help="of a host")
    parser.add_argument("--segment", type=float, default=60.0, help="seconds")
    parser.add_argument("--minutes", type=float, default=40.0, help="on the virtual clock")
    parser.add_argument("--lockstep", action="store_true")
    parser.add_argument("--profile", help="a file for cProfile's statistics")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pool = VirtualPool(
        arguments.hosts,
        arguments.slots,
        arguments.segment,
        60 * arguments.minutes,
        in_order=arguments.lockstep,
    )
    profile = cProfile.Profile(time.process_time)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.profile:
            profile.enable()
        search = simulate(pool, Path(folder))
        profile.disable()
    cpu = time.process_time() - began
    if arguments.profile:
        profile.dump_stats(arguments.profile)
    heads = "hosts x slots", "segment", "served", "minutes", "trials", "reports", "ms a report"
    print(f"| {' | '.join(heads)} | ms a trial | trains |")
    print(
        f"| {arguments.hosts:,} x {arguments.slots} | {arguments.segment:g} s | "
        f"{'in lockstep' if arguments.lockstep else 'as they come'} | {pool.end / 60:.0f} | "
        f"{search.started:,} | "
        f"{pool.reports:,} | {1000 * (cpu - search.seconds) / max(1, pool.reports):.2f} | "
        f"{1000 * search.seconds / search.started:.1f} | {pool.share:.1%} |"
    )


if __name__ == "__main__":
    main()
