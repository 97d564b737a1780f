"""load_task: names, folders and users' functions; what is given replaces what the data suggests."""

import json
import math
import sys
from dataclasses import replace

import pytest
import torch

from lrtune.errors import InputError
from lrtune.tasks import DATASETS, Task, check_model, load_task
from lrtune.tasks.load import NAMED
from lrtune.tasks.registry import digits

USER = """
import torch
from lrtune.tasks import Split, Task
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
    )

def count():
    return 7
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The user's working directory: two modules of theirs and one that does not import."""
    (tmp_path / "mytask.py").write_text(USER)
    (tmp_path / "neighbour.py").write_text("WIDTH = 4\nHALF = 2")
    (tmp_path / "mytask_broken.py").write_text("import mytask_bro")
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
def test_a_users_function(where, folder):
    task = load_task(f"{where.format(folder)}:make")
    assert isinstance(task, Task)
    assert (task.name, task.batch_size, task.settings) == ("mine", 5, {"momentum": 0.5})
    assert check_model(task) == 4 * 2 + 2


def test_a_file_is_found_and_imports_its_neighbours_from_anywhere(folder, monkeypatch):
    monkeypatch.chdir("/")
    assert load_task(f"{folder}/mytask.py:make").name == "mine"


def test_a_users_module_comes_before_an_installed_one(folder):
    assert "zipapp" not in sys.modules
    (folder / "zipapp.py").write_text(USER)
    assert load_task("zipapp:make").name == "mine"


def test_a_users_file_does_not_replace_a_module_of_its_name(folder):
    (folder / "json.py").write_text(USER)
    assert load_task("json.py:make").name == "mine"
    assert sys.modules["json"] is json


@pytest.mark.parametrize("what", ["digits", "mytask:make"])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"batch_size": 4, "epochs": 1.5}, {"batch_size": 4, "epochs": 1.5}),
        ({"optimizer": "sgd:momentum=0.1"}, {"optimizer": "sgd", "settings": {"momentum": 0.1}}),
        ({"optimizer": "adam"}, {"optimizer": "adam", "settings": {}}),
        (
            {"optimizer": "adam:eps=0.1", "clip_norm": 2.0, "ema": 0.1, "precision": "float32"},
            {
                **{"optimizer": "adam", "settings": {"eps": 0.1}},
                **{"clip_norm": 2.0, "ema": 0.1, "precision": "float32"},
            },
        ),
    ],
)
def test_what_is_given_replaces_the_tasks_own(what, given, expected, folder):
    plain, task = load_task(what), load_task(what, **given)
    changed = {name: getattr(task, name) for name in expected}
    assert changed == expected
    others = {"optimizer", "settings", "batch_size", "epochs"} - set(expected)
    assert all(getattr(task, name) == getattr(plain, name) for name in others)


@pytest.mark.parametrize(("model", "name"), [(None, "mlp"), ("cnn", "cnn")])
def test_digits(model, name):
    task = load_task("digits", batch_size=32, model=model)
    assert (task.model_name, task.classes, task.name) == (name, 10, "digits")
    assert check_model(task) > 1000


def test_the_seed_is_the_splits(tmp_path, write_images):
    for what in ("digits", str(write_images(tmp_path, ant=25, bee=25))):
        plain = load_task(what, batch_size=8).fingerprint
        assert load_task(what, seed=0, batch_size=8).fingerprint == plain
        assert load_task(what, seed=1, batch_size=8).fingerprint != plain


def test_a_folder_is_a_task_with_a_model_that_fits(tmp_path, write_images):
    task = load_task(str(write_images(tmp_path / "pets", ant=10, bee=10)), batch_size=4)
    assert (task.name, task.classes, task.model_name) == ("pets", 2, "cnn")
    assert check_model(task) > 1000
    assert task.prepare(task.train.inputs).dtype == torch.float32


