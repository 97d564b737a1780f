"""``best.json``: the schedule to use, what it was found with, and how sure it is."""

import json
import math
from pathlib import Path
from typing import Any, ClassVar, Self

import pandas as pd

from lrtune.errors import InputError
from lrtune.export import FoundOptimizer, replay
from lrtune.format import limited
from lrtune.schedule import Schedule, load
from lrtune.verdict.recommendation import described_training, of_verdict
from lrtune.verdict.settings import (
    Document,
    File,
    Judge,
    Number,
    RunSettings,
    StoredSchedule,
    Training,
)
from lrtune.verdict.summary import beside, figures_in, recommended
from lrtune.verdict.verdict import Verdict

SAME = ("study", "task", "horizon", "objective", "optimizer")  # what makes a task that one
LINE = 400  # characters of a comment, whose names come from anyone


class Found(Document):
    """The trial that tried the schedule: its metrics, or of one that ended early the forecast."""

    trial: int
    seed: int
    split: str = "val"
    metrics: dict[str, Number] | None = None
    forecast: dict[str, Any] | None = None


class Certainty(Document):
    """How sure the schedule is: ``lines`` say it in words, ``verdict.json`` in numbers."""

    lines: list[str]
    place: str
    families: list[str]


class Guess(Document):
    """What a guess rests on, before anything was searched; ``cost`` is what such guesses cost."""

    params: dict[str, Any]
    transfer: str
    cost: dict[str, float]


class BestSchedule(Training, File):
    """``best.json``, which ``lrtune.load`` reads too; the run's settings are ``Training``'s."""

    WHAT: ClassVar[str] = "a search's best schedule"
    FORMAT: ClassVar[int] = 1

    format: int = FORMAT
    schedule: StoredSchedule
    resolved: dict[str, Any]  # the schedule's settings at the horizon
    found: Found | None = None
    verdict: Certainty | None = None
    judge: Judge = "last"
    guess: Guess | None = None

    @classmethod
    def of(cls, trials: pd.DataFrame, run: RunSettings, verdict: Verdict | None) -> Self | None:
        """The verdict's winner, or before one the best trial.

        Where no trial was trained to its end it is the one with the best forecast, which ``found``
        then holds; None where there is none either.
        """
        row = recommended(trials, run.objective.direction)
        if verdict is not None and verdict.decided:
            first = verdict.recommended
            schedule, resolved = first.schedule, first.resolved
            rows = trials[trials["number"] == first.trial]
            row = None if rows.empty else rows.iloc[0]
        elif row is not None:
            schedule, resolved = Schedule.from_json(row["schedule"]), json.loads(row["resolved"])
        else:
            return None
        same = {name: getattr(run, name) for name in (*Training.model_fields, "judge")}
        return cls(
            **same
            | {"optimizer": run.optimizer.tuned(schedule)}
            | {"task": run.task.tuned(schedule, run.tune)},
            schedule=schedule,
            resolved=resolved,
            found=None if row is None else _found(row, run),
            verdict=None if verdict is None else _certainty(verdict),
        )

    @property
    def found_optimizer(self) -> FoundOptimizer:
        """The optimizer that an export makes.

        Raises:
            InputError: its settings are not all there.
        """
        ratios = {name: group.ratio for group in self.task.lr_ratios for name in group.names}
        cooldowns = {
            name: group.cooldown
            for group in self.task.lr_ratios
            for name in group.names
            if group.cooldown
        }
        optimizer, groups = self.optimizer, self.task.groups
        return FoundOptimizer(optimizer.name, optimizer.settings, groups, ratios, cooldowns)

    @property
    def comments(self) -> str:
        """Comments on the training that the peak rate belongs to, for the code of an export."""
        task = self.task
        training = described_training(self.optimizer, task.batch_size, self.horizon, task.rates)
        clipped = f", gradients clipped at norm {task.clip_norm:g}" if task.clip_norm else ""
        by = "Found in" if self.found is None else f"Found by trial {self.found.trial} of"
        by = "Guessed for" if self.guess is not None else by
        lines = [
            f"The peak rate holds for {training}{clipped}.",
            f"{by} {self.study}: {task.name}, model {task.model}, "
            f"by lrtune {self.versions['lrtune']}.",
        ]
        if tuned := self.schedule.settings:
            pairs = (f"{name}={value:.6g}" for name, value in tuned.items())
            lines.append(f"Tuned with it, and to be set beside it: {', '.join(pairs)}.")
        return "".join(f"# {limited(' '.join(line.split()), LINE)}\n" for line in lines)


def _certainty(verdict: Verdict) -> Certainty:
    place, families = verdict.answer.place, verdict.answer.families
    return Certainty(lines=of_verdict(verdict), place=place, families=families)


def _found(row: "pd.Series[Any]", run: RunSettings) -> Found:
    trial, seed = int(row["number"]), int(row["seed"])
    if row["state"] != "complete":
        return Found(trial=trial, seed=seed, forecast=figures_in(row["evidence"]))
    return Found(trial=trial, seed=seed, metrics={name: beside(row, name) for name in run.metrics})


def guessed(folder: Path, settings: RunSettings) -> dict[str, Any] | None:
    """The parameters of the schedule that ``lrtune guess`` left in a folder, for the same task."""
    path = folder / "best.json"
    try:
        best = BestSchedule.read(path) if path.is_file() else None
    except InputError:  # written by something else
        return None
    if best is None or best.guess is None:
        return None
    same = all(getattr(best, name) == getattr(settings, name) for name in SAME)
    return best.guess.params if same else None


def best_in(path: Path) -> Path:
    """The best.json of a run's folder; a file as it is.

    Raises:
        InputError: the folder has none.
    """
    if not path.is_dir():
        return path
    if not (path / "best.json").is_file():
        raise InputError(
            f"{path}: has no best.json: give the folder of a run that has a result, or a file"
        )
    return path / "best.json"


def read_best(path: Path) -> tuple[Schedule, BestSchedule | None]:
    """The schedule in a file, and what it was found with; None of a schedule alone.

    Raises:
        InputError: the file cannot be read, or is damaged.
    """
    schedule = load(path)
    alone = "schedule" not in json.loads(path.read_text(encoding="utf-8"))
    return schedule, None if alone else BestSchedule.read(path)


def replayed(path: Path) -> Schedule:
    """The rates of a best.json's own trial of a closed loop, as an open-loop schedule.

    Raises:
        InputError: the file is not in the folder of its run, or the loop is open.
    """
    schedule, best = read_best(path)
    if not schedule.closed_loop:
        raise InputError(
            f"{path}: {schedule.family} has the same rates in every run: leave out --replay"
        )
    stored = path.parent / "trials.parquet"
    if best is None or not stored.is_file():
        raise InputError(f"{stored}: not there: --replay needs the best.json in its run's folder")
    trials = pd.read_parquet(stored, columns=["number", "schedule", "step", "loss"])
    rows = trials[trials["number"] == (best.found.trial if best.found else math.nan)]
    if rows.empty or Schedule.from_json(rows.iloc[0]["schedule"]) != schedule:
        raise InputError(f"{stored}: has no trial of this schedule: not of the same run")
    row = rows.iloc[0]
    return replay(schedule, best.horizon, [*zip(row["step"].tolist(), row["loss"], strict=True)])
