"""load_task: from the one argument that a user gives to a Task, and DATASETS: data by name.

The names are those of scikit-learn's data and of torchvision's images with one class each. Left
out of torchvision is what it does not fetch (ImageNet, FER2013, StanfordCars), what has no class
per image or no test split with the classes of training, FakeData (noise), and what it lists in the
order of the file system, so that a split is another one on another copy (INaturalist, SUN397). A
folder of images takes what lies on the disk.
"""

import ast
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
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrtune.errors import InputError, described, nearest
from lrtune.tasks.groups import ByName, Groups, base_of, ratios_of
from lrtune.tasks.images import Images, check_classes, image_data, image_folder, normalize
from lrtune.tasks.metrics import METRICS, ROC_AUC, CrossEntropy, Metric
from lrtune.tasks.models import Scalar, model_maker
from lrtune.tasks.options import TaskOptions, names_function, parse_optimizer, validate
from lrtune.tasks.splits import Data, Split, three_splits
from lrtune.tasks.stream import LIMIT, parse_size
from lrtune.tasks.tables import sklearn_table, table_file
from lrtune.tasks.task import Task
from lrtune.tasks.text import text_file
from lrtune.tasks.weights import Weights, find_weights, pretrained

TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
GROUPS = ("groups", "layer_decay", "freeze")
OPTIMIZER = ("optimizer", "batch_size", "epochs", "clip_norm", "ema", "precision", "seed", *GROUPS)
OURS = ("model", "metric", *OPTIMIZER)
CLASSES = (*OURS, "label_smoothing", "class_weights")
FOLDER = (*CLASSES, "augment", "image_size", "skip_bad", "memory", "weights")
# The options that mean something, by what is asked for.
OPTIONS = {
    "a function of yours": (*OPTIMIZER, "memory"),
    "a table": (*CLASSES, "target", "kind", "text", "tokens", "context"),
    "scikit-learn's digits": (*CLASSES, "augment"),
    "a folder of images": FOLDER,
    "a data set of torchvision": (*FOLDER, "data_root", "download"),
    "a text": (*OURS, "tokens", "context", "label_smoothing"),
}


def load_task(what: str, **options: Any) -> Task:
    """Make a task from a data set's name, a file, a folder or a user's function.

    Args:
        what: a name of DATASETS; a folder of images; a table (.csv, .tsv, .parquet; .csv.gz); any
            other file as a text; ``module:function`` or ``path.py:function`` whose function takes
            nothing and returns a Task.
        **options: see TaskOptions.

    Raises:
        InputError: for anything that is not there or does not fit.
    """
    given = validate(TaskOptions, options, what)
    if ":" in what and not Path(what).exists():
        _check_given(given, what, "a function of yours")
        changed = _changed(given)
        token = LIMIT.set(changed.get("memory"))  # the Task reads its data while it is built
        try:
            with _users_function(what) as make:
                task = make()
        finally:
            LIMIT.reset(token)
        if not isinstance(task, Task):
            raise InputError(f"{what}: returned {type(task).__name__}, expected lrtune.Task")
        if given.groups is not None:
            changed["groups"] = _groups(given, changed.get("groups", task.groups))
        return replace(task, **changed) if changed else task
    kind, read = _reader(what)
    _check_given(given, what, kind)
    weights = None
    if given.weights is not None:
        weights = find_weights(given.model or "", given.weights, download=given.download)
        if given.image_size is None:
            given = given.model_copy(update={"image_size": weights.size})
    return _task(read(given), given, weights)


def _reader(what: str) -> tuple[str, Callable[[TaskOptions], Data]]:
    """What it is, and the function that reads it."""
    path = Path(what)
    if what in DATASETS:
        return DATASETS[what]
    if what.lower().endswith(TABLES):
        return "a table", partial(table_file, path)
    if what and path.is_dir():  # the path of nothing is here
        return "a folder of images", partial(image_folder, path)
    if path.suffix == ".py" and path.is_file():
        raise InputError(
            f"{what}: did you mean {what}:{_likely_maker(path)}? Of a Python file, name the "
            "function that makes the lrtune.Task"
        )
    if path.is_file():
        return "a text", partial(text_file, path)
    raise InputError(
        f"task {what!r}: neither a folder of images, nor a table, nor a text, nor module:function, "
        f"nor of {', '.join(DATASETS)}{nearest(what, DATASETS)}"
    )


