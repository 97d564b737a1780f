from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes

from lrtune import InputError, load_task
from lrtune.tasks.tables import _three_parts, table


def mixed(rows: int = 200) -> pd.DataFrame:
    """Numbers, words, dates, truth values, a constant; holes in two of them."""
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": draw.normal(40, 10, rows),
            "town": draw.choice(["Bern", "Oslo", "Rom"], rows),
            "day": pd.Timestamp("2026-01-01") + pd.to_timedelta(draw.integers(0, 365, rows), "D"),
            "member": draw.random(rows) < 0.5,
            "same": 1,
            "bought": draw.choice(["no", "yes"], rows),
        }
    )
    frame.loc[::7, "age"] = np.nan
    frame.loc[::9, "town"] = None
    return frame


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet"])
def test_a_table_from_a_file_trains(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    frame = mixed()
    frame.to_parquet(path) if name.endswith("parquet") else frame.to_csv(path, index=False)
    task = load_task(str(path), target="bought")
    assert task.classes == 2
    assert task.check_model() > 0
    assert sum(len(s.targets) for s in (task.train, task.val, task.test)) == len(frame)


def test_nothing_is_learnt_from_the_other_splits() -> None:
    frame = mixed()
    first = table(frame, "bought", None, 0, "t", "t")
    columns = first.train.inputs.shape[1]
    numbers = first.train.inputs[:, :2]  # age, day; standardised on the training rows alone
    torch.testing.assert_close(numbers.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(numbers.std(0, correction=0), torch.ones(2), atol=1e-4, rtol=0)
    assert bool(torch.isfinite(first.test.inputs).all())
    # age, its holes, day; town in four (one for the holes); member in two; the constant is gone.
    assert columns == 3 + 4 + 2
    targets = (frame["bought"] == "yes").to_numpy(np.int64)
    _, val, test = _three_parts(targets, "classification", 0, "t")
    elsewhere = frame.copy()
    elsewhere.loc[[*val, *test], "age"] = 1e6
    again = table(elsewhere, "bought", None, 0, "t", "t")
    torch.testing.assert_close(again.train.inputs, first.train.inputs)
    assert again.test.inputs.max() > 1e4


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        (["a", "b"], None, 2),
        ([0, 1], None, 2),
        ([True, False], None, 2),
        (list(range(30)), None, None),
        ([0.5, 1.5, 2.5], None, None),
        ([1, 2, 3], "regression", None),
        ([0.5, 1.5], "classification", 2),
    ],
)
def test_kind_is_told_from_the_target(values: list, kind: str | None, classes: int | None) -> None:
    frame = pd.DataFrame({"x": np.arange(300.0), "y": (values * 300)[:300]})
    data = table(frame, "y", kind, 0, "t", "t")
    assert (None if data.classes is None else len(data.classes)) == classes


def test_regression_targets_are_standardised_on_the_training_rows() -> None:
    task = load_task("diabetes")
    assert task.objective.name == "mse"
    assert [metric.name for metric in task.metrics] == ["mse", "mae", "r2"]
    assert task.train.targets.mean() == pytest.approx(0, abs=1e-5)
    assert task.train.targets.std(correction=0) == pytest.approx(1, abs=1e-4)
    assert len(task.train.targets) + len(task.val.targets) + len(task.test.targets) == len(
        load_diabetes().target
    )


def test_the_tables_of_scikit_learn_keep_their_classes_in_proportion() -> None:
    share = load_breast_cancer().target.mean()
    task = load_task("breast_cancer")
    for split in (task.train, task.val, task.test):
        assert split.targets.double().mean() == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, {}, "give --target, one of age, town"),
        ({}, {"target": "boght"}, "no column 'boght'; did you mean 'bought'"),
        ({}, {"target": "town"}, "town is missing in 23 rows"),
        ({}, {"target": "same"}, "single class"),
        ({}, {"target": "bought", "kind": "regression"}, "holds no numbers"),
        ({}, {"target": "bought", "kind": "ranking"}, "classification or regression"),
        ({}, {"target": "bought", "metric": "r2"}, "metric 'r2': classification has"),
        ({}, {"target": "bought", "model": "cnn"}, "takes images"),
        ({"bought": ["a"] * 199 + ["b"]}, {"target": "bought"}, "cannot be split"),
        ({"bought": [1e400] + [0.5] * 199}, {"target": "bought"}, "infinity"),
        ({"bought": [0.5] * 200}, {"target": "bought"}, "0.5 in every row"),
    ],
)
def test_tables_with_a_mistake(tmp_path: Path, change: dict, arguments: dict, message: str) -> None:
    path = tmp_path / "t.parquet"
    mixed().assign(**change).to_parquet(path)
    with pytest.raises(InputError, match=message):
        load_task(str(path), **arguments)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'a,b\n"1'])
def test_files_that_are_no_tables(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as a table"):
        load_task(str(path), target="b")


def test_a_target_for_what_is_no_table() -> None:
    with pytest.raises(InputError, match="is not a table"):
        load_task("digits", target="x")
