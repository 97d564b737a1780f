"""What a user asks of a search: from the command line, from a study file (TOML), or both."""

import math
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lrtune.errors import InputError
from lrtune.options import TaskOptions

if TYPE_CHECKING:
    from lrtune.results.plan import Plan
    from lrtune.schedule import Schedule
    from lrtune.tasks import Task

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class StudyFile(TaskOptions):
    """The keys of a study file; each is an option of ``lrtune search``."""

    task: str = Field(description="what to search on; given here, it comes before the study file's")
    families: list[str] | None = Field(None, description="names, with commas between [all]")
    peak_lr: tuple[float, float] | None = Field(None, description="LOW,HIGH [from a range test]")
    warmup: tuple[float, float] = Field(
        (0.0, 0.2), description="LOW,HIGH: shortest and longest, fractions of the run [0,0.2]"
    )
    cycle_momentum: bool = Field(
        False, description="one_cycle and cyclic also cycle the momentum, as torch's do"
    )
    budget: float | None = Field(
        None, gt=0, description="whole trainings in all: range test, search, confirmation [50]"
    )
    updates: int | None = Field(None, description="the same in optimizer updates")
    time: str | None = Field(None, description="the same in time on the clock: 90s, 10m, 1h30m")
    trials: int | None = Field(None, description="trials of the search, at most")
    pruner: str = Field(
        "schedule", description="schedule, halving, hyperband, median or none [schedule]"
    )
    no_prune: bool = Field(False, description="train every trial to its end")
    epsilon: float | None = Field(
        None, description="end a trial that wins with less than this probability [0.05]"
    )
    patience: int | None = Field(
        None, description="validations without gain that make a plateau, 0: none do [a fifth]"
    )
    min_delta: float | None = Field(None, description="the least gain, a share [0.002]")
    audit: float | None = Field(
        None, description="share of the trials to be pruned that go on, as a check [0.03]"
    )
    judge: str = Field(
        "last",
        description="last: the weights at the end, or best: the best checkpoint by validation",
    )
    no_transfer: bool = Field(False, description="search as if no other task were known")
    baseline: list[str] = Field(
        [], description="what you use now: step:peak_lr=0.1,gamma=0.1 or a best.json; several times"
    )
    no_confirm: bool = Field(False, description="search only: no finals, no verdict")
    margin: float | None = Field(
        None, description="a difference that does not matter, in the metric's unit"
    )
    goal: str | None = Field(
        None, description="to be reached soonest: 0.95 or accuracy=0.95 [where constant ends]"
    )
    engine: str = Field("auto", description="auto, serial or fused [auto: the fastest here]")
    slots: int | None = Field(None, description="trials side by side [the fastest number]")
    storage: str | None = Field(None, description="an Optuna storage URL")
    out: str | None = Field(None, description="the run's folder [runs/<study>]")
    tensorboard: bool = Field(False, description="also write the finalists for TensorBoard")
    device: str | None = Field(
        None, description="cpu, cuda, or several: cuda:0,cuda:1 [CUDA where there is one]"
    )


def read_study(path: Path) -> dict[str, Any]:
    """The keys of a study file, not yet validated.

    Raises:
        InputError: no such file, not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8, of a number too long
        raise InputError(f"{path}: not a TOML file: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def load(study: StudyFile) -> "Task":
    """The task that a study names."""
    from lrtune.tasks import load_task

    options = {name: getattr(study, name) for name in TaskOptions.model_fields}
    given = study.model_fields_set & options.keys()
    task = load_task(study.task, **{name: options[name] for name in given})
    # What would end no trial is not worth a second set of weights and a second look at the data.
    return replace(task, average=None) if study.no_prune else task


def stopping(study: StudyFile) -> dict[str, Any]:
    """What ``tune`` is told of ending trials early: only what was asked for."""
    names = {"pruner", "epsilon", "patience", "min_delta", "audit"} & study.model_fields_set
    if study.no_prune:
        if names:
            said = ", ".join(sorted(names))
            raise InputError(f"no_prune: trains every trial to its end: leave out {said}")
        return {"pruner": "none", "patience": 0}
    if "epsilon" in names and study.pruner != "schedule":
        raise InputError(f"epsilon: {study.pruner} takes none: leave it out, or the pruner")
    return {name: getattr(study, name) for name in names}


def baseline_of(text: str) -> "Schedule":
    """A schedule that the user has: its text, or a JSON file.

    Raises:
        InputError: neither, or it says no peak rate.
    """
    from lrtune.schedule import load, parse

    if text.endswith(".json"):
        return load(text)
    schedule = parse(text)
    if "peak_lr=" not in text:
        raise InputError(f"baseline={text!r}: says no peak rate: {schedule.family}:peak_lr=0.1")
    return schedule


def plan_of(metric: str, margin: float | None = None, goal: str | None = None) -> "Plan":
    """How a verdict is to be reached; ``metric`` is the one of a goal that names none."""
    from lrtune.results.plan import Plan

    return Plan(margin=margin, target=None if goal is None else parse_goal(goal, metric))


def parse_goal(text: str, metric: str) -> tuple[str, float]:
    """A metric and its value.

    >>> parse_goal("accuracy=0.95", "cross_entropy"), parse_goal("0.2", "cross_entropy")
    (('accuracy', 0.95), ('cross_entropy', 0.2))
    """
    name, equals, value = text.rpartition("=")
    wrong = InputError(f"goal={text!r}: a number, or a metric and one: accuracy=0.95")
    try:
        number = float(value)
    except ValueError as error:
        raise wrong from error
    if not math.isfinite(number) or (equals and not name):
        raise wrong
    return name if equals else metric, number


def parse_time(text: str) -> float:
    """Seconds from ``90s``, ``10m`` or ``1h30m``.

    >>> parse_time("1h30m")
    5400.0
    """
    packed = text.replace(" ", "")
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", packed)
    if not parts or "".join(n + u for n, u in parts) != packed:
        raise InputError(f"time={text!r}: a number and a unit: 90s, 10m, 1h30m, 2d")
    return sum(float(number) * UNITS[unit] for number, unit in parts)
