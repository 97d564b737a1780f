"""best.json: the winner, where it was found, and how sure it is."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from lrtune.errors import InputError
from lrtune.export import FoundOptimizer, replay
from lrtune.reports.first_screen import found_with
from lrtune.schedule import Schedule, load
from lrtune.verdict.recommendation import of_verdict
from lrtune.verdict.sequential import Why
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


class Found(Document):
    """The trial that tried the schedule: its metrics, or of one that ended early the forecast."""

    trial: int
    seed: int
    split: str = "val"
    metrics: dict[str, Number] | None = None
    forecast: dict[str, Any] | None = None


class Certainty(Document):
    """How sure the schedule is, see ``lrtune.verdict.verdict``; ``lines`` say it in words."""

    lines: list[str]
    place: str
    families: list[str]
    why: Why
    split: str
    mean: Number
    low: Number
    high: Number
    seeds: int


class PeakTest(Document):
    """What a range test says of a good peak."""

    peak_lr: float
    doubt: float
    message: str


class Guess(Document):
    """What a guess rests on, before anything was searched; ``cost`` is what such guesses cost."""

    params: dict[str, Any]
    range_test: PeakTest | None
    transfer: str
    cost: dict[str, float]


class BestSchedule(Training, File):
    """``best.json``, which ``lrtune.load`` reads too; the run's settings are ``Training``'s."""

    WHAT: ClassVar[str] = "a search's best schedule"
    FORMAT: ClassVar[int] = 1

    format: int = FORMAT
    schedule: StoredSchedule
    resolved: dict[str, Any]
    found: Found | None = None
    verdict: Certainty | None = None
    judge: Judge = "last"
    guess: Guess | None = None

    @property
    def found_optimizer(self) -> FoundOptimizer:
        """The optimizer that an export makes.

        Raises:
            InputError: its settings are not all there.
        """
        return FoundOptimizer(self.optimizer.name, self.optimizer.settings, self.task.groups)

    @property
    def comments(self) -> str:
        """Comments on the training, for the code of an export."""
        by = "Found in" if self.found is None else f"Found by trial {self.found.trial} of"
        return found_with(self, "Guessed for" if self.guess is not None else by)


def best_json(
    trials: pd.DataFrame, settings: RunSettings, verdict: Verdict | None
) -> BestSchedule | None:
    """The verdict's winner, or before one the best trial.

    Where no trial was trained to its end it is the one with the best forecast, which ``found`` then
    holds; None where there is none either.
    """
    if trials.empty:
        return None
    row = recommended(trials, settings.objective.direction)
    if verdict is not None and verdict.decided:
        first = verdict.recommended
        schedule, resolved = first.schedule, first.resolved
        rows = trials[trials["number"] == first.trial]
        row = None if rows.empty else rows.iloc[0]
    elif row is not None:
        schedule, resolved = Schedule.from_json(row["schedule"]), json.loads(row["resolved"])
    else:
        return None
    return BestSchedule(
        **{name: getattr(settings, name) for name in (*Training.model_fields, "judge")},
        schedule=schedule,
        resolved=resolved,
        found=None if row is None else _found(row, settings.metrics),
        verdict=None if verdict is None else _certainty(verdict),
    )


def _found(row: "pd.Series[Any]", metrics: Iterable[str]) -> Found:
    trial, seed = int(row["number"]), int(row["seed"])
    if row["state"] != "complete":
        return Found(trial=trial, seed=seed, forecast=figures_in(row["evidence"]))
    return Found(trial=trial, seed=seed, metrics={name: beside(row, name) for name in metrics})


def _certainty(verdict: Verdict) -> Certainty:
    row = verdict.recommended if verdict.decided else verdict.families[0]
    return Certainty(
        lines=of_verdict(verdict),
        place=verdict.answer.place,
        families=verdict.answer.families,
        why=verdict.answer.why,
        split=verdict.split,
        mean=row.mean,
        low=row.low,
        high=row.high,
        seeds=row.seeds,
    )


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