def _check_given(given: TaskOptions, what: str, kind: str) -> None:
    fits = {*OPTIONS[kind], *(("download",) if given.weights is not None else ())}
    for name in TaskOptions.model_fields:
        if name in given.model_fields_set and name not in fits:
            kinds = " or ".join(k for k, names in OPTIONS.items() if name in names)
            raise InputError(
                f"{name}={getattr(given, name)!r}: {what} is {kind}: this is for {kinds}"
            )


def _changed(given: TaskOptions) -> dict[str, Any]:
    """The fields of Task that the user sets."""
    names = ("batch_size", "epochs", "clip_norm", "ema", "precision", "layer_decay")
    changed = {name: getattr(given, name) for name in names}
    changed["memory"] = None if given.memory is None else parse_size(given.memory)
    if given.augment is not None:
        # --augment "" is the way to say: none.
        changed["augment"] = () if given.augment == [""] else tuple(given.augment)
    if given.freeze is not None:
        patterns = (pattern.strip() for text in given.freeze for pattern in text.split(","))
        changed["freeze"] = tuple(filter(None, patterns))
    changed = {name: value for name, value in changed.items() if value is not None}
    if given.optimizer is not None:
        # The task's own settings belong to its own optimizer.
        if names_function(given.optimizer):
            with _users_function(given.optimizer) as optimizer:
                changed |= {"optimizer": optimizer, "settings": {}, "groups": None}
        else:
            changed["optimizer"], changed["settings"] = parse_optimizer(given.optimizer)
    return changed


def _task(data: Data, given: TaskOptions, weights: Weights | None) -> Task:
    defaults = dict(data.defaults)
    defaults["batch_size"] = min(defaults["batch_size"], data.train.samples)
    name = defaults.pop("model")
    name = name if given.model is None else given.model
    shape, label, notes = tuple(data.train.first.inputs.shape[1:]), Path(name).name, data.notes
    prepare = data.prepare
    if weights is not None and weights.prepare is not None:
        shape, prepare = (3, *shape[1:]), weights.prepare  # which makes three channels of one
    starts = weights is not None
    text: dict[str, Any] = {"kind": data.kind, "tokenizer": data.tokenizer}
    model = model_maker(name, shape, data.outputs, **text, pretrained=starts)
    if weights is not None:
        model, note = pretrained(model, name, weights)
        label, notes = f"{name}-pretrained", (*notes, note)
    changed = {"groups": decay_matrices} | defaults | _changed(given)
    changed["groups"] = _groups(given, changed["groups"])
    return Task(
        name=data.name,
        data=data.source,
        notes=notes,
        train=data.train,
        val=data.val,
        test=data.test,
        prepare=prepare,
        model=partial(Scalar, model) if data.kind == "regression" else model,
        model_name=label.replace(":", "-"),
        # Convolutions are faster in it, on a CPU as on a GPU.
        layout=torch.contiguous_format if name == "mlp" or len(shape) < 3 else torch.channels_last,
        loss=_loss(data, given),
        metrics=_metrics(data, given.metric),
        classes=None if data.kind == "regression" else data.outputs,
        **changed,
    )


def _groups(given: TaskOptions, groups: Groups | None) -> Groups | None:
    """The task's groups, divided by name where the user says so."""
    if given.groups is None:
        return groups
    return ByName(ratios_of(",".join(given.groups)), base_of(groups))


def decay_matrices(model: nn.Module) -> list[dict[str, Any]]:
    """Parameter groups: weight decay on matrices and kernels, none on norms and biases."""
    free = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in free if p.dim() > 1]},
        {"params": [p for p in free if p.dim() <= 1], "weight_decay": 0.0},
    ]


