"""Tables: CSV and Parquet files, and the small ones of scikit-learn, as the numbers of a model."""

import gzip
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from lrtune.errors import InputError, nearest
from lrtune.tasks.metrics import METRICS
from lrtune.tasks.options import TaskOptions
from lrtune.tasks.splits import Data, Rows, Split, cut
from lrtune.tasks.text import refuse_binaries, slug

if TYPE_CHECKING:
    import pandas as pd

    Column: TypeAlias = "pd.Series[Any]"

MOST_CLASSES = 20  # whole numbers with more distinct values than this are quantities, not classes
FEWEST_ROWS = 10
# Of training: below, the weights decay more. Measured: an MLP at the usual 0.01 falls 0.1 of R2
# behind ridge regression on diabetes (282 rows), at 3 it does not; from 640 rows, 1 beats 3.
FEW_ROWS = 500
UNITS = {"mse": "variances", "mae": "standard deviations"}  # of the training targets

MOST_CATEGORIES = 64  # of one column; the rarest share one
NUMBERS_SHARE = 0.9  # words of which so many are numbers: numbers with a mistake among them
NAMES_SHARE = 0.9  # words that differ in more rows than this name the rows
MOST_NAMED = 5  # columns in a note
LARGEST = float(np.finfo(np.float32).max)
MEND = "mend it, or empty it for missing"
NESTED = (list, tuple, set, dict, bytes, np.ndarray)


def table_file(path: Path, options: TaskOptions) -> Data:
    """A ``.csv``, ``.csv.gz`` or ``.parquet`` file; what is predicted is told from the target.

    Raises:
        InputError: a file that cannot be read, no such column, a column that holds mistakes, a
            target that cannot be learnt.
    """
    is_parquet = path.suffix.lower() == ".parquet"
    try:
        frame, notes = read_parquet(path) if is_parquet else (read_csv(path), [])
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        byte = f"0x{error.object[error.start]:02x}"
        raise InputError(
            f"{path}: not UTF-8: byte {byte}: convert it (iconv -f latin1 -t utf-8, perhaps)"
        ) from error
    # The parse errors of pandas and pyarrow are ValueErrors; a cut gzip file ends in the others.
    except (OSError, EOFError, zlib.error, ValueError, NotImplementedError) as error:
        raise InputError(
            f"{path}: cannot be read as a table: {' '.join(str(error).split())[:200].rstrip('.:')}"
            f": expected {'Parquet' if is_parquet else 'CSV'}"
        ) from error
    if options.target is None:
        raise InputError(f"{path}: give --target, one of {', '.join(map(str, frame.columns))}")
    return table(frame, options.target, options, slug(path.stem), f"table {path}", notes)


def sklearn_table(name: str, options: TaskOptions) -> Data:
    """A table that scikit-learn carries."""
    import sklearn.datasets

    frame = getattr(sklearn.datasets, f"load_{name}")(as_frame=True).frame
    target = "target" if options.target is None else options.target
    return table(frame, target, options, name, f"scikit-learn load_{name}")


def table(
    frame: "pd.DataFrame",
    target: str,
    options: TaskOptions,
    name: str,
    source: str,
    notes: Sequence[str] = (),
) -> Data:
    """A data frame as splits: see ``_encode``; a target that is a number is standardised too."""
    frame = frame.set_axis(list(map(str, frame.columns)), axis=1)
    _check(frame, target, source)
    targets, classes = _targets(frame[target], options.kind, source)
    labels = targets if classes else None
    rows, test = cut(source, np.arange(len(frame)), labels, options.seed, classes)
    train, val = cut(source, rows, labels, options.seed, classes)
    inputs, more = _encode(frame.drop(columns=target), train, source)
    if not classes:
        targets = _standardised(targets, train, f"{source}: {target}")
    kind: Literal["classification", "regression"] = "classification" if classes else "regression"

    def split(rows: Rows) -> Split:
        return Split(torch.from_numpy(inputs[rows]), torch.from_numpy(targets[rows]))

    return Data(
        *(split(train), split(val), split(test)),
        name=name,
        source=source,
        kind=kind,
        outputs=max(1, len(classes)),
        defaults={
            "model": "mlp",
            "optimizer": "adamw",
            "settings": {"weight_decay": 3.0 if len(train) < FEW_ROWS else 1.0},
            "batch_size": 32,
            "epochs": 30.0,
        },
        notes=(*notes, *more),
        metrics=tuple(
            replace(each, unit=UNITS.get(each.name, each.unit)) for each in METRICS[kind]
        ),
    )


