"""Tables: what a model sees of them, what is noted, and what is refused."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lrtune import InputError
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


def of(frame: pd.DataFrame, target: str | None = "y", **options: Any) -> Data:
    return table(frame, target, TaskOptions(**options), "t", "t")


def written(path: Path, content: bytes | str, target: str | None = "y", **options: Any) -> Data:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return table_file(path, TaskOptions(target=target, **options))


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
    numbers = first.train.inputs[:, :4]  # age, day; standardised on the training rows alone
    torch.testing.assert_close(numbers.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(numbers.std(0, correction=0), torch.ones(4), atol=1e-4, rtol=0)
    assert bool(torch.isfinite(first.test.inputs).all())
    # age, its holes, month, weekday and days of day; town in four (one for the holes); member in
    # two; the constant is gone.
    assert columns == 5 + 4 + 2
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
            "customerId": np.arange(rows) * 7 + 11,
            "id": [f"customer {i}" for i in range(rows)],
            "review": [f"it is a good {i % 150} or not" for i in range(rows)],
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
    assert data.notes[:6] == (
        "left out, row numbers: Unnamed: 0",
        "left out, another number in every row: customerId",
        "left out, another text in nearly every row: id",
        "left out, texts (--text NAME trains on one): review",
        "left out, one value throughout: same, none",
        "left out, lists, records or bytes: parts",
    )
    filled = [f"z{i}: {i + 1} missing, median + indicator" for i in range(5)]
    assert data.notes[6:12] == (*filled, "3 more columns with missing values")
    assert data.notes[12].startswith("over 64 categories, the rarest are one: word (")
    assert len(data.notes) == 13
    assert of(pd.DataFrame({"x": np.arange(50) % 7 / 2, "y": np.arange(50) % 2})).notes == ()


DAY = pd.date_range("2023-12-30", periods=100, freq="5D")


@pytest.mark.parametrize(
    "dates",
    [
        DAY,
        DAY.strftime("%Y%m%d").astype(int),
        DAY.strftime("%m/%d/%Y 10:30:00 PM"),
        (DAY + pd.Timedelta(hours=7)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        *(
            DAY.strftime(f)
            for f in ["%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%d.%m.%y", "%m/%d/%Y", "%d-%b-%Y"]
        ),
        DAY.strftime("%d/%m/%Y"),
        DAY.strftime("%Y-%m"),
    ],
)
def test_dates_become_numbers(dates: Any) -> None:
    frame = pd.DataFrame({"x": np.arange(100) % 7, "day": dates, "y": DAY.month})
    data = of(frame, kind="regression")
    assert data.notes == ("dates: day (year, month, weekday, days)",)
    assert data.train.inputs.shape[1] == 5
    torch.testing.assert_close(data.train.inputs[:, 2], data.train.targets)  # both standardised


@pytest.mark.parametrize(
    ("first", "one", "other"),
    [("03.04.2025", "%d.%m.%Y", "%m.%d.%Y"), ("03/04/2025", "%m/%d/%Y", "%d/%m/%Y")],
)
def test_dates_that_can_be_read_in_two_ways(first: str, one: str, other: str) -> None:
    days = [first] * 5 + [first.replace("03", f"{day:02}") for day in range(1, 13)] * 4
    frame = pd.DataFrame({"day": days, "y": np.arange(len(days)) % 2})
    (note,) = of(frame).notes
    assert note.endswith(f"days, read as {one}; {other} fits too)")
    frame.loc[40, "day"] = first.replace("03", "25") if "." in first else first.replace("04", "25")
    assert "fits" not in of(frame).notes[0]


def test_times_and_decimals_are_numbers(tmp_path: Path) -> None:
    days = pd.date_range("2026-01-01", periods=100)
    stamps = (days + pd.to_timedelta(np.arange(100) % 24, "h")).to_series()
    table_ = pa.table(
        {
            "stamp": pa.array(stamps.mask(np.arange(100) % 10 == 0).to_numpy()),
            "span": pa.array((days - days[0]).to_pytimedelta().tolist()),
            "price": pa.array([f"{i}.50" for i in range(100)]).cast(pa.decimal128(8, 2)),
            "y": pa.array(np.arange(100) / 7),
        }
    )
    pq.write_table(table_, tmp_path / "t.parquet")
    data = table_file(tmp_path / "t.parquet", TaskOptions(target="y"))
    assert data.notes == (
        "dates: stamp (month, weekday, hour, days)",
        "days of stamp: 10 missing, median + indicator",
    )
    inputs, targets = data.train
    torch.testing.assert_close(inputs[:, 4], targets)  # span and price: y's own line
    torch.testing.assert_close(inputs[:, 5], targets)
    there = inputs[:, 6] < 0  # the indicator of a missing stamp
    assert np.corrcoef(inputs[there, 3], targets[there])[0, 1] == pytest.approx(1, abs=1e-3)
    assert inputs[:, :4].abs().max() < 3  # a missing one is no day in 1677


@pytest.mark.parametrize(
    "values",
    [
        ["10-12 years", "2-3 weeks", "3"],
        ["1.2.3", "10.0.0.1", "2.0"],
        ["May", "June", "August"],
        ["12", "14b", "2012"],
        ["A-12-31", "B-12-30", "C 1"],
        ["44-1234", "44-9876", "45-1111"],
        ["08:15 train", "9/10", "7/10"],
        ["2 Main St 1234", "14 Elm 99"],
        ["12", "14b", "c", "7"],  # numbers in part
    ],
)
def test_words_with_numbers_are_no_dates(values: list[str]) -> None:
    frame = pd.DataFrame({"x": (values * 50)[:100], "y": np.arange(100) % 2})
    data = of(frame)
    assert not any("dates" in note for note in data.notes)
    assert data.train.inputs.shape[1] == len(values)


def test_what_a_spreadsheet_writes_in_much_of_europe(path: Path) -> None:
    frame = mixed().drop(columns="same").assign(town="Köln")
    frame["town"] = np.where(frame["member"], "Köln", "Rom, Ost")
    plain = of(frame, "bought")
    frame["age"] = frame["age"].astype("float32").astype("float64") * 1000
    for separator, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        options = {"sep": separator, "decimal": ",", "encoding": "cp1252", "index": False}
        frame.to_csv(path, **options, date_format="%d.%m.%Y")
        data = written(path, path.read_bytes(), "bought")
        assert data.notes[:3] == (
            f"columns are separated by {name}",
            "not UTF-8 (byte 0xf6): read as Windows-1252, which Latin-1 is part of",
            "decimal commas: age",
        )
        torch.testing.assert_close(data.train.inputs, plain.train.inputs)
    path.write_text("n;x;y\n" + "".join(f"{i / 8:.3f};1.{i:03},5;{i % 2}\n" for i in range(100)))
    inputs = table_file(path, TaskOptions(target="y")).train.inputs  # n has a decimal point
    torch.testing.assert_close(inputs[:, 0], inputs[:, 1])


def test_rows_without_a_target_are_left_out_and_unbalanced_classes_said() -> None:
    frame = mixed(1000)
    frame["bought"] = np.where(np.arange(1000) % 40, "no", "yes")
    whole = of(frame, "bought")
    assert [note for note in whole.notes if "unbalanced" in note] == [
        "unbalanced classes: yes has 0.025 of the rows: --class-weights balanced gives rare "
        "classes more weight in the loss"
    ]
    assert not any("unbal" in note for note in of(frame, "bought", class_weights="balanced").notes)
    frame.loc[3::8, "bought"] = None
    data = of(frame, "bought")
    assert data.notes[0] == "125 of 1,000 rows without bought left out"
    assert sum(split.samples for split in (data.train, data.val, data.test)) == 875


def reviews(rows: int = 200) -> pd.DataFrame:
    frame = pd.DataFrame({"id": np.arange(rows), "stars": np.arange(rows) % 5 / 2})
    frame["review"] = [f"{'good' if i % 2 else 'bad'} kettle number {i}" for i in range(rows)]
    frame["happy"] = np.where(np.arange(rows) % 2, "yes", "no")
    return frame


@pytest.mark.parametrize("tokens", ["char", "byte"])
def test_texts_with_a_label_are_padded_tokens(tokens: str) -> None:
    frame = reviews()
    frame.loc[:2, "review"] = [None, "  ", "zzz"]
    data = of(frame, "happy", text="review", tokens=tokens, context=9)
    assert data.notes[0] == "2 of 200 rows without review left out"
    assert data.notes[-1].startswith("197 of 198 texts are longer than 9 ")
    assert (data.kind, data.outputs, data.defaults["model"]) == ("classification", 2, "transformer")
    inputs, targets = data.train
    assert inputs.shape == (len(targets), 9)
    tokenizer = data.tokenizer
    assert int(inputs.max()) <= tokenizer.padding < tokenizer.vocabulary
    starts = {tuple(tokenizer.encode(text)): label for text, label in (("good", 1), ("bad ", 0))}
    rows = [row for row in range(len(targets)) if inputs[row, -1] != tokenizer.padding]
    assert len(rows) > 100
    assert all(starts[tuple(inputs[row, :4].tolist())] == targets[row] for row in rows)
    assert of(frame, "happy", text="review", tokens=tokens).train.inputs.shape[1] == 22
    assert of(frame, "stars", text="review").kind == "regression"


def test_texts_without_a_target_are_a_language_model() -> None:
    data = of(reviews(), None, text="review", context=20)
    assert (data.kind, data.source) == ("text", "t: review, characters")
    texts = set(reviews()["review"])
    letters = sorted(set("".join(texts)) | {"\n"})
    for split in (data.train, data.val, data.test):
        lines = "".join(letters[token] for token in split.inputs.flatten()).split("\n")[:-1]
        assert len(lines) >= 30 and set(lines) <= texts
        texts -= set(lines)


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
        (b'x,y\n"1', "cannot be read as a table: Error tokenizing.*: expected CSV"),
        ('x,"a, b",y,"a, b"\n1,2,3,4\n', "two columns are called 'a, b'"),
        ("x,y\n1,2,3\n", "rows of more fields than the first line has names .2.: name every"),
        ("x:y\n1:2\n", "no column 'y', only 'x:y': separate columns by commas"),
        ("x,y\n" + "1,\n" * 20 + "2,1\n", "1 row .20 of 21 rows without y left out.: expected"),
        ("x,y\n" + "2025-01-31,1\n2025-02-01,0\n" * 20 + "2025-02-31,1\n", "-31' in row 41, amo"),
        ("x,y\n" + CELLS + f"{'9' * 5000},1\n", "column x: .* in row 51"),
        ("x,y\n" + CELLS + "3\0,1\n", "NUL"),
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
    whole = pa.Table.from_pandas(mixed())
    damaged = whole.schema.metadata[b"pandas"].replace(b"numpy_type", b"numpy_tupe")
    pq.write_table(whole.replace_schema_metadata({b"pandas": damaged}), path)
    with refused(r"cannot be read as a table: 'numpy_type': expected Parquet"):
        table_file(path, TaskOptions(target="bought"))
    pq.write_table(pa.table([pa.array([1, 2])] * 2, names=["x", "x"]), path)
    with refused("two columns are called 'x': rename one"):
        table_file(path, TaskOptions(target="x"))


@pytest.mark.parametrize(
    ("target", "values", "kind", "message"),
    [
        ("boght", None, None, "no column 'boght'; did you mean 'bought'"),
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
        of(frame, target, kind=kind)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (None, {}, "give --target, the column to predict: id, stars, review, happy"),
        (None, {"text": "review", "kind": "regression"}, "kind='regression': of a target: name"),
        ("happy", {"text": "revue"}, "no column 'revue'; did you mean 'review'"),
        ("happy", {"text": "happy"}, "text and target are both 'happy': predict another column"),
        ("happy", {"text": "id"}, "id holds numbers, not texts: give another --text"),
        ("happy", {"text": "none"}, "0 rows .200 of 200 rows without none left out.: expected 10"),
        ("one", {"text": "review"}, "one has a single class"),
        ("happy", {"tokens": "byte"}, "tokens='byte': of texts: name their column: --text NAME"),
    ],
)
def test_texts_with_a_mistake(target: str | None, options: dict, message: str) -> None:
    with refused(message):
        of(reviews().assign(none=" ", one="x"), target, **options)


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    for name in ("folder.csv", "pipe.csv"):
        with refused("no regular file"):
            table_file(tmp_path / name, TaskOptions(target="y"))


NUMBERS = ["1", "-2.5", "3,5", "1e999", "nan", "inf", "9" * 400, "0x1f", "1_000", "1.234,5"]
WORDS = ["", " ", "2025-01-31", "31/12/2025", "12.05.", "a word", '"', "\0", "é", "true", "\r"]
CELL = st.sampled_from([*NUMBERS, *WORDS])


@settings(max_examples=150)
@given(
    rows=st.lists(st.lists(CELL, min_size=1, max_size=4), max_size=14),
    separator=st.sampled_from([",", ";", "\t"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "cp1252", "utf-16"]),
    copies=st.integers(1, 8),
    text=st.sampled_from([None, "b"]),
)
@example(rows=[["9" * 400]], separator=";", encoding="utf-8", copies=1, text=None)
def test_any_file_is_read_or_refused_in_one_line(
    tmp_path_factory, rows, separator, encoding, copies, text
):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    lines = [["a", "b", "y"], *rows * copies]
    content = "\n".join(separator.join(line) for line in lines).encode(encoding)
    try:
        data = written(path, content, text=text)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert all(torch.isfinite(split.inputs).all() for split in (data.train, data.val))
