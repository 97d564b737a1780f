"""``lrtune search`` and ``lrtune confirm``: what was asked for, done and told."""

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lrtune.cli.console import console_of, named
from lrtune.cli.events import Events
from lrtune.cli.progress import Listener, Quiet, Screen
from lrtune.errors import InputError
from lrtune.model.transfer import nothing, published
from lrtune.run.confirm import confirm
from lrtune.run.folder import Run
from lrtune.run.study_file import StudyFile, baseline_of, limits_of, load, plan_of, stopping
from lrtune.run.tensorboard import check as check_tensorboard
from lrtune.run.tune import tune
from lrtune.search import SEARCHABLE
from lrtune.search.budget import TRAININGS
from lrtune.tasks import Task
from lrtune.tasks.options import validate
from lrtune.verdict.time_to_target import check_target
from lrtune.verdict.verdict import Plan


@contextmanager
def listening(quiet: bool, as_json: bool) -> Iterator[Listener]:
    """Who is told, until the end; beside JSON, a task of the user's own prints to stderr."""
    if quiet and as_json:
        raise InputError("--quiet and --json: one of the two")
    person = Quiet if quiet else Screen
    listener: Listener = Events(sys.stdout) if as_json else person(console_of())
    with closing(listener), redirect_stdout(sys.stderr) if as_json else nullcontext():
        yield listener


def search(study: StudyFile, command: str, listener: Listener) -> None:
    """Run the search that ``study`` asks for, then its finals, and tell what came out."""
    _check(study)
    baselines = [baseline_of(text) for text in study.baseline]
    task = load(study)
    names = tuple(SEARCHABLE if study.families is None else study.families)
    trainings = study.budget
    if study.updates is None and study.budget is None and study.time is None:
        trainings = TRAININGS
        listener.tell(f"budget: {TRAININGS} trainings in all (--budget, --updates, --time)")
    limits = limits_of(task, study.trials, study.updates, None, trainings, study.time)
    listener.tell(
        f"{named(task.name)}: {task.train.samples:,} training and {task.val.samples:,} "
        f"validation samples, model {named(task.model_name)}, {task.optimizer}, "
        f"{task.horizon:,} updates a trial"
    )
    for note in task.notes:
        listener.tell(f"  {note}")
    plan = _plan(task, study)
    if plan.target is not None:
        check_target(plan.target, [metric.name for metric in task.metrics])
    facts = {"command": command, "seed": study.seed, "families": names, "budget": asdict(limits)}
    listener.started(task, facts)
    run = tune(
        task,
        **asdict(limits),
        families=names,
        peak_lr=study.peak_lr,
        warmup=study.warmup,
        cycle_momentum=study.cycle_momentum,
        seed=study.seed,
        out=study.out,
        storage=study.storage,
        device=study.device,
        engine=study.engine,
        slots=study.slots,
        **stopping(study),
        judge=study.judge,
        plan=None if study.no_confirm else plan,
        baselines=baselines,
        transfer=nothing() if study.no_transfer else published(),
        asked=study.model_dump(exclude_unset=True),
        command=command,
        watch=listener.search,
        watch_finals=listener.finals,
        tell=listener.tell,
    )
    _told(study, run, None, listener)


def finals(
    folder: Path,
    given: dict[str, Any],
    total: int | None,
    trainings: float | None,
    command: str,
    listener: Listener,
) -> None:
    """Train the finals of a run that ``lrtune search`` made, and tell what came out.

    Args:
        folder: of the run.
        given: keys of a study file, which come before those that the run was searched with.
        total: updates of another horizon; the search's own where None.
        trainings: how many more there may be; as many as the plan says where None.
        command: what the user typed.
        listener: who is told.
    """
    run = Run(folder)
    keys = run.settings.get("asked")
    if keys is None:
        raise InputError(
            f"{folder}: was made from Python, with a task of its own: lrtune.confirm(run, task)"
        )
    study = validate(StudyFile, keys | given, str(folder / "run.json"), typed=given)
    _check(study)
    baselines = [baseline_of(text) for text in study.baseline] if "baseline" in given else None
    task = load(study)
    listener.started(
        task,
        {
            "command": command,
            "seed": run.settings["seed"],
            "families": run.settings["families"],
            "budget": None,
        },
    )
    confirm(
        run,
        task,
        plan=_plan(task, study),
        total=total,
        trainings=trainings,
        baselines=baselines,
        device=study.device,
        watch=listener.finals,
        tell=listener.tell,
    )
    _told(study, run, run.settings["horizon"] if total is None else total, listener)


def _plan(task: Task, study: StudyFile) -> Plan:
    metric = task.objective.name
    return plan_of(metric, study.margin, study.goal)


def _check(study: StudyFile) -> None:
    """Say early that what the results are to be written with is not there."""
    if study.tensorboard:
        check_tensorboard()


def _told(study: StudyFile, run: Run, total: int | None, listener: Listener) -> None:
    """Write what was asked for beside the report, and tell what came out."""
    if study.tensorboard and (folder := run.write_tensorboard()) is not None:
        listener.tell(f"for TensorBoard: {folder}")
    listener.finished(run, total)