def read_csv(path: Path) -> "pd.DataFrame":
    """A CSV file, its first line the names of the columns.

    Raises:
        InputError: a file of another format, an empty one, names that are missing or twice there.
    """
    import pandas as pd

    opened: Any = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rb") as file, warnings.catch_warnings():
        head = file.read(4096)
        refuse_binaries(path, head)
        if not head.strip():
            raise InputError(f"{path}: empty: expected a line of column names, and rows")
        file.seek(0)
        # As pandas would name a second "x" x.1, the names are read by themselves.
        header = pd.read_csv(file, header=None, nrows=1, dtype=str, keep_default_na=False)
        _refuse_twins(path, [name for name in header.iloc[0] if name])
        file.seek(0)
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(file, index_col=False, low_memory=False)
        except pd.errors.ParserWarning as error:
            raise InputError(
                f"{path}: rows of more fields than the first line has names ({header.shape[1]}): "
                "name every column"
            ) from error


def read_parquet(path: Path) -> tuple["pd.DataFrame", list[str]]:
    """A Parquet file without its index, and a note where it has one that is named."""
    import pandas as pd
    from pyarrow.parquet import read_schema  # type: ignore[import-untyped]

    _refuse_twins(path, read_schema(path).names)
    frame = pd.read_parquet(path)
    index = [str(name) for name in frame.index.names if name is not None]
    notes = [f"left out, the index: {', '.join(index)}"] if index else []
    return frame.reset_index(drop=True), notes


def _refuse_twins(path: Path, names: list[str]) -> None:
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise InputError(f"{path}: two columns are called {twice!r}: rename one")


def _check(frame: "pd.DataFrame", target: str, source: str) -> None:
    if target not in frame.columns:
        hint = nearest(target, frame.columns)
        if frame.shape[1] == 1 and not hint:
            hint = f", only {frame.columns[0]!r}: separate columns by commas"
        raise InputError(f"{source}: no column {target!r}{hint}")
    if len(frame) < FEWEST_ROWS:
        raise InputError(f"{source}: {len(frame)} rows: expected {FEWEST_ROWS} or more: add some")
    missing = int(frame[target].isna().sum())
    if missing:
        raise InputError(f"{source}: {target} is missing in {missing} rows: fill or drop them")
    if isinstance(frame[target].iloc[0], NESTED):
        raise InputError(f"{source}: {target} holds lists, records or bytes: give another --target")


def _targets(target: "Column", kind: str | None, source: str) -> tuple[NDArray[Any], list[str]]:
    """Numbers and no classes, or class numbers in their order and the names of the classes."""
    import pandas as pd
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    values = None
    few = kind is None and target.nunique() <= MOST_CLASSES
    numeric = is_numeric_dtype(target) and not is_bool_dtype(target)
    if kind != "classification" and not (few and (not numeric or bool((target % 1 == 0).all()))):
        values = _as_numbers(target, source, "mend it, or drop the row")
    if values is not None:
        return values.to_numpy(np.float64), []
    where = f"{source}: {target.name}"
    if kind == "regression":
        first = f"{target.iloc[0]!r} in row 1"
        raise InputError(f"{where} holds no numbers ({first}): give --kind classification")
    numbers, classes = pd.factorize(target, sort=True)
    if len(classes) < 2:
        raise InputError(f"{where} has a single class ({classes[0]}): give another --target")
    if len(classes) == len(target):
        way_out = "give another --target, or --kind regression for a number"
        raise InputError(f"{where} is another class in each of {len(target)} rows: {way_out}")
    return numbers.astype(np.int64), list(map(str, classes))


def _standardised(numbers: NDArray[np.float64], train: Rows, name: str) -> NDArray[np.float32]:
    first = numbers[train[0]]
    centred = numbers - first  # exact where all are nearly the same
    mean, scale = centred[train].mean(), centred[train].std()
    if scale == 0:
        raise InputError(f"{name} is {first:g} in every row of training: give another --target")
    standard: NDArray[np.float32] = ((centred - mean) / scale).astype(np.float32)
    return standard


