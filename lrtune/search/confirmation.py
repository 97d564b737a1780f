"""Confirmation: schedules trained again on seeds that the search never saw, and the log of them."""

import json
import math
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrtune.engine import Pool, Progress
from lrtune.engine.checkpoint import Note
from lrtune.errors import InputError, as_utf8
from lrtune.files import check, plain
from lrtune.schedule import Schedule
from lrtune.search.early_stopping import diverged
from lrtune.search.loop import Checkpointer, Work
from lrtune.search.storage import Curves, Ending, Judge
from lrtune.search.trials import Training

FINALS = 0x46494E41  # what sets their seeds apart from all others
FINAL = "final "  # what the keys of final trainings begin with
COLUMNS = (
    "horizon",
    "state",
    "reason",
    "split",
    "updates",
    "judged_at",
    "seconds",
    "blocks",
    "hosts",
)


@dataclass(frozen=True, slots=True)
class Job:
    """One training to be done."""

    schedule: Schedule
    seed: int

    @property
    def key(self) -> str:
        """Its key in a checkpoint."""
        return f"{FINAL}{self.seed} {zlib.crc32(self.schedule.to_json().encode()):08x}"


@dataclass(frozen=True, slots=True)
class Final:
    """One training on a fresh seed that is over."""

    schedule: Schedule
    seed: int  # of everything random that it met
    horizon: int  # updates of the whole training
    state: str  # complete, diverged or failed
    reason: str  # why
    curves: Curves  # on the validation split, on the way
    updates: int  # done
    seconds: float  # of training and validation
    split: str = "val"  # of ``metrics``: test, or val where there is no test split
    metrics: dict[str, float] = field(default_factory=dict)  # of the weights that are judged
    judged_at: int | None = None  # the update whose weights were judged; None unless complete
    blocks: list[float] = field(default_factory=list)  # the objective on parts of the test split
    hosts: list[str] = field(default_factory=list)  # that trained it, in order; none: this machine

    def to_json(self) -> dict[str, Any]:
        """As a line of the log."""
        line = {name: getattr(self, name) for name in self.__slots__}
        line |= {"schedule": self.schedule.to_dict(), "curves": self.curves.to_json()}
        return dict(plain(line))


def append_final(path: Path, final: Final) -> None:
    """Add a line to the log of finals, whole and on the disk."""
    line = json.dumps(final.to_json()).encode() + b"\n"
    with path.open("ab+") as log:
        if log.tell():
            log.seek(-1, os.SEEK_END)
            line = line if log.read() == b"\n" else b"\n" + line  # the last one was torn
        check()
        log.write(line)
        log.flush()
        os.fsync(log.fileno())


def read_finals(path: Path) -> pd.DataFrame:
    """The log as a table, one row per training, the first of a schedule, a seed and a horizon.

    A line that a kill tore is left out.

    Raises:
        InputError: a line is whole, but not one of ours.

    Returns:
        Columns ``family``, ``schedule`` (JSON), ``peak_lr``, ``seed``, ``horizon``, ``state``,
        ``reason``, ``split``, ``updates``, ``judged_at`` (NaN unless complete), ``seconds``,
        ``blocks``, ``hosts``, ``step``, ``rate``, ``train_loss``, ``final_M`` of each metric (NaN
        unless complete) and ``val_M``, its curve on validation.
    """
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            kept = json.loads(line)
        except (ValueError, RecursionError):
            continue
        try:
            rows.append(_row(kept))
        except (LookupError, TypeError, AttributeError, InputError) as error:
            raise InputError(
                f"{path}: damaged: remove it, and its trainings are repeated"
            ) from error
    own = ("family", "schedule", "peak_lr", "seed", *COLUMNS, "step", "rate", "train_loss")
    table = pd.DataFrame(rows, columns=None if rows else list(own))
    return table.drop_duplicates(["schedule", "seed", "horizon"], ignore_index=True)


def _row(kept: dict[str, Any]) -> dict[str, Any]:
    schedule, curves = Schedule.from_dict(kept["schedule"]), Curves.from_json(kept["curves"])
    row = {
        "family": schedule.family,
        "schedule": schedule.to_json(),
        "peak_lr": schedule.peak_lr,
        "seed": kept["seed"],
        **{name: kept[name] for name in COLUMNS},
        "step": curves.step,
        "rate": curves.rate,
        "train_loss": curves.train_loss,
    }
    row["reason"] = as_utf8(kept["reason"])
    for name, curve in curves.metrics.items():
        row[f"final_{name}"] = kept["metrics"].get(name, math.nan)
        row[f"val_{name}"] = curve
    return row


