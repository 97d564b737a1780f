"""What a user asks of a search: from the command line, from a study file (TOML), or both."""

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lrtune.errors import InputError, nearest

if TYPE_CHECKING:
    from lrtune.tasks import Task

EXPECTED = {
    **dict.fromkeys(("task", "model", "target", "kind", "metric", "optimizer"), "a string"),
    **dict.fromkeys(("time", "out", "storage", "device"), "a string"),
    **dict.fromkeys(("batch_size", "trials", "updates", "seed"), "a whole number"),
    **dict.fromkeys(("peak_lr", "warmup"), "two numbers: [low, high]"),
    "epochs": "a number",
    "families": "a list of names",
}
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class StudyFile(BaseModel):
    """The keys of a study file; each is the command line's option of that name.

    Attributes:
        task: a data set by name, a folder of images, ``module:function``, ``path.py:function``.
        model: a name of MODELS.
        target: of a table: the column to predict.
        kind: of a table: classification or regression.
        metric: a name of METRICS, for the search to improve.
        optimizer: a name of OPTIMIZERS, with settings where wanted: ``sgd:momentum=0.95``.
        batch_size: samples an update.
        epochs: passes over the training split.
        families: names of FAMILIES; all that can be searched where left out.
        peak_lr: lowest and highest peak rate; from a range test where left out.
        warmup: shortest and longest warmup, fractions of the horizon.
        trials: budget in trials.
        updates: budget in optimizer updates.
        time: budget in time: ``90s``, ``10m``, ``1h30m``.
        seed: of the split, the trials and the sampler.
        out: the run's folder.
        storage: any Optuna storage URL.
        device: as torch names it.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    task: str
    model: str | None = None
    target: str | None = None
    kind: str | None = None
    metric: str | None = None
    optimizer: str | None = None
    batch_size: int | None = None
    epochs: float | None = None
    families: list[str] | None = None
    peak_lr: tuple[float, float] | None = None
    warmup: tuple[float, float] = (0.0, 0.2)
    trials: int | None = None
    updates: int | None = None
    time: str | None = None
    seed: int = 0
    out: str | None = None
    storage: str | None = None
    device: str | None = None


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


def validate(keys: dict[str, Any], source: str) -> StudyFile:
    """Look at every key and value.

    Args:
        keys: as read.
        source: what to name in an error: the study file, or "the command line".

    Raises:
        InputError: the first key that is unknown, missing or of another type.
    """
    # TOML has arrays, and no tuples; strict validation tells them apart.
    keys = {k: tuple(v) if isinstance(v, list) and k != "families" else v for k, v in keys.items()}
    try:
        return StudyFile(**keys)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            hint = nearest(name, StudyFile.model_fields)
            raise InputError(f"{source}: unknown key {name!r}{hint}") from error
        if name not in keys:
            raise InputError(f"{source}: {name} is missing") from error
        given = list(keys[name]) if isinstance(keys[name], tuple) else keys[name]
        raise InputError(f"{source}: {name}={given!r}: expected {EXPECTED[name]}") from error


def load(study: StudyFile) -> "Task":
    """The task that a study names."""
    from lrtune.tasks import load_task

    name, settings = (None, None)
    if study.optimizer is not None:
        name, settings = parse_optimizer(study.optimizer)
    return load_task(
        study.task,
        model=study.model,
        target=study.target,
        kind=study.kind,
        metric=study.metric,
        optimizer=name,
        settings=settings,
        batch_size=study.batch_size,
        epochs=study.epochs,
        seed=study.seed,
    )


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


def parse_optimizer(text: str) -> tuple[str, dict[str, object]]:
    """Name and settings from ``adamw:weight_decay=0.1,betas=0.9/0.95``.

    >>> parse_optimizer("adamw:weight_decay=0.1,betas=0.9/0.95")
    ('adamw', {'weight_decay': 0.1, 'betas': (0.9, 0.95)})
    """
    name, _, rest = text.partition(":")
    settings: dict[str, object] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise InputError(f"optimizer {text!r}: {part!r}: expected setting=value")
        if key.strip() in settings:
            raise InputError(f"optimizer {text!r}: {key.strip()} twice")
        settings[key.strip()] = _value(value.strip(), part)
    return name.strip(), settings


def _value(text: str, where: str) -> object:
    if text in ("true", "false"):
        return text == "true"
    try:
        numbers = tuple(float(part) for part in text.split("/"))
    except ValueError as error:
        raise InputError(f"{where!r}: a number, true, false or numbers with / between") from error
    return numbers if len(numbers) > 1 else numbers[0]
