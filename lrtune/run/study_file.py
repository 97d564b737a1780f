"""What a user asks of a search: from the command line, from a study file (TOML), or both."""

import math
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lrtune.errors import InputError, expect, nearest
from lrtune.tasks.options import REPEATED, TaskOptions, parse_optimizer

if TYPE_CHECKING:
    from lrtune.schedule import Schedule
    from lrtune.search import Budget
    from lrtune.tasks import Task
    from lrtune.verdict.verdict import Plan

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
    updates: int | None = Field(None, gt=0, description="the same in optimizer updates")
    time: str | None = Field(None, description="the same in time on the clock: 90s, 10m, 1h30m")
    trials: int | None = Field(None, gt=0, description="trials of the search, at most")
    pruner: Literal["schedule", "halving", "hyperband", "median", "none"] = Field(
        "schedule", description="schedule, halving, hyperband, median or none [schedule]"
    )
    no_prune: bool = Field(False, description="train every trial to its end")
    epsilon: float | None = Field(
        None, gt=0, lt=1, description="end a trial that wins with less than this probability [0.05]"
    )
    patience: int | None = Field(
        None, ge=0, description="validations without gain that make a plateau, 0: none do [a fifth]"
    )
    min_delta: float | None = Field(None, ge=0, lt=1, description="the least gain, a share [0.002]")
    audit: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of the trials to be pruned that go on, as a check [0.03]",
    )
    judge: Literal["last", "best"] = Field(
        "last",
        description="last: the weights at the end, or best: the best checkpoint by validation",
    )
    no_transfer: bool = Field(False, description="search as if no other task were known")
    baseline: list[str] = Field(
        [],
        description="what you use now: step:peak_lr=0.1,gamma=0.1 or a best.json; several times",
        json_schema_extra=REPEATED,
    )
    no_confirm: bool = Field(False, description="search only: no finals, no verdict")
    margin: float | None = Field(
        None, ge=0, description="a difference that does not matter, in the metric's unit"
    )
    goal: str | None = Field(
        None, description="to be reached soonest: 0.95 or accuracy=0.95 [where constant ends]"
    )
    engine: Literal["auto", "serial", "fused"] = Field(
        "auto", description="auto, serial or fused [auto: the fastest here]"
    )
    slots: int | None = Field(None, gt=0, description="trials side by side [the fastest number]")
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
    """The task that a study names, once all is told that can be told without its data."""
    from lrtune.tasks import load_task

    check(study)
    options = {name: getattr(study, name) for name in TaskOptions.model_fields}
    given = study.model_fields_set & options.keys()
    task = load_task(study.task, **{name: options[name] for name in given})
    # What would end no trial is not worth a second set of weights and a second look at the data.
    return replace(task, average=None) if study.no_prune else task


def made_of(task: "Task | str", seed: int, options: dict[str, Any]) -> "Task":
    """The Task that a caller in Python means.

    Args:
        task: a Task, or what ``load_task`` takes.
        seed: of the splits of data that are named.
        options: of ``load_task``.

    Raises:
        InputError: neither; an option that is none, or that a Task has itself.
    """
    from lrtune.tasks import Task, load_task

    expect("task", task, Task | str, "an lrtune.Task or a string")
    for name in options:
        if name not in TaskOptions.model_fields:
            raise InputError(f"unknown argument {name!r}{nearest(name, StudyFile.model_fields)}")
        if isinstance(task, Task):
            raise InputError(f"{name}: a Task has its own: leave it out, or name the data instead")
    return load_task(task, seed=seed, **options) if isinstance(task, str) else task


def limits_of(
    task: "Task",
    trials: int | None,
    updates: float | None,
    seconds: float | None,
    trainings: float | None,
    time: str | None,
) -> "Budget":
    """A budget in whatever units; TRAININGS where there is none.

    Raises:
        InputError: two in the same unit, or one that is not positive.
    """
    from lrtune.search import Budget
    from lrtune.search.budget import TRAININGS, check_positive

    if trainings is not None and updates is not None:
        raise InputError("budget and updates: one of the two: both say how much is trained in all")
    if time is not None and seconds is not None:
        raise InputError("time and seconds: one of the two: both say when to stop")
    if all(limit is None for limit in (trials, updates, seconds, trainings, time)):
        trainings = TRAININGS
    if trainings is not None:
        check_positive("budget", trainings)
        updates = trainings * task.horizon
    return Budget(trials, updates, seconds if time is None else parse_time(time))


def check(study: StudyFile) -> None:
    """Look at every setting that needs no data.

    Raises:
        InputError: the first that is wrong.
    """
    from lrtune.engine.optimizers import check_momentum, settings_of
    from lrtune.run.devices import devices_of
    from lrtune.search import SEARCHABLE, Space
    from lrtune.tasks import METRICS
    from lrtune.tasks.augment import check_augment
    from lrtune.tasks.memory import parse_size

    names = SEARCHABLE if study.families is None else tuple(study.families)
    Space(names, study.peak_lr or Space.peak_lr, study.warmup, study.cycle_momentum)
    if study.optimizer is not None:
        name, settings = parse_optimizer(study.optimizer)
        settings_of(name, settings)
        if study.cycle_momentum:
            check_momentum(name)
    metrics = {metric.name for row in METRICS.values() for metric in row}
    if study.metric is not None and study.metric not in metrics:
        hint = nearest(study.metric, metrics)
        raise InputError(f"metric {study.metric!r}: one of {', '.join(sorted(metrics))}{hint}")
    if study.memory is not None:
        parse_size(study.memory)
    check_augment(tuple(filter(None, study.augment or ())), (3, 32, 32))  # as if of images
    devices_of(study.device)
    plan_of("", study.margin, study.goal)
    stopping(study)
    if study.time is not None:
        parse_time(study.time)
    if study.budget is not None and study.updates is not None:
        raise InputError("budget and updates: one of the two: both say how much is trained in all")


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
    from lrtune.verdict.verdict import Plan

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
        raise InputError(
            f"time must be a number and a unit, such as 90s, 10m or 1h30m (got {text!r})"
        )
    return sum(float(number) * UNITS[unit] for number, unit in parts)