def _encode(
    features: "pd.DataFrame", train: Rows, source: str
) -> tuple[NDArray[np.float32], list[str]]:
    """Numbers imputed and standardised, words one-hot, by the training rows alone; and notes."""
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers, words, notes = _sort(features, source)
    if not numbers and not words:
        raise InputError(f"{source}: {'; '.join(notes) or 'a target alone'}: nothing to learn")
    impute = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    one_hot = OneHotEncoder(
        handle_unknown="infrequent_if_exist", max_categories=MOST_CATEGORIES, sparse_output=False
    )
    encoder = ColumnTransformer(
        [
            ("numbers", make_pipeline(impute, StandardScaler()), list(numbers)),
            ("words", one_hot, list(words)),
        ]
    )
    # Centred before: StandardScaler takes large numbers that differ little for a constant.
    centred = {name: column - _centre(column.iloc[train]) for name, column in numbers.items()}
    plain = pd.DataFrame(centred | words)
    encoder.fit(plain.iloc[train])
    how = dict.fromkeys(numbers, "median + indicator") | dict.fromkeys(words, "a category")
    missing = {name: int(features[name].isna().sum()) for name in how}
    filled = [f"{name}: {n} missing, {how[name]}" for name, n in missing.items() if n]
    notes += filled[:MOST_NAMED]
    if len(filled) > MOST_NAMED:
        notes.append(f"{len(filled) - MOST_NAMED} more columns with missing values")
    categories = {name: column.iloc[train].nunique() for name, column in words.items()}
    crowded = [f"{name} ({n})" for name, n in categories.items() if n > MOST_CATEGORIES]
    if crowded:
        notes.append(f"over {MOST_CATEGORIES} categories, the rarest are one: {_some(crowded)}")
    return np.asarray(encoder.transform(plain), dtype=np.float32), notes


def _sort(
    features: "pd.DataFrame", source: str
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Columns of numbers, columns of words, and notes on those left out."""
    numbers: dict[str, Any] = {}
    words: dict[str, Any] = {}
    left_out: dict[str, list[str]] = {}
    for name in map(str, features.columns):
        column = features[name]
        filled = column.dropna()
        if len(filled) and isinstance(filled.iloc[0], NESTED):
            left_out.setdefault("lists, records or bytes", []).append(name)
        elif column.nunique(dropna=False) < 2:
            left_out.setdefault("one value throughout", []).append(name)
        elif name.startswith("Unnamed: ") and column.dtype.kind == "i" and column.is_unique:
            left_out.setdefault("row numbers", []).append(name)  # an index, written with the table
        elif (values := _as_numbers(column, source, MEND)) is not None:
            numbers[name] = values
        elif filled.nunique() > NAMES_SHARE * len(filled):
            left_out.setdefault("another text in nearly every row", []).append(name)
        else:
            words[name] = column.astype("object").where(column.notna(), "").astype(str)
    return numbers, words, [f"left out, {why}: {_some(names)}" for why, names in left_out.items()]


def _as_numbers(column: "Column", source: str, way_out: str) -> "Column | None":
    """Numbers and times as float64, NaN where missing; None where the column holds words."""
    import pandas as pd
    from pandas.api.types import infer_dtype, is_bool_dtype, is_numeric_dtype

    held = infer_dtype(column) if column.dtype == object else ""
    if held == "date":
        column = pd.to_datetime(column)
    if column.dtype.kind in "mM":
        return column.astype("int64").astype("float64").where(column.notna())
    where = f"{source}: column {column.name}"
    if held != "decimal" and (is_bool_dtype(column) or not is_numeric_dtype(column)):
        # One mistyped number would make a category of each.
        texts = column.dropna().astype(str)
        wrong = pd.to_numeric(texts, errors="coerce").isna()
        # "12,5" and "1,234" are numbers to whoever wrote them.
        meant = pd.to_numeric(texts.str.replace(",", "", regex=False), errors="coerce").notna()
        if wrong.any() and meant.mean() >= NUMBERS_SHARE:
            row = int(np.flatnonzero(column.notna())[wrong.argmax()])
            raise InputError(
                f"{where}: {column.iloc[row]!r} in row {row + 1}, among numbers: {way_out}"
            )
        return None
    values = column.astype("float64")
    too_large = np.flatnonzero(values.abs() > LARGEST)
    if len(too_large):
        row = int(too_large[0])
        raise InputError(
            f"{where}: {values.iloc[row]:g} in row {row + 1}: expected a finite number: {way_out}"
        )
    return values


def _centre(column: "Column") -> float:
    """The median, as of what is missing; 0 where all is."""
    return float(column.median()) if column.notna().any() else 0.0


def _some(names: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
