"""`lrtune` in a process of its own over a cluster, and what its run holds."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

import pandas as pd

import lrtune
from tests.cluster.rays import ROOT, Rays, until

# Of a training, what does not depend on the time that it took.
SAME = ["number", "state", "reason", "value", "schedule", "seed", "updates", "evidence", "audit"]
SAME += ["step", "loss", "train_loss", "rate", "averaged", "val_cross_entropy"]
SEARCH = "search digits --epochs 2 --batch-size 64 --trials 12 --no-confirm --no-transfer "
SEARCH += "--families cosine,constant,plateau --engine serial --slots 4 --audit 0.3"
LOCKSTEP = f"{SEARCH} --hosts 2 --lockstep --cluster auto"


class Command:
    """A command whose events and lines are read as they come."""

    def __init__(self, rays: Rays | None, line: str, *words: object) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        if rays is not None:
            environment = {**rays.environment, "RAY_ADDRESS": rays.address}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lrtune", *line.split(), "--json", *map(str, words)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.out: list[str] = []
        self.err: list[str] = []
        streams = [(self.process.stdout, self.out), (self.process.stderr, self.err)]
        self._readers = [threading.Thread(target=_read, args=both, daemon=True) for both in streams]
        for reader in self._readers:
            reader.start()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.copy()]

    @property
    def ended(self) -> int:
        """Trainings that are over."""
        return sum(event["event"] in ("trial", "final") for event in self.events)

    def until(self, trainings: int) -> None:
        """Until so many trainings are over, and the next ones are under way."""
        until(lambda: self.ended >= trainings or self.process.poll() is not None, 300, self.text)
        assert self.process.poll() is None, self.text()

    def text(self) -> str:
        return "".join([*self.out[-5:], *self.err[-40:]])

    def end(self, seconds: float = 400) -> int:
        """Its exit code, when it is over."""
        until(lambda: self.process.poll() is not None, seconds, self.text)
        for reader in self._readers:
            reader.join()
        return self.process.returncode

    def kill(self) -> None:
        self.process.kill()
        self.end()


def _read(stream: IO[str], lines: list[str]) -> None:
    with stream:
        for line in stream:
            lines.append(line)


def done(rays: Rays | None, line: str, *words: object) -> Command:
    """A command that is over, without an error."""
    command = Command(rays, line, *words)
    assert command.end() == 0, command.text()
    return command


def course(out: Path) -> pd.DataFrame:
    """The search's trainings."""
    return lrtune.open(out).trials()[SAME]


def same(out: Path, other: Path) -> None:
    pd.testing.assert_frame_equal(course(out), course(other))