def _loss(data: Data, given: TaskOptions) -> Callable[[Any, Any], Tensor]:
    if data.kind == "regression":
        for name in ("label_smoothing", "class_weights"):
            if (value := getattr(given, name)) is not None:
                raise InputError(f"{name}={value!r}: {data.name} is a regression: no classes")
        return F.mse_loss
    smoothing = 0.0 if given.label_smoothing is None else given.label_smoothing
    if given.class_weights is None:
        return CrossEntropy(smoothing)
    labels = data.train.labels
    assert labels is not None  # classes are whole numbers
    counts = labels.bincount(minlength=data.outputs).clamp_min(1)
    return CrossEntropy(smoothing, len(labels) / (data.outputs * counts.float()))


def _metrics(data: Data, objective: str | None) -> tuple[Metric, ...]:
    """The objective first, then the data's first two, which every report shows."""
    known = {metric.name: metric for metric in data.metrics or METRICS[data.kind]}
    if objective is not None and objective not in known:
        hint = nearest(objective, known)
        raise InputError(f"metric {objective!r}: {data.kind} has {', '.join(known)}{hint}")
    if objective == ROC_AUC.name and data.outputs != 2:
        raise InputError(f"metric {objective}: takes two classes, not {data.outputs}")
    names = [*([objective] if objective else []), *list(known)[:2]]
    return tuple(known[name] for name in dict.fromkeys(names))


@contextmanager
def _users_function(what: str) -> Iterator[Callable[..., Any]]:
    """The function that ``module:function`` or ``path.py:function`` names, to be called here."""
    where, _, name = what.rpartition(":")
    path = Path(where) if where.endswith(".py") else None
    with _first_on_path(path.parent if path else Path.cwd()), _errors_of(what):
        module = _import_file(path) if path else _import_module(where)
        function = getattr(module, name, None)
        if not callable(function):
            names = [n for n, value in vars(module).items() if inspect.isfunction(value)]
            raise InputError(f"{what}: {where} has no function {name!r}{nearest(name, names)}")
        yield function


def _likely_maker(path: Path) -> str:
    """The function of a file that probably makes its Task; the file is read, not run."""
    try:
        body = ast.parse(path.read_text(encoding="utf-8")).body
    except (OSError, ValueError, SyntaxError, RecursionError):
        body = []
    functions = [node for node in body if isinstance(node, ast.FunctionDef)]
    names = [node.name for node in functions if "Task(" in ast.unparse(node)]
    return names[0] if names else "make"


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
        raise InputError(f"{what}: {described(error)} ({where})") from error


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


# The recipe of the model: David Page, "How to train your ResNet" (2018).
SMALL_PHOTOS: dict[str, Any] = {
    "model": "resnet9",
    "optimizer": "nesterov",
    "settings": {"momentum": 0.9, "weight_decay": 5e-4},
    "batch_size": 512,
    "epochs": 24.0,
    "augment": ("flip", "crop"),
}


class Entry(NamedTuple):
    """One of ``torchvision.datasets``: the class, and its arguments for each split it has."""

    cls: str
    splits: dict[str, dict[str, Any]]
    defaults: dict[str, Any] | None = None  # Task fields, where not those of any images
    mode: Literal["L", "RGB"] = "RGB"


def _named(train: str, val: str | None, test: str | None, **more: Any) -> dict[str, dict[str, Any]]:
    names = {"train": train, "val": val, "test": test}
    return {split: {"split": name, **more} for split, name in names.items() if name is not None}


WHOLE: dict[str, dict[str, Any]] = {"train": {}}
TRAIN_TEST: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
BALANCED = {split: {"split": "balanced", **given} for split, given in TRAIN_TEST.items()}

