"""What a very long search costs: memory, processor time a trial, the journal, report, dashboard.

Run: python scripts/bench/load.py [--trials 10000] [--running 16] [--hosts] [--copies] [--marks N …]
The whole of `lrtune.tune` but its trainer, which is made up and whose time is left out: our
sampler, our early stopping, the journal. With --hosts each slot is a group of its own, as in a
cluster. A row tells of the trials since the row before; with --copies, of the last 200 before the
mark alone: the others are copies of those before, with which the search goes on.
"""

import argparse
import gc
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import optuna
import psutil
from madeup import ERROR, MadeUpPool

import lrtune
from lrtune.engine import Choice, Progress
from lrtune.engine.pool import Snapshot
from lrtune.run.confirm import Listener
from lrtune.run.folder import Run
from lrtune.search import Search, SearchState
from lrtune.search.storage import RECORD, START
from lrtune.tasks import Task

MARKS = (500, 1_000, 2_000, 3_000, 5_000, 7_500, 10_000)  # trials
WINDOW = 200  # trials before a mark that are no copies
VALIDATIONS = 20
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")


class Cost:
    """Processor seconds of this process, and those within some of its functions."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}

    def of(self, kind: type, name: str, what: str) -> Any:
        """A patch that counts a method's time as that of ``what``."""
        method = getattr(kind, name)

        def timed(*arguments: Any, **given: Any) -> Any:
            start = time.process_time()
            try:
                return method(*arguments, **given)
            finally:
                self.seconds[what] = self.seconds.get(what, 0) + time.process_time() - start
                self.calls[what] = self.calls.get(what, 0) + 1

        return patch.object(kind, name, timed)


class Trainer(MadeUpPool):
    """Made up; its slots in one group, or each in its own."""

    def __init__(self, task: Task, slots: int, hosts: bool) -> None:
        super().__init__(task, ERROR)
        self.slots = slots
        self._groups = [range(slot, slot + 1) for slot in range(slots)]
        self._groups = self._groups if hosts else [range(slots)]
        self.in_order = not hosts

    @property
    def groups(self) -> Sequence[range]:
        return self._groups

    def collect(self, group: int) -> list[Progress]:
        return [self._next(slot) for slot in self._groups[group] if slot in self._trials]

    def _next(self, slot: int) -> Progress:
        trial: Snapshot = self._trials[slot]
        return self._at(
            slot, trial, self._checkpoints[bisect_right(self._checkpoints, trial.update)]
        )


class Watch(Listener):
    """Notes what the search has cost whenever enough trials are over."""

    def __init__(self, cost: Cost, journal: Path, marks: Sequence[int]) -> None:
        self._cost, self._journal = cost, journal
        self._marks = [*marks]
        self._fresh = False
        self.rows: list[dict[str, float]] = []
        self._before = self._now(0)

    def search(self, state: SearchState) -> None:
        if self._fresh:  # what it took to read the trials before is none of a trial's
            self._fresh = False
            self._before = self._now(state.trials) | {"cpu": time.process_time()}
        if not self._marks or state.trials < self._marks[0]:
            return
        self._marks.pop(0)
        now = self._now(state.trials)
        since = {name: now[name] - self._before.get(name, 0) for name in now}
        spent = since["cpu"] - since["trainer"]
        row = {
            "trials": state.trials,
            "reports a trial": since["reports"] / since["trials"],
            "ms a trial": 1000 * spent / since["trials"],
            "ms to ask": 1000 * since["ask"] / since["trials"],
            "ms a report": 1000 * (spent - since["ask"]) / since["reports"],
            "MB": now["resident"] / 1e6,
            "journal MB": now["journal"] / 1e6,
        }
        self.rows.append(row)
        print("  ".join(f"{name} {value:,.2f}" for name, value in row.items()), flush=True)
        self._before = self._now(state.trials) | {"cpu": time.process_time()}

    def started(self, *_: object) -> None:
        self._fresh = True

    def _now(self, trials: int) -> dict[str, float]:
        cpu, cost = time.process_time(), self._cost
        gc.collect()
        return {
            "trials": trials,
            "cpu": cpu,
            "trainer": cost.seconds.get("trainer", 0),
            "ask": cost.seconds.get("ask", 0) - cost.seconds.get("start", 0),
            "reports": cost.calls.get("report", 0),
            "resident": psutil.Process().memory_info().rss,
            "journal": self._journal.stat().st_size if self._journal.exists() else 0,
        }


