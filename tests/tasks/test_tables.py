"""Tables: what a model sees of them, what is noted, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lrtune.tasks.options import TaskOptions
from lrtune.tasks.splits import Data, cut
from lrtune.tasks.tables import sklearn_table, table, table_file
from tests.tasks.conftest import refused


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


def of(frame: pd.DataFrame, target: str = "y", kind: str | None = None) -> Data:
    return table(frame, target, TaskOptions(kind=kind), "t", "t")


def written(path: Path, content: bytes | str, target: str | None = "y") -> Data:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return table_file(path, TaskOptions(target=target))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.csv"


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet", "T.PARQUET"])
def test_a_table_from_a_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with refused(f"{name}: no such file$"):
        table_file(path, TaskOptions(target="y"))
    frame = mixed()
    frame.to_parquet(path) if "arquet" in name.lower() else frame.to_csv(path, index=False)
    data = table_file(path, TaskOptions(target="bought"))
    assert (data.name, data.source) == ("t-csv" if "gz" in name else path.stem, f"table {path}")
    assert (data.kind, data.outputs) == ("classification", 2)
    assert sum(split.samples for split in (data.train, data.val, data.test)) == len(frame)
    assert data.notes[0] == "left out, one value throughout: same"


def test_nothing_is_learnt_from_the_other_splits() -> None:
    frame = mixed()
    first = of(frame, "bought")
    columns = first.train.inputs.shape[1]
    numbers = first.train.inputs[:, :2]  # age, day; standardised on the training rows alone
    torch.testing.assert_close(numbers.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(numbers.std(0, correction=0), torch.ones(2), atol=1e-4, rtol=0)
    assert bool(torch.isfinite(first.test.inputs).all())
    # age, its holes, day; town in four (one for the holes); member in two; the constant is gone.
    assert columns == 3 + 4 + 2
    labels = (frame["bought"] == "yes").to_numpy(np.int64)
    rows, test = cut("t", np.arange(len(frame)), labels, 0)
    train, val = cut("t", rows, labels, 0)
    np.testing.assert_array_equal(first.train.targets, labels[train])
    elsewhere = frame.copy()
    elsewhere.loc[[*val, *test], "age"] = 1e6
    again = of(elsewhere, "bought")
    torch.testing.assert_close(again.train.inputs, first.train.inputs)
    assert again.test.inputs.max() > 1e4


@pytest.mark.parametrize(
    ("values", "kind", "outputs"),
    [
        (["a", "b"], None, 2),
        ([0, 1], None, 2),
        ([True, False], None, 2),
        (list(range(12)), None, 12),
        (list(range(30)), None, 1),
        ([0.5, 1.5, 2.5], None, 1),
        ([1, 2, 3], "regression", 1),
        ([0.5, 1.5], "classification", 2),
        (["1", "2", "3+"], None, 3),
    ],
)
def test_kind_is_told_from_the_target(values: list, kind: str | None, outputs: int) -> None:
    frame = pd.DataFrame({"x": np.arange(300.0), "y": (values * 300)[:300]})
    data = of(frame, kind=kind)
    assert data.outputs == outputs
    assert data.kind == ("classification" if outputs > 1 else "regression")


def test_classes_are_numbered_in_their_order() -> None:
    numbers = np.arange(240) % 12  # as words, 10 and 11 would come before 2
    data = of(pd.DataFrame({"x": numbers * 1.5, "y": numbers}))
    order = data.train.inputs[:, 0].argsort()
    assert bool((data.train.targets[order].diff() >= 0).all())
    assert data.train.targets.unique().tolist() == list(range(12))


def test_the_tables_of_scikit_learn() -> None:
    data = sklearn_table("diabetes", TaskOptions())
    units = {"mse": "variances", "r2": "", "mae": "standard deviations"}
    assert {metric.name: metric.unit for metric in data.metrics} == units
    assert data.train.targets.mean() == pytest.approx(0, abs=1e-5)
    assert data.train.targets.std(correction=0) == pytest.approx(1, abs=1e-4)
    other = sklearn_table("wine", TaskOptions(target="alcohol"))
    assert (other.kind, other.train.inputs.shape[1]) == ("regression", 13)  # with the class


def test_large_numbers_that_differ_little() -> None:
    """Of 2**53 and up, float64 has the even ones: StandardScaler takes them for a constant."""
    numbers = np.arange(200)
    frame = pd.DataFrame({"x": 2**53 + 2 * numbers, "y": numbers % 2, "z": numbers / 7})
    frame["empty"] = np.where(numbers < 1, 1.0, np.nan)
    inputs = of(frame).train.inputs
    torch.testing.assert_close(inputs[:, 0], inputs[:, 1])
    torch.testing.assert_close(inputs[:, 0].std(correction=0), torch.tensor(1.0))
    assert bool(torch.isfinite(inputs).all())
    targets = of(pd.DataFrame({"x": numbers, "y": 2**53 + 2.0 * numbers})).train.targets
    torch.testing.assert_close(targets.std(correction=0), torch.tensor(1.0))


def test_small_tables_are_decayed_more() -> None:
    def decay(rows: int) -> float:
        frame = pd.DataFrame({"x": np.arange(float(rows)), "y": np.arange(rows) / 7})
        return of(frame).defaults["settings"]["weight_decay"]

    assert decay(500) > decay(1000)


def test_what_is_left_out_or_filled_is_noted() -> None:
    rows = 200
    frame = pd.DataFrame(
        {
            "Unnamed: 0": np.arange(rows)[::-1],
            "id": [f"customer {i}" for i in range(rows)],
            "same": "x",
            "none": np.nan,
            "parts": [[1, 2]] * rows,
            "x": np.arange(rows) % 17 / 3,
            "word": [f"w{i % 90}" for i in range(rows)],
            "y": np.arange(rows) % 2,
        }
    )
    for i in range(7):
        frame[f"z{i}"] = np.where(np.arange(rows) < i + 1, np.nan, frame["x"])
    frame.loc[:3, "word"] = None
    data = of(frame)
    assert data.notes[:4] == (
        "left out, row numbers: Unnamed: 0",
        "left out, another text in nearly every row: id",
        "left out, one value throughout: same, none",
        "left out, lists, records or bytes: parts",
    )
    filled = [f"z{i}: {i + 1} missing, median + indicator" for i in range(5)]
    assert data.notes[4:10] == (*filled, "3 more columns with missing values")
    assert data.notes[10].startswith("over 64 categories, the rarest are one: word (")
    assert len(data.notes) == 11
    assert of(pd.DataFrame({"x": np.arange(50) % 7 / 2, "y": np.arange(50) % 2})).notes == ()


def test_times_and_decimals_are_numbers(tmp_path: Path) -> None:
    days = pd.date_range("2026-01-01", periods=100)
    stamps = days.to_series().mask(np.arange(100) % 10 == 0).to_numpy()
    table_ = pa.table(
        {
            "stamp": pa.array(stamps),
            "date": pa.array([day.date() for day in days]),
            "span": pa.array((days - days[0]).to_pytimedelta().tolist()),
            "price": pa.array([f"{i}.50" for i in range(100)]).cast(pa.decimal128(8, 2)),
            "y": pa.array(np.arange(100) / 7),
        }
    )
    pq.write_table(table_, tmp_path / "t.parquet")
    data = table_file(tmp_path / "t.parquet", TaskOptions(target="y"))
    assert data.notes == ("stamp: 10 missing, median + indicator",)
    inputs, targets = data.train
    torch.testing.assert_close(inputs[:, 1], targets)  # date, span and price: y's own line
    torch.testing.assert_close(inputs[:, 2], targets)
    torch.testing.assert_close(inputs[:, 3], targets)
    there = inputs[:, 4] < 0  # the indicator of a missing stamp
    assert np.corrcoef(inputs[there, 0], targets[there])[0, 1] == pytest.approx(1)
    assert inputs[:, 0].abs().max() < 3  # a missing one is no day in 1677


def test_an_index_of_a_parquet_file_is_noted(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": np.arange(50) % 7, "y": np.arange(50) % 2})
    frame.set_index(pd.Index(range(5, 55), name="id")).to_parquet(tmp_path / "t.parquet")
    data = table_file(tmp_path / "t.parquet", TaskOptions(target="y"))
    assert data.notes == ("left out, the index: id",)


def test_a_line_that_ends_in_a_comma_shifts_nothing(path: Path) -> None:
    lines = "".join(f"{i % 7},{i % 2},\n" for i in range(50))
    data = written(path, "\ufeffx,y\n" + lines)
    assert (data.kind, data.outputs, data.notes) == ("classification", 2, ())


CELLS = "".join(f"{i % 7},{i % 2}\n" for i in range(50))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty: expected a line of column names, and rows"),
        ("x,y\n", "0 rows: expected 10 or more: add some"),
        (b"\x89PNG\r\n\x1a\n\0\0", "a PNG image, no text"),
        (b"x,y\ncaf\xe9,1\n", "not UTF-8: byte 0xe9: convert it .iconv -f latin1 -t utf-8"),
        (b'x,y\n"1', "cannot be read as a table: Error tokenizing.*: expected CSV"),
        ('x,"a, b",y,"a, b"\n1,2,3,4\n', "two columns are called 'a, b'"),
        ("x,y\n1,2,3\n", "rows of more fields than the first line has names .2.: name every"),
        ("x;y\n1;2\n", "no column 'y', only 'x;y': separate columns by commas"),
        ("x,y\n" + CELLS + "n/a?,1\n", "column x: 'n/a[?]' in row 51, among numbers: mend it"),
        ("x,y\n" + CELLS + ",1\n-inf,1\n", "column x: -inf in row 52: expected a finite number"),
        ("x,y\n" + CELLS + "1e300,1\n", "column x: 1e[+]300 in row 51: expected a finite"),
        ("y\n" + "a\nb\n" * 10, "a target alone: nothing to learn"),
        ("x,y\n" + "1,a\n1,b\n" * 10, "left out, one value throughout: x: nothing to learn"),
    ],
)
def test_files_with_a_mistake(path: Path, content: bytes | str, message: str) -> None:
    with refused(message) as error:
        written(path, content)
    assert str(path) in str(error.value)


def test_words_that_are_numbers_in_part() -> None:
    frame = pd.DataFrame({"x": ["12", "14b", "c", "7"] * 25, "y": np.arange(100) % 2})
    assert of(frame).train.inputs.shape[1] == 4  # words


def test_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    mixed(2000).to_csv(path, index=False)
    path.write_bytes(path.read_bytes()[:-2000])
    with refused("cannot be read as a table"):
        table_file(path, TaskOptions(target="bought"))
    path = tmp_path / "t.parquet"
    path.write_bytes(b"x,y\n1,2\n")
    with refused(r"cannot be read as a table: .*: expected Parquet"):
        table_file(path, TaskOptions(target="y"))
    pq.write_table(pa.table([pa.array([1, 2])] * 2, names=["x", "x"]), path)
    with refused("two columns are called 'x': rename one"):
        table_file(path, TaskOptions(target="x"))


@pytest.mark.parametrize(
    ("target", "values", "kind", "message"),
    [
        ("boght", None, None, "no column 'boght'; did you mean 'bought'"),
        ("town", None, None, "town is missing in 23 rows: fill or drop them"),
        ("same", None, None, "same has a single class .1.: give another"),
        ("bought", None, "regression", "bought holds no numbers .'.*' in row 1"),
        ("bought", ["a"] * 199 + ["b"], None, "class 'b' has 1 sample: too few"),
        ("bought", [f"{i}th" for i in range(200)], None, "another class in each of 200 rows: give"),
        ("bought", np.arange(200), "classification", ".*, or --kind regression for a number"),
        ("bought", [*np.arange(199.0), "n/a?"], None, "'n/a[?]' in row 200, among numbers: mend"),
        ("bought", [1e400] + [0.5] * 199, None, "inf in row 1: expected a finite number: mend it"),
        ("bought", [0.1] * 200, None, "bought is 0.1 in every row of training: give another"),
        ("bought", [[1, 2]] * 200, None, "bought holds lists, records or bytes: give another"),
    ],
)
def test_targets_with_a_mistake(target: str, values: Any, kind: str | None, message: str) -> None:
    frame = mixed()
    if values is not None:
        frame = frame.assign(bought=pd.Series(values, dtype=object)).infer_objects()
    with refused(message):
        of(frame, target, kind)


def test_no_target(path: Path) -> None:
    with refused("give --target, one of x, y"):
        written(path, "x,y\n1,2\n", target=None)
