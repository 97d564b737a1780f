"""Searches with an idle trainer, and processes that are killed while they search."""

import math
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pandas as pd
import torch
from optuna.pruners import BasePruner, NopPruner
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
    frame,
    loop,
    open_study,
    records,
)

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = Space(("cosine", "constant", "plateau", "wsd"), peak_lr=(1e-3, 0.5))
TRIALS, VALIDATIONS = 24, 8
CHECKPOINT = "checkpoint.safetensors"
HERE = Path(__file__).parent
PATH = [str(HERE.parents[1] / "scripts" / "bench"), str(HERE)]  # as conftest.py has it


class SpoiltPool(IdlePool):
    """Spoils what a pool reports, as ``spoil(progress)`` says; counts what it restores."""

    def __init__(self, spoil: Callable[[Progress], Progress], slots: int = 1) -> None:
        super().__init__(idle_task(VALIDATIONS), slots)
        self.spoil = spoil
        self.restored = 0  # trials
        self.spared = 0  # updates that these had done

    def advance(self) -> list[Progress]:
        return [self.spoil(progress) for progress in super().advance()]

    def snapshot(self, slot: int) -> Snapshot:
        return replace(super().snapshot(slot), tensors={"weights/none": torch.zeros(3)})

    def restore(self, slot: int, snapshot: Snapshot) -> None:
        assert slot not in self._updates
        super().restore(slot, snapshot)
        self.restored += 1
        self.spared += snapshot.update


class EdgyPool(SpoiltPool):
    """Every third trial or so diverges on the way, so that slots fall out of step."""

    def __init__(self, slots: int) -> None:
        super().__init__(self.diverge, slots)

    def diverge(self, progress: Progress) -> Progress:
        early = 10 + int(1e6 * self._rates[progress.slot][20]) % 900
        return replace(progress, loss=math.nan) if progress.update > early else progress


def study_in(folder: Path, pruner: BasePruner | None = None) -> optuna.Study:
    sampler = SurrogateSampler(SPACE, idle_task(VALIDATIONS).horizon, seed=5)
    return open_study(
        folder / "journal.log", "s", "minimize", sampler=sampler, pruner=pruner or NopPruner()
    )


def search_in(
    folder: Path,
    pool: IdlePool,
    budget: Limits,
    pruner: BasePruner | None = None,
    **kept: object,
) -> pd.DataFrame:
    study = study_in(folder, pruner)
    search = Search(study, SPACE, pool, SearchState(budget), seed=5, owner="me")
    Loop(pool, [search], **kept).run()
    return found_in(folder)


def found_in(folder: Path) -> pd.DataFrame:
    return frame(records(study_in(folder)))


SAME = ["number", "family", "state", "value", "peak_lr", "schedule", "step", "loss", "train_loss"]
SAME += ["rate", "val_cross_entropy", "updates"]


def assert_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(found[SAME], expected[SAME])


def checkpoint_every_segment() -> None:
    loop.due = lambda since, cost: True


# Killed as it stores its n-th entry, or just before it puts its n-th checkpoint in place.
DIES = """
import os, signal, sys
sys.path[:0] = {path!r}
from pathlib import Path
from optuna.storages.journal import JournalFileBackend
import idle

left = {count}

def counts(done):
    def counted(*arguments, **named):
        global left
        left -= 1
        if left == 0 and {before!r}:
            os.kill(os.getpid(), signal.{signal})
        done(*arguments, **named)
        if left == 0:
            os.kill(os.getpid(), signal.{signal})
    return counted

{owner}.{function} = counts({owner}.{function})
kept = {{}}
if {checkpoints!r}:
    idle.checkpoint_every_segment()
    kept["checkpoint"] = Path({folder!r}) / idle.CHECKPOINT
idle.search_in(
    Path({folder!r}),
    idle.EdgyPool({slots}),
    idle.Limits(trials={trials}),
    **kept,
)
"""


def killed(
    folder: Path,
    slots: int,
    by: str,
    count: int,
    checkpoints: bool,
    at: str,
) -> None:
    """Search in another process, which is killed before it is done.

    Args:
        folder: of the study and the checkpoint.
        slots: of the pool.
        by: name of the signal.
        count: how many entries or checkpoints until then.
        checkpoints: whether there is one after each segment.
        at: "entry" or "checkpoint".
    """
    owner, function = {
        "entry": ("JournalFileBackend", "append_logs"),
        "checkpoint": ("os", "replace"),
    }[at]
    code = DIES.format(
        path=PATH,
        folder=str(folder),
        slots=slots,
        signal=by,
        count=count,
        checkpoints=checkpoints,
        trials=TRIALS,
        before=at == "checkpoint",
        owner=owner,
        function=function,
    )
    dies(code, by)


def dies(code: str, by: str) -> None:
    """Run code that ends by this signal."""
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    # Python ends by SIGINT where nobody catches a KeyboardInterrupt.
    number = signal.SIGKILL if by == "SIGKILL" else signal.SIGINT
    assert ended.returncode == -number, ended.stderr


def flat(progress: Progress) -> Progress:
    """Learns nothing."""
    return replace(progress, loss=1.0)
