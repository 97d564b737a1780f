"""load_task: names, folders and users' functions; what is given replaces what the data suggests."""

import json
import math
import sys

import pytest
import torch

from lrtune.tasks import DATASETS, Task, check_model, load_task
from lrtune.tasks.load import Dataset, digits
from tests.tasks.conftest import refused

USER = """
import torch
from lrtune.tasks import Split, Task
from lrtune.tasks.stream import LIMIT
from neighbour import WIDTH

def make():
    from neighbour import HALF
    inputs, targets = torch.arange(80.0).view(20, WIDTH), torch.arange(20) % HALF
    return Task(
        name="mine",
        train=Split(inputs[:10], targets[:10]),
        val=Split(inputs[10:], targets[10:]),
        model=lambda: torch.nn.Linear(WIDTH, 2),
        classes=2,
        batch_size=5,
        epochs=3,
        settings={"momentum": 0.5},
        notes=(f"limit {LIMIT.get()}",),
    )

def count():
    return 7
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The user's working directory: two modules of theirs, a folder and a text."""
    (tmp_path / "mytask.py").write_text(USER)
    (tmp_path / "neighbour.py").write_text("WIDTH = 4\nHALF = 2")
    (tmp_path / "images" / "ant").mkdir(parents=True)
    (tmp_path / "a.txt").write_text("abcdefghij" * 100)
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    assert sys.path == path
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("where", ["mytask", "mytask.py", "{}/mytask.py"])
def test_a_users_function(where, folder, monkeypatch):
    if where.startswith("{"):
        monkeypatch.chdir("/")  # its neighbours are found from anywhere
    task = load_task(f"{where.format(folder)}:make", memory="2KB")
    assert isinstance(task, Task)
    assert (task.name, task.batch_size, task.settings) == ("mine", 5, {"momentum": 0.5})
    assert (task.memory, task.notes) == (2000, ("limit 2000",))  # known while the function runs
    assert load_task(f"{where.format(folder)}:make").notes == ("limit None",)
    assert check_model(task) == 4 * 2 + 2


def test_a_users_module_comes_before_an_installed_one_and_replaces_none(folder):
    assert "zipapp" not in sys.modules
    for name in ("zipapp", "json"):
        (folder / f"{name}.py").write_text(USER)
    assert load_task("zipapp:make").name == load_task("json.py:make").name == "mine"
    assert sys.modules["json"] is json


GIVEN = {"clip_norm": 2.0, "ema": 0.1, "precision": "float32"}


@pytest.mark.parametrize("what", ["digits", "mytask:make"])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"batch_size": 4, "epochs": 1.5}, {"batch_size": 4, "epochs": 1.5}),
        ({"optimizer": "sgd:momentum=0.1"}, {"optimizer": "sgd", "settings": {"momentum": 0.1}}),
        ({"optimizer": "adam", **GIVEN}, {"optimizer": "adam", "settings": {}, **GIVEN}),
    ],
)
def test_what_is_given_replaces_the_tasks_own(what, given, expected, folder):
    plain, task = load_task(what), load_task(what, **given)
    assert {name: getattr(task, name) for name in expected} == expected
    others = {"optimizer", "settings", "batch_size", "epochs"} - set(expected)
    assert all(getattr(task, name) == getattr(plain, name) for name in others)


def test_data_get_a_model_that_fits(tmp_path, write_images):
    pets = str(write_images(tmp_path / "pets", ant=10, bee=10))
    for what, model, name, classes in (
        ("digits", None, "mlp", 10),
        ("digits", "cnn", "cnn", 10),
        (pets, None, "cnn", 2),
        ("diabetes", None, "mlp", None),
        ("wine", None, "mlp", 3),
    ):
        task = load_task(what, batch_size=4, model=model)
        assert (task.model_name, task.classes) == (name, classes)
        assert check_model(task) > 1000
        assert task.prepare(task.train.inputs).dtype == torch.float32


DIGITS = "digits is scikit-learn's digits"


