"""The options of a search, each declared once: for the study file, the command line and Python."""

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PrivateAttr

from lrtune.errors import InputError, expect, nearest
from lrtune.tasks.options import REPEATED, TaskOptions, names_function, parse_optimizer, validate

if TYPE_CHECKING:
    from lrtune.engine.devices import Engine
    from lrtune.schedule import Schedule
    from lrtune.search.budget import Budget
    from lrtune.search.early_stopping import Stopping
    from lrtune.tasks import Task


class StudyFile(TaskOptions):
    """The keys of a study file (TOML); each is an option of ``lrtune search``."""

    _here: Path = PrivateAttr(default_factory=Path.cwd)  # before the task's code may change it

    task: str = Field(description="what to search on; given here, it comes before the study file's")
    families: list[str] | None = Field(None, description="names, with commas between [all]")
    peak_lr: tuple[float, float] | None = Field(None, description="LOW,HIGH [from a range test]")
    warmup: tuple[float, float] = Field(
        (0.0, 0.2), description="LOW,HIGH: shortest and longest, fractions of the run"
    )
    cycle_momentum: bool = Field(
        False, description="one_cycle and cyclic also cycle the momentum, as torch's do"
    )
    tune: list[str] = Field(
        [],
        description="tune with the schedule: weight_decay=1e-4:1e-1, momentum=0.8:0.99, another "
        "number of the optimizer, label_smoothing; several times",
        json_schema_extra=REPEATED,
    )
    budget: float | None = Field(
        None, gt=0, description="whole trainings in all: range test, search, confirmation [50]"
    )
    updates: int | None = Field(None, gt=0, description="the same in optimizer updates")
    time: str | None = Field(None, description="the same in time on the clock: 90s, 10m, 1h30m")
    trials: int | None = Field(None, gt=0, description="trials of the search, at most")
    pruner: Literal["schedule", "halving", "hyperband", "median", "none"] = Field(
        "schedule", description="schedule, halving, hyperband, median or none"
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
        None,
        ge=0,
        allow_inf_nan=False,
        description="a difference that does not matter, in the metric's unit",
    )
    engine: Literal["auto", "serial", "fused"] = Field(
        "auto", description="auto, serial or fused; auto: the fastest here"
    )
    slots: int | None = Field(None, gt=0, description="trials side by side [the fastest number]")
    deterministic: bool = Field(False, description="the same bits each time on CUDA too, slower")
    storage: str | None = Field(
        None, description="a database's URL, or journal://FILE [a file in the run's folder]"
    )
    out: str | None = Field(None, description="the run's folder [runs/<study>]")
    tensorboard: bool = Field(False, description="also write the finalists for TensorBoard")
    device: str | None = Field(
        None, description="cpu, cuda, or several: cuda:0,cuda:1 [CUDA where there is one]"
    )
    cluster: str | None = Field(
        None,
        description="train on the hosts of a Ray cluster: auto, or HOST:PORT; "
        "see lrtune guide cluster",
    )
    hosts: int | None = Field(
        None, gt=0, description="of a cluster: processes that train [as there is room for]"
    )
    num_gpus: float | None = Field(
        None, ge=0, le=1, description="of a cluster: GPUs of each host, 0.5: two share one [0]"
    )
    num_cpus: float | None = Field(None, gt=0, description="of a cluster: CPUs of each host [1]")
    lockstep: bool = Field(
        False, description="of a cluster: hosts wait for each other: the same course each time"
    )


# Options that Python passes by their own name; all others belong to one of tune's objects.
IN_PYTHON = (
    *("families", "peak_lr", "warmup", "cycle_momentum", "tune"),
    *("seed", "judge", "storage", "out"),
)
CLUSTER = ("cluster", "hosts", "num_gpus", "num_cpus", "lockstep")
STOPPING = ("pruner", "epsilon", "patience", "min_delta", "audit")
OBJECTS = {
    **dict.fromkeys(("trials", "updates"), "budget=Budget"),
    **dict.fromkeys(STOPPING, "stopping=Stopping"),
    **dict.fromkeys(("slots", "device", "deterministic", *CLUSTER), "engine=Engine"),
    "margin": "plan=Plan",
}


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


def from_python(task: "Task | str", options: Mapping[str, Any]) -> StudyFile:
    """The study that a call of ``tune`` describes.

    Args:
        task: a Task, or what ``load_task`` takes.
        options: of IN_PYTHON and, where the task is a string, of ``load_task``; None: not given.

    Raises:
        InputError: not a task; an unknown option; one that the Task itself or an object has.
    """
    from lrtune.search.space import names_of
    from lrtune.tasks import Task

    expect("task", task, Task | str, "an lrtune.Task or a string")
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name in OBJECTS:
            raise InputError(f"{name}: belongs to an object: {OBJECTS[name]}({name}=...)")
        if name not in (*IN_PYTHON, *TaskOptions.model_fields):
            names = (*IN_PYTHON, *TaskOptions.model_fields, *OBJECTS)
            raise InputError(f"unknown argument {name!r}{nearest(name, names)}")
        if name not in IN_PYTHON and isinstance(task, Task):
            own = (
                f"give it to the Task: Task({name}=...)" if hasattr(task, name) else "leave it out"
            )
            raise InputError(f"{name}: is of the task, which is a Task here: {own}")
    if "families" in given:
        given["families"] = list(names_of(given["families"]))
    if isinstance(given.get("tune"), Mapping):
        given["tune"] = [f"{name}={_written(ends)}" for name, ends in given["tune"].items()]
    if "out" in given:
        given["out"] = str(given["out"])
    given["task"] = task if isinstance(task, str) else task.name
    return validate(StudyFile, given, "tune")