class Confirmation(Work[Training]):
    """Trains jobs to the end, and evaluates them on the test split."""

    def __init__(
        self,
        pool: Pool,
        wanted: Callable[[], Sequence[Job] | None],
        over: Callable[[Final], None],
        *,
        judge: Judge = "last",
        watch: Callable[[float], None] = lambda under_way: None,
    ) -> None:
        """Train nothing yet.

        Args:
            pool: that trains.
            wanted: what is still to be trained, in the order in which it is to start, what is under
                way among it; None as long as that is not known.
            over: called with each training that is over.
            judge: which weights of a training are evaluated.
            watch: called after each segment with what is done of those under way, in trainings.
        """
        self._pool = pool
        self._task = pool.task
        self._wanted = wanted
        self._over = over
        self._judge = judge
        self._watch = watch
        self._running: dict[Job, Training] = {}
        self._began = False

    def next(self, slot: int, checkpointer: Checkpointer) -> Training | None:
        """Start the first job that is not under way."""
        wanted = self._wanted()
        if wanted is None:
            return None
        if not self._began:  # what a session before left may be over, or of another horizon
            self._began = True
            checkpointer.forget(FINAL, {job.key for job in wanted}, horizon=self._task.horizon)
        job = next((job for job in wanted if job not in self._running), None)
        if job is None:
            return None
        own: dict[str, Any] = {"key": job.key, "name": f"{job.schedule.family} on seed {job.seed}"}
        resume = partial(Training.resume, job.schedule, **own)
        final = checkpointer.take(job.key, self._pool, slot, resume)
        if final is None:
            final = Training.start(self._pool, slot, job.schedule, job.seed, **own)
        self._running[job] = final
        return final

    def ending(self, final: Training, progress: Progress) -> Ending | None:
        """Where it diverges, or at its end."""
        losses, name = final.curves.loss, self._task.objective.name
        # At the end there is no second look at what might have been a spike.
        seen = losses if progress.update < self._task.horizon else losses + losses[-1:]
        why = diverged(seen, final.untrained.loss, progress, name)
        if why is not None:
            return Ending("diverged", why)
        if progress.update == self._task.horizon:
            return Ending("complete", "reached the horizon")
        if self._judge == "best" and self._judged_at(final) == progress.update:
            try:
                final.best = self._pool.snapshot(progress.slot)
            except OSError as error:
                raise InputError(f"judge=best: no weights can be kept: {error}") from error
        return None

    def _judged_at(self, final: Training) -> int:
        objective = self._task.objective
        return final.curves.judged(objective.name, objective.direction == "minimize", self._judge)

    def ended(self, final: Training, ending: Ending, progress: Progress) -> None:
        """Evaluate it, and hand it over."""
        del self._running[Job(final.schedule, final.seed)]
        if ending.state == "complete":
            self._over(self._evaluated(final, progress.slot, ending))
        else:
            self._over(self._final(final, ending))

    def _evaluated(self, final: Training, slot: int, ending: Ending) -> Final:
        """On the test split: as it is, or as it was at its best."""
        at = self._judged_at(final)
        if final.best is not None and at < self._task.horizon:
            self._pool.release(slot)
            self._pool.restore(slot, final.best)
        judged = self._pool.evaluate(slot)
        final.seconds += judged.seconds
        if judged.error is not None:
            return self._final(final, Ending("failed", judged.error))
        name = self._task.objective.name
        if not math.isfinite(judged.metrics[name]):
            why = f"{name} is {judged.metrics[name]} at the end"
            return self._final(final, Ending("diverged", why))
        return replace(
            self._final(final, ending),
            split="val" if self._task.test is None else "test",
            metrics=judged.metrics,
            judged_at=at,
            blocks=judged.blocks,
        )

    def _final(self, final: Training, ending: Ending) -> Final:
        how = self._task.horizon, ending.state, ending.reason
        done = final.curves, final.updates, final.seconds
        return Final(final.schedule, final.seed, *how, *done, hosts=final.hosts)

    def segment_over(self, slots: range) -> None:
        """Tell how much is done."""
        done = sum(final.updates for final in self._running.values())
        self._watch(done / self._task.horizon)

    def note(self, slot: int, final: Training) -> Note:
        """Of which horizon it is."""
        return {"horizon": self._task.horizon, **final.note()}


def final_seeds(seed: int, count: int) -> list[int]:
    """Seeds for finals: the same first ones for any count, none of them the search's own."""
    drawn = [
        int(np.random.SeedSequence([FINALS, seed, number]).generate_state(1)[0])
        for number in range(count + 1)
    ]
    return [one for one in drawn if one != seed][:count]
