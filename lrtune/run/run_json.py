"""run.json: what makes a search this one and no other; how it is read, compared and shown."""

import hashlib
import re
from dataclasses import asdict
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrtune.engine import Pool, RangeTest
from lrtune.engine.optimizers import (
    check_momentum,
    make_optimizer,
    named_settings,
    optimizer_settings,
    settings_of,
)
from lrtune.engine.pool import SCHEDULE_FREE
from lrtune.engine.spread import Loss, SpreadPool
from lrtune.errors import InputError, nearest
from lrtune.format import without_secrets
from lrtune.run.study_file import StudyFile, ranges_of
from lrtune.schedule import FAMILIES, Setting
from lrtune.schedule.setting import changed, numbers_of
from lrtune.search import SEARCHABLE, Space
from lrtune.search.study import kept_url
from lrtune.tasks import METRICS, Task, check_model
from lrtune.tasks.groups import base_of, numbers_of_groups, rows_of
from lrtune.tasks.metrics import smoothing_of
from lrtune.verdict.settings import (
    LossFacts,
    Objective,
    OptimizerFacts,
    RangeTestFacts,
    RunSettings,
    SearchSettings,
    TaskFacts,
    TuneFacts,
)

PACKAGES = ("lrtune", "torch", "optuna", "numpy")
# What a task and its facts call alike.
SAME_NAME = ("name", "data", "fingerprint", "classes", "batch_size", "clip_norm", "ema", "average")
# Numbers that rows of one program cannot differ in.
FIXED = ("dampening", "initial_accumulator_value", "ns_steps")
NAMED = 3  # families in a study's name; of more, their number and a digest


def settings_for(task: Task, study: StudyFile, device: str) -> SearchSettings:
    """What makes a search this one: everything in here must be the same when it goes on.

    Raises:
        InputError: what cannot be searched or trained.
    """
    settings = optimizer_settings(task)
    families = SEARCHABLE if study.families is None else tuple(study.families)
    warmup = study.warmup
    Space(families, study.peak_lr or Space.peak_lr, warmup, study.cycle_momentum)
    if study.cycle_momentum:
        check_momentum(task.optimizer_name, settings)
    if any(FAMILIES[name].schedule_free for name in families):
        check_schedule_free(task)
    if round(warmup[1] * task.horizon) >= task.horizon:
        raise InputError(
            f"warmup={warmup[1]!r}: leaves nothing of {task.horizon} updates after the warmup"
        )
    tune = {one.name: TuneFacts(**asdict(one)) for one in settings_to_tune(task, study)}
    metrics = {
        m.name: Objective(name=m.name, direction=m.direction, unit=m.unit) for m in task.metrics
    }
    return SearchSettings(
        study=_study(task, families, list(tune)),
        task=TaskFacts(
            **{name: getattr(task, name) for name in SAME_NAME},
            train=task.train.samples,
            val=task.val.samples,
            test=0 if task.test is None else task.test.samples,
            model=task.model_name,
            prepare=_state(task.prepare),
            loss=_name(task.loss),
            groups=None if base_of(task.groups) is None else _name(base_of(task.groups)),
            layer_decay=task.layer_decay,
            **_parameters(task),
            augment=list(task.augment),
            precision=task.precision or "by device",
            layout=str(task.layout),
            notes=list(task.notes),
        ),
        horizon=task.horizon,
        epochs=task.epochs,
        validations=len(task.checkpoints),
        objective=metrics[task.objective.name],
        metrics=metrics,
        optimizer=OptimizerFacts(name=task.optimizer_name, **settings),
        families=list(families),
        warmup=warmup,
        cycle_momentum=study.cycle_momentum,
        tune=tune,
        seed=study.seed,
        device=device.partition(":")[0],  # rates rank alike on cuda:0 and cuda:1, not on a CPU
        storage=None if study.storage is None else kept_url(study.storage),
        judge=study.judge,
        versions={name: version(name) for name in PACKAGES},
    )


def check_schedule_free(task: Task) -> None:
    """Refuse a task whose optimizer has no schedule-free form."""
    with torch.random.fork_rng(devices=[]):
        make_optimizer(task, task.model(), tuned={SCHEDULE_FREE: True})


def settings_to_tune(task: Task, study: StudyFile) -> list[Setting]:
    """What is tuned with the schedule, checked against the task.

    Raises:
        InputError: what the task does not have, or what cannot be tuned so.
    """
    settings, by_name, tuned = named_settings(task), numbers_of_groups(task.groups), []
    known = {n: v for n, v in numbers_of(settings).items() if n not in FIXED}
    if (smoothing := smoothing_of(task.loss)) is not None:
        known["label_smoothing"] = smoothing
    for name, (low, high) in ranges_of(study).items():
        if name == "batch_size":
            raise InputError(
                "tune: batch_size changes the number of updates, on which schedules are compared: "
                "search each with its own --batch-size and --out, then lrtune compare"
            )
        if name not in known:
            why = f"unknown{nearest(name, known)}"
            if name in settings:
                why = f"{settings[name]!r} is no number that a search can move"
            has = ", ".join(known) or "nothing to tune"
            raise InputError(f"tune {name}: {why}: {task.optimizer_name} on this task has {has}")
        if study.cycle_momentum and name in ("momentum", "beta1"):
            raise InputError(f"tune {name}: cycle_momentum moves it already: one of the two")
        if name.endswith(".cooldown"):
            _check_cooldown(name, study)
        tuned.append(Setting(name, low, high, known[name]))
        for end in (low, high):  # torch itself knows what its optimizers take
            if own := changed(settings, {name: end} if name not in by_name else {}):
                settings_of(str(task.optimizer), {**task.settings, **own})
        if name == "label_smoothing" and not 0 <= low <= high < 1:
            raise InputError(f"tune label_smoothing={low:g}:{high:g}: expected a range in [0, 1)")
    return tuned