@pytest.mark.parametrize(
    ("what", "given", "message"),
    [
        ("digit", {}, "task 'digit': neither .*; did you mean 'digits'"),
        ("digits", {"model": "cn"}, "model 'cn': one of mlp, cnn, .*; did you mean 'cnn'"),
        ("digits", {"batch_size": 5000}, "batch_size=5000: digits has only 1149 training samples"),
        ("mytask:mak", {}, "mytask:mak: mytask has no function 'mak'; did you mean 'make'"),
        ("mytask.py:cuont", {}, "mytask.py has no function 'cuont'; did you mean 'count'"),
        ("mytask:count", {}, r"mytask:count: returned int, expected lrtune\.Task"),
        (
            "mytask:make",
            {"model": "mlp"},
            "model='mlp': mytask:make is a function of yours: this is for a table or",
        ),
        ("mytask:make", {"batch_size": 11}, "batch_size=11: mine has only 10"),
        ("mytsk:make", {}, "mytsk: no such module here or among the installed ones"),
        ("lrtune.nope:make", {}, r"lrtune\.nope: no such module here"),
        ("no/mytask.py:make", {}, r"no/mytask\.py: no such file"),
        ("digits", {"target": "x"}, "target='x': digits is scikit-learn's digits: this is for a t"),
        ("wine", {"augment": ["flip"]}, "wine is a table: this is for scikit-learn's digits or a"),
        (
            "wine",
            {"memory": "1GB"},
            "memory='1GB': wine is a table: this is for a function of yours or a folder of images "
            "or a data set of torchvision$",
        ),
        ("digits", {"memory": "1GB"}, "memory='1GB': digits is scikit-learn's digits"),
        ("digits", {"skip_bad": True}, "skip_bad=True: digits is scikit-learn's digits"),
        ("digits", {"image_size": 8}, "image_size=8: digits is scikit-learn's digits"),
        ("digits", {"data_root": "x"}, "this is for a data set of torchvision$"),
        ("images", {"download": True}, "images is a folder of images: this is for a data set of t"),
        ("images", {"data_root": "x"}, "images is a folder of images: this is for a data set of t"),
        ("a.txt", {"memory": "1GB"}, r"memory='1GB': a\.txt is a text"),
        ("a.tsv", {}, r"^a\.tsv: a table with tabs: save it as \.csv$"),
        ("a.tsv.gz", {}, r"^a\.tsv\.gz: a table with tabs: save it as \.csv$"),
        ("", {}, "task '': neither a folder of images, nor a table"),
        ("digits", {"metric": "roc_auc"}, "^metric roc_auc: takes two classes, not 10$"),
        ("wine", {"metric": "roc_auc"}, "^metric roc_auc: takes two classes, not 3$"),
        ("wine", {"model": "transformer"}, r"'transformer': reads text, not samples of \(13,\)"),
        ("a.txt", {"model": "mlp", "context": 9}, "'mlp': does not read text: give --model trans"),
        ("wine", {"nosuch": 1}, "wine: unknown key 'nosuch'"),
        ("wine", {"clip_norm": "long"}, r"wine: clip_norm must be a number \(got 'long'\)"),
        ("wine", {"label_smoothing": 1.0}, r"label_smoothing must be at least 0 and below 1 \(got"),
        ("diabetes", {"label_smoothing": 0.1}, "label_smoothing=0.1: diabetes is a regression"),
        ("wine", {"class_weights": "odd"}, r"class_weights must be 'balanced' \(got 'odd'\)"),
        ("mytask:make", {"memory": "much"}, "memory='much': a number and a unit: 500MB, 2GB"),
        ("wine", {"kind": "ranking"}, "wine: kind must be classification or regression "),
        ("a.txt", {"tokens": "word"}, r"a\.txt: tokens must be char or byte \(got 'word'\)"),
        ("a.txt", {"context": 1}, r"a\.txt: context must be at least 2 \(got 1\)"),
        ("images", {"image_size": 0}, "image_size must be at least 1 and at most 4096"),
        ("images", {"image_size": 4097}, r"images: image_size must be .* \(got 4097\)"),
        ("wine", {"epochs": math.inf}, r"wine: epochs must be a finite number \(got inf\)"),
        ("mytask.py", {}, r"^mytask\.py: did you mean mytask\.py:make\? Of a Python file, name"),
        ("neighbour.py", {}, r"did you mean neighbour\.py:make\?"),
        (":make", {}, "no such module here"),
        (".mytask:make", {}, r"\.mytask: no such module here"),
    ],
)
def test_refused(what, given, message, folder):
    with pytest.raises(InputError, match=message):
        load_task(what, **given)


def test_a_default_batch_is_no_more_than_there_is(folder, write_images):
    task = load_task(str(write_images(folder / "pets", ant=10, bee=10)))
    assert task.batch_size == task.train.samples == 12
    rows = "".join(f"{i % 7},{i % 2}\n" for i in range(10))
    (folder / "t.csv").write_text("x,y\n" + rows)
    assert load_task("t.csv", target="y").batch_size == 6
    assert load_task("a.txt", context=49).batch_size == 18
    with pytest.raises(InputError, match=r"batch_size=7: t has only 6 training samples"):
        load_task("t.csv", target="y", batch_size=7)


@pytest.mark.parametrize("given", [[], [""]])
def test_no_augmentation_of_what_has_one_by_default(given, monkeypatch):
    def augmented(options):
        data = digits(options)
        return replace(data, defaults={**data.defaults, "augment": ("crop",)})

    monkeypatch.setitem(DATASETS, "digits", augmented)
    monkeypatch.setitem(NAMED, augmented, "scikit-learn's digits")
    assert load_task("digits", batch_size=32).augment == ("crop",)
    assert load_task("digits", batch_size=32, augment=given).augment == ()


def test_the_memory_of_a_users_function_is_known_while_it_runs(folder):
    (folder / "limited.py").write_text(
        "from lrtune.tasks.stream import LIMIT\nfrom mytask import make as plain\n"
        "def make():\n    assert LIMIT.get() == 2000, LIMIT.get()\n    return plain()"
    )
    assert load_task("limited.py:make", memory="2KB").memory == 2000
    with pytest.raises(InputError, match="AssertionError: None"):
        load_task("limited.py:make")


@pytest.mark.parametrize("where", ["mytask_broken", "mytask_broken.py"])
def test_a_module_that_fails_to_import_another_says_which(where, folder):
    """The missing name is the start of the module's own: still not the module that is missing."""
    message = r"ModuleNotFoundError: No module named 'mytask_bro' \(mytask_broken\.py, line 1\)"
    with pytest.raises(InputError, match=message) as caught:
        load_task(f"{where}:make")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def make():\n    return {}['x']", r"KeyError: 'x' \(faulty\.py, line 2\)"),
        ("import sys\nsys.exit(3)", r"SystemExit: 3 \(faulty\.py, line 2\)"),
        ("def make(:", "SyntaxError"),
    ],
)
def test_what_a_users_code_raises_is_named(body, message, folder):
    (folder / "faulty.py").write_text(body)
    with pytest.raises(InputError, match=rf"faulty\.py:make: {message}"):
        load_task("faulty.py:make")