ENTRIES = (
    Entry("Caltech101", WHOLE),
    Entry("Caltech256", WHOLE),
    Entry("CIFAR10", TRAIN_TEST, SMALL_PHOTOS),
    Entry("CIFAR100", TRAIN_TEST, SMALL_PHOTOS),
    Entry("Country211", _named("train", "valid", "test")),
    Entry("DTD", _named("train", "val", "test")),
    Entry("EMNIST", BALANCED, mode="L"),
    Entry("EuroSAT", WHOLE),
    Entry("FashionMNIST", TRAIN_TEST, mode="L"),
    Entry("FGVCAircraft", _named("train", "val", "test")),
    Entry("Flowers102", _named("train", "val", "test")),
    Entry("Food101", _named("train", None, "test")),
    Entry("GTSRB", _named("train", None, "test")),
    Entry("Imagenette", _named("train", "val", None)),
    Entry("KMNIST", TRAIN_TEST, mode="L"),
    Entry("MNIST", TRAIN_TEST, mode="L"),
    Entry("OxfordIIITPet", _named("trainval", None, "test")),
    Entry("PCAM", _named("train", "val", "test")),
    Entry("Places365", _named("train-standard", "val", None, small=True)),
    Entry("QMNIST", TRAIN_TEST, mode="L"),
    Entry("RenderedSST2", _named("train", "val", "test")),
    Entry("SEMEION", WHOLE, mode="L"),
    Entry("STL10", _named("train", None, "test")),
    # Digits: a mirrored one is no digit.
    Entry("SVHN", _named("train", None, "test"), {**SMALL_PHOTOS, "augment": ("crop",)}),
    Entry("USPS", TRAIN_TEST, mode="L"),
)
CATALOG = {entry.cls.lower(): entry for entry in ENTRIES}


def torchvision_data(name: str, options: TaskOptions) -> Data:
    """A data set of the CATALOG."""
    entry = CATALOG[name]
    datasets = {
        split: _open(name, entry.cls, each, options) for split, each in entry.splits.items()
    }
    classes = {split: names for split, data in datasets.items() if (names := _classes(data))}
    if classes:
        check_classes(name, classes)
    images = {
        split: Images(data, f"{name} {split}", f"{name} {split}: sample {{}}".format, entry.mode)
        for split, data in datasets.items()
    }
    source = f"torchvision {entry.cls}"
    return image_data(name, source, images, classes.get("train"), options, entry.defaults)


def _open(name: str, cls: str, given: dict[str, Any], options: TaskOptions) -> Any:
    from torchvision import datasets

    root = Path(options.data_root).expanduser()
    try:
        if not options.download and not root.is_dir():
            raise FileNotFoundError(root)  # some of torchvision's classes would make the folder
        return getattr(datasets, cls)(root, **given, download=options.download)
    except Exception as error:  # whatever the network, a server, an archive or a file can do
        way_out = "give --data-root, where it lies, or --download to fetch it"
        if options.download:
            way_out = "look at the network and the disk, or give --data-root, where it lies"
        raise InputError(
            f"{name}: cannot be read from {root}/: {described(error)}: {way_out}"
        ) from error


def _classes(dataset: Any) -> list[str] | None:
    """Names, where torchvision tells them; under three different attributes."""
    for attribute in ("classes", "categories", "all_categories"):
        if names := getattr(dataset, attribute, None):
            return [str(name) for name in names]
    return None


def digits(options: TaskOptions) -> Data:
    """scikit-learn's digits: 1,797 grey 8x8 images, 10 classes; needs no download."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.from_numpy(raw.images).to(torch.uint8).unsqueeze(1)
    whole = Split(images, torch.from_numpy(raw.target).long())
    splits = three_splits("digits", {"train": whole}, options.seed, raw.target_names.astype(str))
    return Data(
        *splits,
        name="digits",
        source="scikit-learn load_digits",
        kind="classification",
        outputs=len(raw.target_names),
        prepare=normalize(splits[0]),
        defaults={"model": "mlp", "batch_size": 4, "epochs": 3.0},
    )


class Dataset(NamedTuple):
    """Data by name: what it is, as errors call it, and how it is read."""

    kind: str
    read: Callable[[TaskOptions], Data]


OF_SKLEARN = ("breast_cancer", "diabetes", "wine")
DATASETS = {
    "digits": Dataset("scikit-learn's digits", digits),
    **{name: Dataset("a table", partial(sklearn_table, name)) for name in OF_SKLEARN},
    **{
        name: Dataset("a data set of torchvision", partial(torchvision_data, name))
        for name in CATALOG
    },
}