def _check_cooldown(name: str, study: StudyFile) -> None:
    """Refuse what no training loop could follow afterwards."""
    if study.cycle_momentum:
        raise InputError(f"tune {name}: with cycle_momentum nobody can follow both: one of the two")
    if odd := [f for f in study.families or () if FAMILIES[f].schedule_free]:
        raise InputError(f"tune {name}: {odd[0]} has no cooldown: leave it out of the families")


def _study(task: Task, families: tuple[str, ...], tune: list[str]) -> str:
    """The name of the study and of its folder.

    What is asked for beside the data comes last, so that two questions have two folders.
    """
    parts = [task.name, task.model_name, task.optimizer_name, str(task.horizon)]
    if task.objective.name not in {first.name for first, *_ in METRICS.values()}:
        parts.append(re.sub(r"[^\w.]+", "_", task.objective.name))
    if families != SEARCHABLE:
        digest = hashlib.blake2b(",".join(families).encode(), digest_size=3).hexdigest()
        few = len(families) <= NAMED
        parts += families if few else [f"{len(families)}-families-{digest}"]
    parts += ["tune", *tune] if tune else []
    return "-".join(parts)


def _parameters(task: Task) -> dict[str, Any]:
    """How many, and those with rates of their own; what cannot be is told before all is kept."""
    parameters = check_model(task)
    with torch.random.fork_rng(devices=[]):
        model = task.model()
    make_optimizer(task, model)
    return {"parameters": parameters, "lr_ratios": rows_of(task.groups, task.freeze, model)}


def _name(part: object) -> str:
    """Of a user's function, of a module with its settings."""
    if isinstance(part, partial):
        return f"{_name(part.func)}({', '.join(map(repr, [*part.args, *part.keywords.items()]))})"
    return repr(part) if isinstance(part, nn.Module) else getattr(part, "__name__", str(type(part)))


def _state(module: nn.Module) -> str:
    """A module in one line: what it says of itself, and a hash of what it holds."""
    digest = hashlib.blake2b(digest_size=4)
    held = [(n, v) for n, v in vars(module).items() if isinstance(v, int | float | str | tuple)]
    digest.update(repr(held).encode())
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.cpu().double().numpy().tobytes())
    return f"{' '.join(repr(module).split())} {digest.hexdigest()}"


# What a user changes by name; what follows from it (the study's name, the fingerprint) comes after.
CHANGED_FIRST = (
    *("seed", "epochs", "task.name", "task.model", "task.batch_size", "optimizer.name", "tune."),
)


def check_same(
    where: str,
    settings: SearchSettings,
    peak_lr: tuple[float, float] | None,
    before: RunSettings,
) -> None:
    """Refuse to go on with other settings than a search began with."""
    given = settings.model_dump(mode="json", exclude_unset=True)
    given |= {} if peak_lr is None else {"peak_lr": list(peak_lr)}
    kept = before.to_json()
    now, then = _flat(given), _flat({name: kept[name] for name in given})
    changed = [
        name
        for name in now.keys() | then.keys()
        if then.get(name) != now.get(name) and not name.startswith("versions.")
    ]
    if not changed:
        return
    name = min(changed, key=lambda name: (not name.startswith(CHANGED_FIRST), name))
    earlier, later = _shown(then.get(name)), _shown(now.get(name))
    if name == "task.fingerprint":
        raise InputError(
            f"{where}: the data has changed since (fingerprint {earlier}, now {later}): "
            "give another --out, or bring the data back"
        )
    raise InputError(
        f"{where}: was searched with {name}={earlier}, now {name}={later}: "
        "give another --out, or remove it to start over"
    )


def _shown(value: object) -> str:
    return repr(without_secrets(value) if isinstance(value, str) else value)


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= (
            _flat(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {f"{prefix}{name}": value}
        )
    return flat


def range_test_facts(test: RangeTest) -> RangeTestFacts:
    """A range test as ``run.json`` keeps it and the figure reads it."""
    return RangeTestFacts(
        **asdict(test.suggestion),
        rates=test.rates.tolist(),
        losses=[losses.tolist() for losses in test.smoothed],
        message=test.message,
    )


def with_hosts(settings: RunSettings, pool: Pool) -> RunSettings:
    """The settings of a run, with the hosts of another session and what became of them."""
    if not isinstance(pool, SpreadPool):
        return settings
    losses = [*settings.losses, *map(loss_facts, pool.losses)]
    hosts = dict.fromkeys([*settings.hosts, *pool.hosts, *(loss.host for loss in losses)])
    return settings.model_copy(update={"hosts": [*hosts], "losses": losses})


def loss_facts(loss: Loss) -> LossFacts:
    """A loss as ``run.json`` keeps it."""
    at = datetime.fromtimestamp(loss.at).astimezone().isoformat(timespec="seconds")
    return LossFacts(host=loss.host, at=at, why=loss.why, trials=loss.trials)


def read_settings(path: Path) -> RunSettings:
    """The settings of a run.

    Raises:
        InputError: there are none, they are damaged, or of another format.
    """
    if not path.is_file():
        raise InputError(f"{path.parent}: not a run: it has no run.json")
    return RunSettings.read(path)
