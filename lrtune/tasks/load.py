"""From the one argument that a user gives to a Task."""

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn
from torch.nn import functional as F

from lrtune.errors import InputError, nearest
from lrtune.tasks.data import Data
from lrtune.tasks.datasets import DATASETS, image_folder
from lrtune.tasks.metrics import METRICS, Metric
from lrtune.tasks.models import MODELS, Scalar
from lrtune.tasks.tables import table_file
from lrtune.tasks.task import Task

TABLES = (".csv", ".csv.gz", ".parquet")


def load_task(
    what: str,
    *,
    model: str | None = None,
    target: str | None = None,
    kind: str | None = None,
    metric: str | None = None,
    optimizer: str | None = None,
    settings: dict[str, object] | None = None,
    batch_size: int | None = None,
    epochs: float | None = None,
    seed: int = 0,
) -> Task:
    """Make a task from a name of DATASETS, an image folder or a user's function.

    Args:
        what: ``digits``; a folder of images; ``module:function`` or ``path.py:function`` whose
            function takes nothing and returns a Task.
        model: a name of MODELS; the data's default where None.
        target: of a table: the column to predict.
        kind: of a table: classification or regression; told from the target where None.
        metric: a name of METRICS, for the search to improve; the loss where None.
        optimizer: a name of OPTIMIZERS.
        settings: the optimizer's settings other than the rate.
        batch_size: samples an update.
        epochs: passes over the training split.
        seed: of the splits.

    Raises:
        InputError: for anything that is not there or does not fit.
    """
    check_seed(seed)
    given: dict[str, Any] = {
        "optimizer": optimizer,
        "settings": settings,
        "batch_size": batch_size,
        "epochs": epochs,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if optimizer is not None:
        given.setdefault("settings", {})  # the task's own settings belong to its own optimizer
    is_table = what.lower().endswith(TABLES)
    if not is_table and (target or kind):
        raise InputError(f"target={target!r}, kind={kind!r}: {what} is not a table ({TABLES})")
    if ":" in what and not Path(what).exists():
        for name, value in (("model", model), ("metric", metric)):
            if value is not None:
                raise InputError(f"{name}={value!r}: {what} brings its own {name}")
        task = _users_task(what)
        return replace(task, **given) if given else task
    if what in DATASETS:
        data = DATASETS[what](seed)
    elif is_table:
        data = table_file(Path(what), target, kind, seed)
    elif Path(what).is_dir():
        data = image_folder(Path(what), seed)
    else:
        raise InputError(
            f"task {what!r}: neither a folder of images, nor a table, nor module:function, nor of "
            f"{', '.join(DATASETS)}{nearest(what, DATASETS)}"
        )
    return _task(data, model, metric, given)


def check_seed(seed: int) -> None:
    """Refuse what not every generator takes."""
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise InputError(f"seed={seed!r}: a whole number from 0 to {2**32 - 1}")


def _task(data: Data, model: str | None, metric: str | None, given: dict[str, Any]) -> Task:
    defaults = dict(data.defaults)
    default_model = defaults.pop("model")
    name = default_model if model is None else model
    if name not in MODELS:
        raise InputError(f"model {name!r}: one of {', '.join(MODELS)}{nearest(name, MODELS)}")
    shape = tuple(data.train.inputs.shape[1:])
    if name == "cnn" and len(shape) != 3:
        raise InputError(f"model 'cnn': takes images, not samples of {shape}: give --model mlp")
    make: Callable[[], nn.Module]
    if data.classes is None:
        make = partial(Scalar, partial(MODELS[name], shape, 1))
    else:
        make = partial(MODELS[name], shape, len(data.classes))
    kind = "regression" if data.classes is None else "classification"
    return Task(
        name=data.name,
        data=data.source,
        train=data.train,
        val=data.val,
        test=data.test,
        prepare=data.prepare,
        model=make,
        model_name=name,
        loss=F.mse_loss if data.classes is None else F.cross_entropy,
        metrics=_metrics(kind, metric),
        classes=None if data.classes is None else len(data.classes),
        **(defaults | given),
    )


def _metrics(kind: str, objective: str | None) -> tuple[Metric, ...]:
    """The objective first, then the kind's first two, which every report shows."""
    known = METRICS[kind]
    if objective is not None and objective not in known:
        hint = nearest(objective, known)
        raise InputError(f"metric {objective!r}: {kind} has {', '.join(known)}{hint}")
    names = [*([objective] if objective else []), *list(known)[:2]]
    if kind == "regression":
        names.append("r2")
    return tuple(known[name] for name in dict.fromkeys(names))


def _users_task(what: str) -> Task:
    where, _, name = what.rpartition(":")
    path = Path(where) if where.endswith(".py") else None
    with _first_on_path(path.parent if path else Path.cwd()), _errors_of(what):
        module = _import_file(path) if path else _import_module(where)
        function = getattr(module, name, None)
        if not callable(function):
            names = [n for n, value in vars(module).items() if inspect.isfunction(value)]
            raise InputError(f"{what}: {where} has no function {name!r}{nearest(name, names)}")
        task = function()
    if not isinstance(task, Task):
        raise InputError(f"{what}: returned {type(task).__name__}, expected lrtune.Task")
    return task


@contextmanager
def _errors_of(what: str) -> Iterator[None]:
    """Whatever the user's code raises, in one line that says where."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # a file that calls sys.exit() is no task either
        *_, last = traceback.extract_tb(error.__traceback__)
        where = f"{Path(last.filename).name}, line {last.lineno}"
        said = " ".join(str(error).split())
        raise InputError(f"{what}: {type(error).__name__}: {said} ({where})") from error


@contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    """Import from the user's folder first, as ``python file.py`` and ``python -m`` do."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    name = f"lrtune_user_{path.stem}"  # a user's json.py must not become everyone's json
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # a .py file always has both
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look it up there
    spec.loader.exec_module(module)
    return module


def _import_module(name: str) -> ModuleType:
    missing = f"{name}: no such module here or among the installed ones"
    if not all(part.isidentifier() for part in name.split(".")):
        raise InputError(missing)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name and not name.startswith(f"{error.name}."):
            raise  # the module is there; what it imports is not
        raise InputError(missing) from error
