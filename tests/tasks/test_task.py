"""Task: what it refuses, when it is validated, what its fingerprint sees, what fits its model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from lrtune.tasks import Metric, Split, Task, check_model
from lrtune.tasks.metrics import ACCURACY, CROSS_ENTROPY, MSE
from tests.tasks.conftest import refused

digits = load_digits()
X, Y = torch.from_numpy(digits.data).float(), torch.from_numpy(digits.target)
GIVEN = {
    "name": "toy",
    "train": Split(X[:300], Y[:300]),
    "val": Split(X[300:350], Y[300:350]),
    "test": Split(X[350:400], Y[350:400]),
    "model": lambda: nn.Linear(64, 10),
    "classes": 10,
    "batch_size": 30,
    "epochs": 2.0,
}
TASK, LINEAR = Task(**GIVEN), GIVEN["model"]


def with_value(tensor, row, value):
    changed = tensor.clone()
    changed[row] = value
    return changed


NAN, INF = float("nan"), float("inf")
HALF = {  # whose test split has a class that training never shows
    "train": Split(X[Y < 5], Y[Y < 5]),
    "test": Split(X[Y < 5], with_value(Y[Y < 5], 3, 7)),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": Split(X[:300], Y[:299])}, "toy: train: 300 inputs for 299 targets: they go one"),
        ({"val": Split(X[:0], Y[:0])}, "toy: val: no samples: give it at least one"),
        ({"test": Split(with_value(X, 7, NAN), Y)}, "toy: test: inputs .* NaN .* sample 7"),
        ({"val": Split(with_value(X, 3, INF), Y)}, "toy: val: inputs .* sample 3"),
        ({"val": Split(X, with_value(X[:, 0], 5, NAN)), "classes": None}, "targets .* sample 5"),
        ({"val": Split(X, with_value(Y, 0, 10))}, "toy: val: labels go from 0 to 10, not 0 to 9"),
        ({"train": Split(X, with_value(Y, 0, -1))}, "train: labels go from -1 to 9, not 0 to 9"),
        ({"train": Split(X[Y == 4], Y[Y == 4])}, r"toy: train: a single class \(4\)"),
        (HALF, "toy: val: class 5 is not in train: add it there or drop it"),
        ({"train": Split(X, X[:, 0])}, "targets are no class numbers: give them"),
        ({"test": Split(X[:9, :3], Y[:9])}, r"of val is .*\(64,\).*, one of test .*\(3,\).*: make"),
        ({"batch_size": 301}, "batch_size=301: toy has only 300 training samples"),
        ({"batch_size": 0}, "batch_size=0: expected a whole number of at least 1"),
        ({"batch_size": True}, "batch_size=True: expected a whole number"),
        ({"validations": 0}, "validations=0: expected a whole number of at least 1"),
        ({"epochs": 0}, "epochs=0: a positive number of passes"),
        ({"epochs": INF}, "epochs=inf: a positive number"),
        ({"epochs": 1e9}, r"epochs=1000000000\.0: .* at most 1e\+06 here"),
        ({"epochs": "3"}, "epochs='3': expected a number"),
        ({"metrics": ()}, r"metrics=\(\): expected a tuple of at least one Metric"),
        ({"metrics": (MSE, MSE)}, "metrics=.*: expected .* each with a name of its own"),
        ({"train": (X, Y)}, "toy: train=.*: expected a Split of tensors on the CPU, a dictionary"),
        ({"test": Split(X, Y.tolist())}, "toy: test=.*: expected a Split of tensors"),
        ({"model": nn.Linear(64, 10)}, "model=.*: expected a function that makes one"),
        ({"name": ""}, "name='': expected a short name"),
        ({"name": "../x"}, r"name='\.\./x': expected a short name without / or "),
        ({"name": ".x"}, r"name='\.x': expected a short name"),
        ({"model_name": 3}, "model_name=3: expected a short name"),
        ({"notes": "abc"}, "notes='abc': expected a tuple of strings"),
        ({"prepare": nn.Linear(2, 2)}, "prepare=Linear.*: expected an nn.Module without param"),
        ({"prepare": torch.relu}, r"prepare=.*: expected an nn\.Module"),
        ({"classes": 10.0}, r"classes=10\.0: expected a whole number, or None"),
        ({"clip_norm": 0}, "clip_norm=0: expected a positive number, or None"),
        ({"ema": 1.5}, r"ema=1\.5: expected a share of the run, 0 to 1"),
        ({"precision": "half"}, "precision='half': expected float32, bfloat16 or None"),
        ({"memory": -1}, "memory=-1: expected a number of bytes, or None"),
        ({"groups": 3}, "groups=3: expected a function of the model, ratios by name"),
        ({"augment": "flip"}, "augment='flip': expected a tuple of names"),
        ({"augment": ("flip",)}, r"augment 'flip': takes images, not samples of \(64,\)"),
    ],
)
def test_refused(change, message):
    with refused(message):
        Task(**GIVEN | change)


@given(
    samples=st.integers(2, 300),
    batch_size=st.integers(1, 300),
    epochs=st.floats(0.001, 50),
    validations=st.integers(1, 200),
)
def test_checkpoints_are_even_and_end_at_the_horizon(samples, batch_size, epochs, validations):
    task = replace(
        TASK,
        train=Split(X[:samples], Y[:samples]),
        classes=None,
        batch_size=min(batch_size, samples),
        epochs=epochs,
        validations=validations,
    )
    # Half an update is what rounding may cost; a trial has at least one.
    assert abs(task.horizon - max(1, epochs * samples / task.batch_size)) <= 0.5
    checkpoints = task.checkpoints
    assert len(checkpoints) == min(validations, task.horizon)
    ideal = np.linspace(0, task.horizon, len(checkpoints) + 1)[1:]
    assert np.abs(checkpoints - ideal).max() <= 0.5 + 1e-9
    assert checkpoints[-1] == task.horizon


@given(epochs=st.floats(0.01, 30), held_out=st.integers(1, 1000))
def test_validations_by_default_cost_little_beside_the_training(epochs, held_out):
    task = replace(TASK, epochs=epochs, val=Split(X[:held_out], Y[:held_out]))
    count = len(task.checkpoints)
    # A tenth of the training, whose backward pass counts twice.
    affordable = 0.1 * 3 * task.horizon * task.batch_size / held_out
    assert min(5, task.horizon) <= count <= 30
    assert count <= max(5, affordable)
    assert count == min(30, task.horizon) or count + 1 > affordable
    assert task.checkpoints[-1] == task.horizon


CHANGES = {
    "input": lambda split: Split(with_value(split.inputs, -1, 0), split.targets),
    "target": lambda split: Split(split.inputs, with_value(split.targets, -1, 9)),
    "order": lambda split: Split(split.inputs.flip(0), split.targets.flip(0)),
    "shape": lambda split: Split(split.inputs.view(-1, 8, 8), split.targets),
    "dtype": lambda split: Split(split.inputs.view(torch.int32), split.targets),
    "fewer": lambda split: Split(split.inputs[1:], split.targets[1:]),
    "name": lambda split: Split({"a": split.inputs}, split.targets),
    "another name": lambda split: Split({"b": split.inputs}, split.targets),
    # Of the numbers of some columns, the highest bits alone.
    "signs": lambda split: Split(
        torch.where(COLUMNS % 4 == 1, -split.inputs, split.inputs), split[1]
    ),
    "all signs": lambda split: Split(-split.inputs, split.targets),
    "columns": lambda split: Split(split.inputs[:, [0, 3, 2, 1, *range(4, 64)]], split.targets),
}
COLUMNS = torch.arange(64)


@pytest.mark.parametrize("name", ["train", "val"])
def test_fingerprint_sees_every_change_of_the_data_and_no_other(name):
    signs = torch.where(X > 4, 1.0, -1.0)
    signs[:, 1], signs[:, 3] = 1.0, -1.0
    for inputs in (X, signs):
        plain = replace(TASK, train=Split(inputs[:300], Y[:300]), val=Split(inputs, Y), test=None)
        changed = [
            replace(plain, **{name: change(getattr(plain, name))}) for change in CHANGES.values()
        ]
        prints = [task.fingerprint for task in (plain, *changed)]
        assert len({*prints}) == len(prints)
    swapped = replace(TASK, val=TASK.test, test=TASK.val)
    without = replace(TASK, test=None)
    assert len({TASK.fingerprint, swapped.fingerprint, without.fingerprint}) == 3
    stored_otherwise = Split(X[:300].t().contiguous().t(), Y[:300].clone())
    settings = {"batch_size": 7, "name": "other", "optimizer": "adam"}
    for change in ({"train": stored_otherwise}, settings):
        assert replace(TASK, **change).fingerprint == TASK.fingerprint


def half_frozen():
    model = nn.Sequential(nn.Linear(64, 5), nn.Dropout(), nn.Linear(5, 10))
    model[0].requires_grad_(False)
    return model


def test_check_model_counts_what_is_trained_and_leaves_the_generator_alone():
    before = torch.get_rng_state()
    assert check_model(replace(TASK, model=half_frozen)) == 5 * 10 + 10
    assert torch.equal(torch.get_rng_state(), before)


def metric(function):
    return {"metrics": (Metric("odd", function, "minimize"),)}


SHARED = nn.Linear(64, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # The first two labels are 0 and 1: the loss alone does not see that 2 ... 9 are missing.
        ({"model": lambda: nn.Linear(64, 5)}, "model custom, .*: 5 outputs for 10 classes"),
        ({"model": lambda: nn.Linear(63, 10)}, r"inputs \(64,\) torch\.float32\).*2x64 and 63x10"),
        ({"model": lambda: nn.Linear(64, 10).double()}, "training fails .* Float and Double"),
        ({"model": lambda: {}["net"]}, "model fails: KeyError: 'net'"),
        ({"model": lambda: 3}, r"model made int, not an nn\.Module"),
        (
            {"model": lambda: nn.LazyLinear(10)},
            "model has lazy layers, .*: give the model a sample",
        ),
        ({"model": lambda: SHARED}, "model gave the same object twice: make a fresh one"),
        ({"model": nn.Flatten, "classes": 10}, "nothing to train: no parameter reaches the loss"),
        ({"model": lambda: nn.Sequential(nn.Hardtanh(0, 1, True), LINEAR())}, "its batch in"),
        ({"loss": lambda o, t: o}, "loss returned .*, not a scalar tensor"),
        ({"loss": lambda o, t: 1.0}, r"loss returned 1\.0, not a scalar tensor"),
        ({"loss": lambda o, t: F.mse_loss(o[:, :1], t.float())}, "training .* Using a target size"),
        (metric(lambda o, t: o), r"metric odd fails on .*: returned a tensor \(50, 10\), not one"),
        (metric(lambda o, t: o.log().mean()), "nan on 50 samples of val, untrained: expected a"),
    ],
)
def test_check_model_refuses(change, message):
    with refused(f"toy: .*{message}"):
        check_model(replace(TASK, **change))


def focal(outputs, targets):
    likely = torch.log_softmax(outputs, -1).gather(-1, targets[:, None])
    return -((1 - likely.exp()) ** 2 * likely).mean()


def test_what_the_search_improves_is_the_loss_that_was_given():
    task = Task(**GIVEN, loss=focal)
    assert [m.name for m in task.metrics] == ["loss", "accuracy"]
    assert (task.objective.function, task.objective.direction) == (focal, "minimize")
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.1)
    assert replace(task, loss=smoothed).objective.function is smoothed  # also of a changed task
    numbers = {"train": Split(X[:300], X[:300, :1]), "val": Split(X[300:350], X[300:350, :1])}
    numbers |= {"test": None, "classes": None, "model": lambda: nn.Linear(64, 1)}
    task = Task(**GIVEN | numbers, loss=F.l1_loss)
    assert [m.function for m in task.metrics] == [F.l1_loss]
    assert task.objective.function(torch.zeros(2, 1), torch.ones(2, 1)) == 1
    # Metrics that were given come before the loss.
    assert Task(**GIVEN, loss=focal, metrics=(ACCURACY,)).metrics == (ACCURACY,)
    assert Task(**GIVEN).metrics == (CROSS_ENTROPY, ACCURACY)