def _written(ends: object) -> str:
    """A range as the command line has it."""
    return ":".join(map(repr, ends)) if isinstance(ends, list | tuple) else repr(ends)


def ranges_of(study: StudyFile) -> dict[str, tuple[float, float]]:
    """What is tuned with the schedule, by name, from where to where.

    Raises:
        InputError: not of the form name=low:high, or a name twice.
    """
    ranges: dict[str, tuple[float, float]] = {}
    for text in study.tune:
        name, _, rest = text.partition("=")
        try:
            low, high = map(float, rest.split(":"))
        except ValueError as error:
            raise InputError(
                f"tune={text!r}: expected name=low:high: weight_decay=1e-4:1e-1"
            ) from error
        if name in ranges:
            raise InputError(f"tune={text!r}: {name} twice")
        ranges[name] = low, high
    return ranges


def load(study: StudyFile) -> "Task":
    """The task of a study, once everything is checked that can be without its data."""
    from lrtune.tasks import load_task

    check(study)
    options = study.model_dump(include={*TaskOptions.model_fields}, exclude_unset=True)
    task = load_task(study.task, **options)
    # Where no trial ends early, nobody looks at a second set of weights.
    return replace(task, average=None) if study.no_prune else task


def check(study: StudyFile) -> None:
    """Check every option that needs no data.

    Raises:
        InputError: the first that is wrong.
    """
    from lrtune.engine.optimizers import OPTIMIZERS, check_momentum, settings_of
    from lrtune.run.tensorboard import check as check_tensorboard
    from lrtune.search.space import SEARCHABLE, Space
    from lrtune.tasks import METRICS
    from lrtune.tasks.groups import ratios_of
    from lrtune.tasks.images import check_augment
    from lrtune.tasks.stream import parse_size

    names = SEARCHABLE if study.families is None else tuple(study.families)
    Space(names, study.peak_lr or Space.peak_lr, study.warmup, study.cycle_momentum)
    named = (study.optimizer or "").partition(":")[0]
    if study.optimizer and (named in OPTIMIZERS or not names_function(study.optimizer)):
        name, given = parse_optimizer(study.optimizer)
        settings = settings_of(name, given)
        if study.cycle_momentum:
            check_momentum(name, settings)
    ranges_of(study)
    metrics = {metric.name for row in METRICS.values() for metric in row}
    if study.metric is not None and study.metric not in metrics:
        hint = nearest(study.metric, metrics)
        raise InputError(f"metric {study.metric!r}: one of {', '.join(sorted(metrics))}{hint}")
    if study.groups is not None:
        ratios_of(",".join(study.groups))
    if study.memory is not None:
        parse_size(study.memory)
    check_augment(tuple(filter(None, study.augment or ())), (3, 32, 32))  # as if of images
    engine_of(study)
    stopping_of(study)
    budget_of(study)
    baselines_of(study)
    if study.tensorboard:
        check_tensorboard()


def budget_of(study: StudyFile) -> "Budget":
    """What a run may cost."""
    from lrtune.search.budget import Budget

    if study.budget is not None and study.updates is not None:
        raise InputError("budget and updates: one of the two: both say how much is trained in all")
    return Budget(study.budget, study.updates, study.time, study.trials)


def stopping_of(study: StudyFile) -> "Stopping":
    """When a trial ends early."""
    from lrtune.search.early_stopping import Stopping

    given = study.model_dump(include={*STOPPING}, exclude_unset=True, exclude_none=True)
    if study.no_prune:
        if given:
            raise InputError(
                f"no_prune: trains every trial to its end: leave out {', '.join(sorted(given))}"
            )
        return Stopping(pruner="none", patience=0)
    if "epsilon" in given and study.pruner != "schedule":
        raise InputError(f"epsilon: {study.pruner} takes none: leave it out, or the pruner")
    return Stopping(**given)


def engine_of(study: StudyFile) -> "Engine":
    """What trains."""
    from lrtune.engine.devices import Engine

    cluster = study.model_dump(include={*CLUSTER})
    return Engine(study.engine, study.slots, study.device, study.deterministic, **cluster)


def folder_of(study: StudyFile, name: str) -> Path:
    """The run's folder, absolute; ``name`` is that of its Optuna study."""
    if study.out is not None and Path(study.out) == Path():
        raise InputError(f"out={study.out!r}: name a folder for the run alone")
    return study._here / (Path("runs") / name if study.out is None else study.out)


def baselines_of(study: StudyFile) -> "list[Schedule]":
    """The user's own schedules.

    Raises:
        InputError: neither a schedule's text nor a JSON file; one without a peak rate.
    """
    from lrtune.schedule import load as load_schedule
    from lrtune.schedule import parse

    schedules = []
    for text in study.baseline:
        schedule = load_schedule(text) if text.endswith(".json") else parse(text)
        if not text.endswith(".json") and "peak_lr=" not in text:
            example = f"{schedule.family}:peak_lr=0.1"
            raise InputError(f"baseline={text!r}: says no peak rate: {example}")
        schedules.append(schedule)
    return schedules