def search(
    folder: Path, trials: int, slots: int, hosts: bool, copies: bool, at: Sequence[int]
) -> tuple[Run, list[dict[str, float]]]:
    """A run of so many trials, and what it cost on the way."""
    task = replace(lrtune.load_task("digits", epochs=10), validations=VALIDATIONS)
    pool, cost = Trainer(task, slots, hosts), Cost()
    marks = [mark for mark in at if mark < trials] + [trials]
    watch = Watch(cost, folder / "journal.log", marks)
    choice = Choice("serial", slots, threads=1, why="made up")
    with (
        patch("lrtune.run.tune.choose_pool", lambda *_, **__: (pool, choice)),
        patch("lrtune.run.tune.Run.write", lambda _: None),  # it is measured apart
        cost.of(Trainer, "collect", "trainer"),
        cost.of(Trainer, "start", "trainer"),
        cost.of(Trainer, "start", "start"),
        cost.of(Search, "next", "ask"),
        cost.of(Search, "ending", "report"),
    ):
        for mark in marks if copies else [trials]:
            if copies and mark != marks[0]:
                copy(Run(folder), mark - WINDOW)
            run = lrtune.tune(
                task,
                budget=lrtune.Budget(trials=mark),
                peak_lr=(1e-3, 1.0),
                out=folder,
                listener=watch,
            )
    return run, watch.rows


def copy(run: Run, count: int) -> None:
    """Fill the study up to so many trials with copies of those that there are."""
    study = run.study()
    trials = study.trials
    for index in range(len(trials), count):
        trial = deepcopy(trials[index % len(trials)])
        trial.user_attrs[START]["index"] = trial.user_attrs[RECORD]["ended"] = index
        study.add_trial(trial)


def report(run: Run) -> dict[str, float]:
    """What it takes to write the results."""
    wall, cpu = time.perf_counter(), time.process_time()
    run.write()
    return {
        "seconds": time.perf_counter() - wall,
        "processor seconds": time.process_time() - cpu,
        "report MB": (run.folder / "report.html").stat().st_size / 1e6,
        "trials.parquet MB": (run.folder / "trials.parquet").stat().st_size / 1e6,
    }


def dashboard(run: Run) -> dict[str, float]:
    """Seconds until optuna-dashboard's page of the study shows its first figure.

    They begin with the request; the server is ours, just started, and has read the study.
    """
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "lrtune", "dashboard", str(run.folder), "--port", "0"]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, **quiet) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        server = psutil.Process(process.pid)
        try:
            opened = sum(server.cpu_times()[:2])
            with sync_playwright() as playwright:
                chromium = playwright.chromium.launch(
                    executable_path="/usr/bin/chromium", args=QUIET
                )
                page = chromium.new_page()
                start = time.perf_counter()
                page.goto(address, timeout=300_000, wait_until="commit")
                page.locator(".main-svg").first.wait_for(timeout=300_000)
                seconds = time.perf_counter() - start
                browsers = [
                    child
                    for child in psutil.Process().children(recursive=True)
                    if "chrom" in child.name()
                ]
                drawn = sum(sum(child.cpu_times()[:2]) for child in browsers)
                chromium.close()
            return {
                "seconds": seconds,
                "server's processor seconds to start": opened,
                "to answer": sum(server.cpu_times()[:2]) - opened,
                "browser's processor seconds": drawn,
            }
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--running", type=int, default=16, help="trials side by side")
    parser.add_argument("--hosts", action="store_true", help="each in a group of its own")
    parser.add_argument("--copies", action="store_true", help="of most trials")
    parser.add_argument("--marks", type=int, nargs="+", default=MARKS, help="trials; a row each")
    parser.add_argument("--keep", type=Path, help="the run's folder; one that is there is measured")
    parser.add_argument("--only-search", action="store_true")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with nullcontext(arguments.keep) if arguments.keep else tempfile.TemporaryDirectory() as place:
        folder, found = Path(place) / "run", dict[str, Any]()
        if (folder / "run.json").exists():
            run = Run(folder)
        else:
            given = arguments.trials, arguments.running, arguments.hosts, arguments.copies
            run, found["search"] = search(folder, *given, arguments.marks)
        if not arguments.only_search:
            found["report"] = report(run)
            print(json.dumps(found["report"], indent=1), flush=True)
            found["dashboard"] = dashboard(run)
    found |= {
        "running": arguments.running,
        "hosts": arguments.hosts,
        "validations": VALIDATIONS,
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "python": platform.python_version(),
        "optuna": optuna.__version__,
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
