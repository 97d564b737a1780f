"""Tables: CSV and Parquet files, and the small ones of scikit-learn, as the numbers of a model."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from lrtune.errors import InputError, nearest, one_line
from lrtune.format import plural
from lrtune.tasks.metrics import METRICS
from lrtune.tasks.options import TaskOptions
from lrtune.tasks.splits import Data, Rows, Split, cut
from lrtune.tasks.table_reader import MOST_NAMED, read_table, some
from lrtune.tasks.text import DEFAULTS, language_model, padded, slug

if TYPE_CHECKING:
    import pandas as pd

    Column: TypeAlias = "pd.Series[Any]"


MOST_CLASSES = 20  # whole numbers with more distinct values than this are quantities, not classes
FEWEST_ROWS = 10
# Of training: below, the weights decay more. Measured: an MLP at the usual 0.01 falls 0.1 of R2
# behind ridge regression on diabetes (282 rows), at 3 it does not; from 640 rows, 1 beats 3.
FEW_ROWS = 500
UNBALANCED = 10  # samples of the most frequent class for each one of the rarest
UNITS = {"mse": "variances", "mae": "standard deviations"}  # of the training targets

MOST_CATEGORIES = 64  # of one column; the rarest share one
NUMBERS_SHARE = (
    0.9  # words of which so many are numbers, or dates: those, with a mistake among them
)
NAMES_SHARE = 0.9  # words that differ in more rows than this name the rows
TEXT_SHARE, TEXT_SPACES = 0.5, 4  # rows that differ, and spaces in each: texts
LARGEST = float(np.finfo(np.float32).max)
MEND = "mend it, or empty it for missing"
NESTED = (list, tuple, set, dict, bytes, np.ndarray)
IDS = re.compile(r"(?i:(^|[\W_])(id|uuid|guid|key|index)$)|[a-z]I[Dd]$")  # order_id, orderId
DAYS = 19_000_101, 21_001_231  # whole numbers that are dates: 20260131
# As they are written; of two that fit, the first is taken: with points, days mostly come first.
DATES = ["%d.%m.%Y", "%m.%d.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d-%m-%Y", "%m-%d-%Y", "%d.%m.%y"]
DATES += ["%m/%d/%y", "%d/%m/%y", "%d-%b-%Y", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y"]
TIMES = ["", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p"]
FORMATS = ["ISO8601", *(date + time for time in TIMES for date in DATES)]
FORMATS_OF = 20  # dates that the format is told from
MLP: dict[str, Any] = {"model": "mlp", "optimizer": "adamw", "batch_size": 32, "epochs": 30.0}


def table_file(path: Path, options: TaskOptions) -> Data:
    """A ``.csv``, ``.tsv`` or ``.parquet`` file; what is predicted is told from the target.

    Raises:
        InputError: a file that cannot be read, no such column, a column that holds mistakes, a
            target that cannot be learnt.
    """
    frame, notes = read_table(path)
    return table(frame, options.target, options, slug(path.stem), f"table {path}", notes)


def sklearn_table(name: str, options: TaskOptions) -> Data:
    """A table that scikit-learn carries."""
    import sklearn.datasets

    frame = getattr(sklearn.datasets, f"load_{name}")(as_frame=True).frame
    target = "target" if options.target is None else options.target
    return table(frame, target, options, name, f"scikit-learn load_{name}")


def table(
    frame: "pd.DataFrame",
    target: str | None,
    options: TaskOptions,
    name: str,
    source: str,
    notes: Sequence[str] = (),
) -> Data:
    """A data frame as splits: see ``_encode``; a target that is a number is standardised too.

    With ``options.text`` that column alone, as tokens; without a target, as a language model.
    """
    named = frame.set_axis(list(map(str, frame.columns)), axis=1)
    frame, left_out = _checked(named, target, options, source)
    notes = [*notes, *left_out]
    labels, classes = None, list[str]()
    if target is not None:
        targets, classes = _targets(frame[target], options.kind, source)
        labels = targets if classes else None
    rows, test = cut(source, np.arange(len(frame)), labels, options.seed, classes)
    train, val = cut(source, rows, labels, options.seed, classes)
    tokenizer, where = None, source
    if options.text is not None:
        texts, where = frame[options.text].tolist(), f"{source}: {options.text}"
    if target is None:
        parts = ["\n".join(texts[row] for row in np.sort(part)) for part in (train, val, test)]
        data = language_model(parts, options, name, where)
        return replace(data, notes=(*notes, *data.notes))
    if options.text is None:
        inputs, more = _encode(frame.drop(columns=target), train, source)
        defaults = MLP | {"settings": {"weight_decay": 3.0 if len(train) < FEW_ROWS else 1.0}}
    else:
        inputs, tokenizer = padded(texts, train, options)
        where, defaults, more = f"{where}, {tokenizer.name}", DEFAULTS, [*tokenizer.notes]
    if not classes:
        targets = _standardised(targets, train, f"{source}: {target}")
    elif options.class_weights is None:
        notes += _imbalance(targets, classes)
    kind: Literal["classification", "regression"] = "classification" if classes else "regression"

    def split(rows: Rows) -> Split:
        return Split(torch.from_numpy(inputs[rows]), torch.from_numpy(targets[rows]))

    return Data(
        *(split(train), split(val), split(test)),
        name=name,
        source=where,
        kind=kind,
        outputs=max(1, len(classes)),
        defaults=defaults,
        notes=(*notes, *more),
        metrics=tuple(
            replace(each, unit=UNITS.get(each.name, each.unit)) for each in METRICS[kind]
        ),
        tokenizer=tokenizer,
    )


def _imbalance(targets: NDArray[Any], classes: Sequence[str]) -> list[str]:
    counts = np.bincount(targets)
    if counts.max() < UNBALANCED * counts.min():
        return []
    rare, share = classes[int(counts.argmin())], counts.min() / counts.sum()
    return [
        f"unbalanced classes: {rare} has {share:.2g} of the rows: --class-weights balanced gives "
        "rare classes more weight in the loss"
    ]


def _checked(
    frame: "pd.DataFrame", target: str | None, options: TaskOptions, source: str
) -> tuple["pd.DataFrame", list[str]]:
    """The rows that have a target and a text, and notes on the others."""
    text, notes = options.text, list[str]()
    if text is None:
        for option in ("tokens", "context"):
            if (value := getattr(options, option)) is not None:
                raise InputError(f"{option}={value!r}: of texts: name their column: --text NAME")
        if target is None:
            names = some(list(frame.columns))
            raise InputError(f"{source}: give --target, the column to predict: {names}")
    elif target is None:
        for option in ("kind", "class_weights"):
            if (value := getattr(options, option)) is not None:
                raise InputError(f"{option}={value!r}: of a target: name its column: --target NAME")
    elif text == target:
        raise InputError(f"{source}: text and target are both {text!r}: predict another column")
    columns = [name for name in (target, text) if name is not None]
    for name in columns:
        if name not in frame.columns:
            hint = nearest(name, frame.columns)
            if frame.shape[1] == 1 and not hint:
                hint = f", only {frame.columns[0]!r}: separate columns by commas"
            raise InputError(f"{source}: no column {name!r}{hint}")
        column = frame[name].dropna()
        if len(column) and isinstance(column.iloc[0], NESTED):
            raise InputError(f"{source}: {name} holds lists, records or bytes: give another")
    if text is not None:
        frame = frame[columns].assign(**{text: _as_texts(frame[text], source)})
    count = len(frame)
    for name in columns:
        there = frame[name].notna()
        if not there.all():
            notes.append(f"{(~there).sum():,} of {count:,} rows without {name} left out")
            frame = frame[there]
    if len(frame) < FEWEST_ROWS:
        why = f" ({'; '.join(notes)})" if notes else ""
        raise InputError(
            f"{source}: {plural(len(frame), 'row', 'rows')}{why}: expected {FEWEST_ROWS} or more: "
            "add some"
        )
    return frame, notes


def _as_texts(column: "Column", source: str) -> "Column":
    """Texts, those without a character as missing."""
    import pandas as pd

    texts = column.astype("object").where(column.notna(), "").astype(str).str.strip()
    texts = texts.where(texts != "")
    if texts.notna().any() and pd.to_numeric(texts.dropna(), errors="coerce").notna().all():
        raise InputError(f"{source}: {column.name} holds numbers, not texts: give another --text")
    return texts


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
        return values, []
    where = f"{source}: {target.name}"
    if kind == "regression":
        first = f"{one_line(target.iloc[0])} in row {target.index[0] + 1}"
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
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers, words, notes = _sort(features, train, source)
    if not numbers and not words:
        raise InputError(f"{source}: {'; '.join(notes) or 'a target alone'}: nothing to learn")
    matrix = np.array([*numbers.values()]).reshape(-1, len(features)).T
    texts = np.array([*words.values()], dtype=object).reshape(-1, len(features)).T
    missing = dict(zip(numbers, np.isnan(matrix).sum(0), strict=True))
    filled = [f"{name}: {n} missing, median + indicator" for name, n in missing.items() if n]
    missing = {name: features[name].isna().sum() for name in words}
    filled += [f"{name}: {n} missing, a category" for name, n in missing.items() if n]
    notes += filled[:MOST_NAMED]
    if len(filled) > MOST_NAMED:
        notes.append(f"{len(filled) - MOST_NAMED} more columns with missing values")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        # Centred before: StandardScaler takes large numbers that differ little for a constant.
        matrix = matrix - np.nan_to_num(np.nanmedian(matrix[train], axis=0))
    impute = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    one_hot = OneHotEncoder(
        handle_unknown="infrequent_if_exist", max_categories=MOST_CATEGORIES, sparse_output=False
    )
    encoders = (make_pipeline(impute, StandardScaler()), matrix), (one_hot, texts)
    encoded = [each.fit(rows[train]).transform(rows) for each, rows in encoders if rows.size]
    categories = {name: len(set(column[train])) for name, column in words.items()}
    crowded = [f"{name} ({n})" for name, n in categories.items() if n > MOST_CATEGORIES]
    if crowded:
        notes.append(f"over {MOST_CATEGORIES} categories, the rarest are one: {some(crowded)}")
    return np.hstack(encoded).astype(np.float32), notes


def _sort(
    features: "pd.DataFrame", train: Rows, source: str
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[Any]], list[str]]:
    """Columns of numbers, columns of words, and notes on those left out."""
    numbers: dict[str, NDArray[np.float64]] = {}
    words: dict[str, NDArray[Any]] = {}
    left_out: dict[str, list[str]] = {}
    dates: list[str] = []
    for name in map(str, features.columns):
        column = features[name]
        filled = column if column.dtype.kind in "fiub" else column.dropna()
        is_id = column.dtype.kind == "i" and column.is_unique
        if len(filled) and isinstance(filled.iloc[0], NESTED):
            left_out.setdefault("lists, records or bytes", []).append(name)
        elif column.nunique(dropna=False) < 2:
            left_out.setdefault("one value throughout", []).append(name)
        elif is_id and name.startswith("Unnamed: "):
            left_out.setdefault("row numbers", []).append(name)  # an index, written with the table
        elif is_id and IDS.search(name):
            left_out.setdefault("another number in every row", []).append(name)
        elif (read := _as_dates(column, source)) is not None:
            times, order = read
            parts = _date_parts(times, train)
            numbers |= {f"{part} of {name}": values.to_numpy() for part, values in parts.items()}
            dates.append(f"{name} ({', '.join([*parts, *order])})")
        elif (values := _as_numbers(column, source, MEND)) is not None:
            numbers[name] = values
        elif filled.nunique() > TEXT_SHARE * len(filled) and _spaces(filled) >= TEXT_SPACES:
            left_out.setdefault("texts (--text NAME trains on one)", []).append(name)
        elif filled.nunique() > NAMES_SHARE * len(filled):
            left_out.setdefault("another text in nearly every row", []).append(name)
        else:
            words[name] = column.astype("object").where(column.notna(), "").astype(str).to_numpy()
    notes = [f"left out, {why}: {some(names)}" for why, names in left_out.items()]
    return numbers, words, notes + ([f"dates: {some(dates)}"] if dates else [])


def _spaces(texts: "Column") -> float:
    return float(texts.astype(str).str.count(" ").mean())


def _as_dates(column: "Column", source: str) -> "tuple[Column, list[str]] | None":
    """Times in UTC, missing ones too, and how ambiguous ones were read; None where none are."""
    import pandas as pd
    from pandas.api.types import infer_dtype

    held = "numbers" if column.dtype.kind in "fubm" else infer_dtype(column)
    if column.dtype.kind == "M" or held in ("date", "datetime"):
        return pd.to_datetime(column, utc=True), []
    if not (held == "string" or (held == "integer" and column.between(*DAYS).all())):
        return None
    texts = column.dropna().astype(str).str.strip()
    if not texts.str.contains(r"\d.*[-/.: ].*\d|^\d{8}", regex=True).mean() >= NUMBERS_SHARE:
        return None

    def parsed(texts: "Column", name: str) -> "Column":
        return pd.to_datetime(texts, format=name, errors="coerce", utc=True)

    first = texts.drop_duplicates()[:FORMATS_OF]
    likely = [name for name in FORMATS if parsed(first, name).notna().mean() > 0.5]
    read = {name: parsed(texts, name) for name in likely}
    share = {name: float(times.notna().mean()) for name, times in read.items()}
    best = max(share, key=share.__getitem__, default="")
    if not best or share[best] < NUMBERS_SHARE:
        return None
    times = read[best]
    if share[best] < 1:
        row = times.index[int(times.isna().argmax())]
        where = f"{source}: column {column.name}: {one_line(column[row])} in row {row + 1}"
        raise InputError(f"{where}, among dates: {MEND}")
    others = [name for name in read if share[name] == 1 and not read[name].equals(times)]
    order = [f"read as {best}; {others[0]} fits too"] if others else []
    return times.reindex(column.index), order


def _date_parts(times: "Column", train: Rows) -> "dict[str, Column]":
    """What differs of year, month, weekday (0: Monday) and hour; and days since training began.

    The days alone are missing where the time is: the other parts are imputed here.
    """
    clock = times.dt
    parts: dict[str, Column] = {
        **{"year": clock.year, "month": clock.month, "weekday": clock.day_of_week},
        "hour": clock.hour + clock.minute / 60,
    }
    known = {name: part.astype("float64") for name, part in parts.items() if part.nunique() > 1}
    filled = {name: part.fillna(part.iloc[train].median()) for name, part in known.items()}
    return filled | {"days": (times - times.iloc[train].min()).dt.total_seconds() / 86_400}


def _as_numbers(column: "Column", source: str, way_out: str) -> NDArray[np.float64] | None:
    """Numbers and times as float64, NaN where missing; None where the column holds words."""
    import pandas as pd
    from pandas.api.types import infer_dtype, is_bool_dtype, is_numeric_dtype

    held = infer_dtype(column) if column.dtype == object else ""
    if column.dtype.kind in "mM":
        return np.where(column.isna(), np.nan, column.astype("int64"))
    where = f"{source}: column {column.name}"
    if held != "decimal" and (is_bool_dtype(column) or not is_numeric_dtype(column)):
        # One mistyped number would make a category of each.
        texts = column.dropna().astype(str)
        wrong = pd.to_numeric(texts, errors="coerce").isna()
        # "12,5" and "1,234" are numbers to whoever wrote them.
        meant = pd.to_numeric(texts.str.replace(",", "", regex=False), errors="coerce").notna()
        if wrong.any() and meant.mean() >= NUMBERS_SHARE:
            row = texts.index[int(wrong.argmax())]
            raise InputError(
                f"{where}: {one_line(column[row])} in row {row + 1}, among numbers: {way_out}"
            )
        return None
    values = column.to_numpy(np.float64, na_value=np.nan)
    too_large = np.flatnonzero(np.abs(values) > LARGEST)
    if len(too_large):
        place = too_large[0]
        raise InputError(
            f"{where}: {values[place]:g} in row {column.index[place] + 1}: expected a finite "
            f"number: {way_out}"
        )
    return values
