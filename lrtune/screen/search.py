"""``lrtune search`` and ``lrtune confirm``: what was asked for, done and told."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from lrtune.config import StudyFile, baseline_of, load, parse_time, plan_of, stopping
from lrtune.confirmation import confirm
from lrtune.errors import InputError
from lrtune.model.transfer import nothing, published
from lrtune.options import validate
from lrtune.results.quickest import check_target
from lrtune.results.tensorboard import check as check_tensorboard
from lrtune.run import Run
from lrtune.screen.console import console_of, named
from lrtune.screen.events import Events
from lrtune.screen.listener import Listener, Quiet, Screen
from lrtune.search import SEARCHABLE, Space
from lrtune.tuning import tune

TRAININGS = 40  # where the user says no budget

Asked = tuple[int | None, int | None, float | None, str | None]  # seeds, max, indifference, goal


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
    names = tuple(SEARCHABLE if study.families is None else study.families)
    Space(names, cycle_momentum=study.cycle_momentum)  # looks at them before anything is said
    _check(study)
    baselines = [baseline_of(text) for text in study.baseline]
    seconds = None if study.time is None else parse_time(study.time)
    if study.budget is not None and study.updates is not None:
        raise InputError("budget and updates: one of the two: both say how much is trained in all")
    task = load(study)
    updates: float | None = study.updates
    if study.budget is not None:
        updates = study.budget * task.horizon
    elif updates is None and seconds is None:
        updates = TRAININGS * task.horizon
        listener.tell(f"budget: {TRAININGS} trainings in all (--budget, --updates, --time)")
    listener.tell(
        f"{named(task.name)}: {task.train.samples:,} training and {task.val.samples:,} "
        f"validation samples, model {named(task.model_name)}, {task.optimizer}, "
        f"{task.horizon:,} updates a trial"
    )
    for note in task.notes:
        listener.tell(f"  {note}")
    plan = plan_of(
        task.objective.name, study.seeds, study.max_seeds, study.indifference, study.goal
    )
    if plan.target is not None:
        check_target(plan.target, [metric.name for metric in task.metrics])
    budget = {"trials": study.trials, "updates": updates, "seconds": seconds}
    facts = {"command": command, "seed": study.seed, "families": names, "budget": budget}
    listener.started(task, facts)
    run = tune(
        task,
        trials=study.trials,
        updates=updates,
        seconds=seconds,
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
    asked: Asked,
    total: int | None,
    device: str | None,
    tensorboard: bool,
    command: str,
    listener: Listener,
    *,
    trainings: float | None = None,
    baselines: Sequence[str] | None = None,
) -> None:
    """Train the finals of a run that ``lrtune search`` made, and tell what came out."""
    run = Run(folder)
    keys = run.settings.get("asked")
    if keys is None:
        raise InputError(
            f"{folder}: was made from Python, with a task of its own: lrtune.confirm(run, task)"
        )
    keys = keys | ({"tensorboard": True} if tensorboard else {})
    study = validate(StudyFile, keys, str(folder / "run.json"))
    _check(study)
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
        plan=plan_of(task.objective.name, *_merged(study, asked)),
        total=total,
        trainings=trainings,
        baselines=None if baselines is None else [baseline_of(text) for text in baselines],
        device=study.device if device is None else device,
        watch=listener.finals,
        tell=listener.tell,
    )
    _told(study, run, run.settings["horizon"] if total is None else total, listener)


def _check(study: StudyFile) -> None:
    """Say early that what the results are to be written with is not there."""
    if study.tensorboard:
        check_tensorboard()


def _told(study: StudyFile, run: Run, total: int | None, listener: Listener) -> None:
    """Write what was asked for beside the report, and tell what came out."""
    if study.tensorboard and (folder := run.write_tensorboard()) is not None:
        listener.tell(f"for TensorBoard: {folder}")
    listener.finished(run, total)


def _merged(study: StudyFile, asked: Sequence[Any]) -> list[Any]:
    """What was asked for now, else when the run was searched."""
    names = ("seeds", "max_seeds", "indifference", "goal")
    return [
        getattr(study, name) if given is None else given
        for name, given in zip(names, asked, strict=True)
    ]