@pytest.mark.parametrize(
    ("what", "given", "message"),
    [
        ("digit", {}, "task 'digit': neither .*; did you mean 'digits'"),
        ("", {}, "task '': neither a folder of images, nor a table"),
        ("a.tsv", {}, r"^a\.tsv: no such file$"),
        ("wine", {"context": 9}, "context=9: of texts: name their column: --text NAME"),
        ("digits", {"metric": "roc_auc"}, "^metric roc_auc: takes two classes, not 10$"),
        ("breast_cancer", {"metric": "r2"}, "metric 'r2'"),
        ("a.txt", {"model": "mlp", "context": 9}, "'mlp': does not read text: give --model trans"),
        ("diabetes", {"label_smoothing": 0.1}, "label_smoothing=0.1: diabetes is a regression"),
        # Functions of the user's.
        ("mytask:mak", {}, "mytask:mak: mytask has no function 'mak'; did you mean 'make'"),
        ("mytask.py:cuont", {}, "mytask.py has no function 'cuont'; did you mean 'count'"),
        ("mytask:count", {}, r"mytask:count: returned int, expected lrtune\.Task"),
        ("mytask:make", {"memory": "much"}, "memory='much': a number and a unit: 500MB, 2GB"),
        ("mytsk:make", {}, "mytsk: no such module here or among the installed ones"),
        ("lrtune.nope:make", {}, r"lrtune\.nope: no such module here"),
        (".mytask:make", {}, r"\.mytask: no such module here"),
        ("no/mytask.py:make", {}, r"no/mytask\.py: no such file"),
        ("mytask.py", {}, r"^mytask\.py: did you mean mytask\.py:make\? Of a Python file, name"),
        # Options of other data.
        ("mytask:make", {"model": "mlp"}, "model='mlp': .* a function of yours: this is for a tab"),
        ("digits", {"target": "x"}, f"target='x': {DIGITS}: this is for a table"),
        ("digits", {"image_size": 8}, f"image_size=8: {DIGITS}"),
        ("digits", {"data_root": "x"}, "this is for a data set of torchvision$"),
        ("wine", {"augment": ["flip"]}, "wine is a table: this is for scikit-learn's digits or a"),
        ("images", {"download": True}, "images is a folder of images: this is for a data set of t"),
        ("a.txt", {"memory": "1GB"}, r"memory='1GB': a\.txt is a text"),
        # Values of options.
        ("wine", {"nosuch": 1}, "wine: unknown key 'nosuch'"),
        ("wine", {"clip_norm": "long"}, r"wine: clip_norm must be a number \(got 'long'\)"),
        ("wine", {"label_smoothing": 1}, r"label_smoothing must be at least 0 and below 1 \(got 1"),
        ("wine", {"class_weights": "odd"}, r"class_weights must be 'balanced' \(got 'odd'\)"),
        ("wine", {"kind": "ranking"}, "wine: kind must be classification or regression "),
        ("wine", {"epochs": math.inf}, r"wine: epochs must be a finite number \(got inf\)"),
        ("images", {"image_size": 4097}, r"image_size must be at least 1 and at most 4096 \(got"),
    ],
)
def test_refused(what, given, message, folder):
    with refused(message):
        load_task(what, **given)


def test_a_default_batch_is_no_more_than_there_is(folder, write_images):
    task = load_task(str(write_images(folder / "pets", ant=10, bee=10)))
    assert task.batch_size == task.train.samples == 12
    rows = "".join(f"{i % 7},{i % 2}\n" for i in range(10))
    (folder / "t.csv").write_text("x,y\n" + rows)
    assert load_task("t.csv", target="y").batch_size == 6
    assert load_task("a.txt", context=49).batch_size == 18
    with refused(r"batch_size=7: t has only 6 training samples"):
        load_task("t.csv", target="y", batch_size=7)


def test_no_augmentation_of_what_has_one_by_default(monkeypatch):
    def augmented(options):
        data = digits(options)
        data.defaults["augment"] = ("crop",)
        return data

    monkeypatch.setitem(DATASETS, "digits", Dataset("scikit-learn's digits", augmented))
    assert load_task("digits", batch_size=32).augment == ("crop",)
    for given in ([], [""]):
        assert load_task("digits", batch_size=32, augment=given).augment == ()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def make():\n    return {}['x']", r"KeyError: 'x' \(faulty\.py, line 2\)"),
        ("import sys\nsys.exit(3)", r"SystemExit: 3 \(faulty\.py, line 2\)"),
        ("def make(:", "SyntaxError"),
        # The start of a module's own name: still not the module that is missing.
        ("import faul", r"ModuleNotFoundError: No module named 'faul' \(faulty\.py, line 1\)"),
    ],
)
@pytest.mark.parametrize("where", ["faulty", "faulty.py"])
def test_what_a_users_code_raises_is_named(where, body, message, folder):
    (folder / "faulty.py").write_text(body)
    with refused(rf"{where}:make: {message}"):
        load_task(f"{where}:make")
