"""Columns of a table as the numbers that a model sees."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrtune.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

MOST_CATEGORIES = 64  # of one column; the rarest share one
NUMBERS_SHARE = 0.9  # words of which so many are numbers: numbers with a mistake among them
NAMES_SHARE = 0.9  # words that differ in more rows than this name the rows
MOST_NAMED = 5  # columns in a note
LARGEST = float(np.finfo(np.float32).max)
NESTED = (list, tuple, set, dict, bytes, np.ndarray)


def encode(
    features: "pd.DataFrame", train: NDArray[np.int64], source: str
) -> tuple[NDArray[np.float32], list[str]]:
    """Numbers imputed and standardised, words one-hot, by the training rows alone.

    Args:
        features: (n, columns) of any types.
        train: the training rows.
        source: what to name in an error.

    Returns:
        float32 (n, inputs of a model), and what was done beside, a line each.

    Raises:
        InputError: text among numbers, infinity, nothing to learn from.
    """
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers, words, left_out = _sort(features, source)
    if not numbers and not words:
        raise InputError(f"{source}: {'; '.join(left_out) or 'a target alone'}: nothing to learn")
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
    crowded = {name: words[name].iloc[train].nunique() for name in words}
    notes = [*left_out, *_missing(features, numbers, words), *_merged(crowded)]
    return np.asarray(encoder.transform(plain), dtype=np.float32), notes


def as_numbers(column: "pd.Series[Any]", source: str, way_out: str) -> "pd.Series[Any] | None":
    """Numbers and times as float64, NaN where missing; None where the column holds words.

    Raises:
        InputError: text among numbers, infinity; the message ends with the way out.
    """
    import pandas as pd
    from pandas.api.types import infer_dtype, is_bool_dtype, is_numeric_dtype

    held = infer_dtype(column) if column.dtype == object else ""
    if held == "date":
        column = pd.to_datetime(column)
    if column.dtype.kind in "mM":
        return column.astype("int64").astype("float64").where(column.notna())
    if held != "decimal" and (is_bool_dtype(column) or not is_numeric_dtype(column)):
        _refuse_text_among_numbers(column, source, way_out)
        return None
    values = column.astype("float64")
    too_large = np.flatnonzero(values.abs() > LARGEST)
    if len(too_large):
        row = int(too_large[0])
        raise InputError(
            f"{source}: column {column.name}: {values.iloc[row]:g} in row {row + 1}: expected a "
            f"finite number: {way_out}"
        )
    return values


def _centre(column: "pd.Series[Any]") -> float:
    """The median, as of what is missing; 0 where all is."""
    return float(column.median()) if column.notna().any() else 0.0


def _refuse_text_among_numbers(column: "pd.Series[Any]", source: str, way_out: str) -> None:
    """One mistyped number would make a category of each."""
    import pandas as pd

    texts = column.dropna().astype(str)
    wrong = pd.to_numeric(texts, errors="coerce").isna()
    # "12,5" and "1,234" are numbers to whoever wrote them.
    meant = pd.to_numeric(texts.str.replace(",", "", regex=False), errors="coerce").notna()
    if wrong.any() and meant.mean() >= NUMBERS_SHARE:
        row = int(np.flatnonzero(column.notna())[wrong.argmax()])
        raise InputError(
            f"{source}: column {column.name}: {column.iloc[row]!r} in row {row + 1}, among "
            f"numbers: {way_out}"
        )


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
        elif name.startswith("Unnamed: ") and _numbers_the_rows(column):
            left_out.setdefault("row numbers", []).append(name)
        elif (values := as_numbers(column, source, "mend it, or empty it for missing")) is not None:
            numbers[name] = values
        elif filled.nunique() > NAMES_SHARE * len(filled):
            left_out.setdefault("another text in nearly every row", []).append(name)
        else:
            words[name] = column.astype("object").where(column.notna(), "").astype(str)
    return numbers, words, [f"left out, {why}: {_some(names)}" for why, names in left_out.items()]


def _numbers_the_rows(column: "pd.Series[Any]") -> bool:
    """An index that was written with the table."""
    return column.dtype.kind == "i" and column.is_unique


def _missing(features: "pd.DataFrame", numbers: dict[str, Any], words: dict[str, Any]) -> list[str]:
    how = dict.fromkeys(numbers, "median + indicator") | dict.fromkeys(words, "a category")
    holes = {name: int(features[name].isna().sum()) for name in how}
    notes = [f"{name}: {n} missing, {how[name]}" for name, n in holes.items() if n]
    more = len(notes) - MOST_NAMED
    return notes[:MOST_NAMED] + ([f"{more} more columns with missing values"] if more > 0 else [])


def _merged(categories: dict[str, int]) -> list[str]:
    names = [f"{name} ({n})" for name, n in categories.items() if n > MOST_CATEGORIES]
    return [f"over {MOST_CATEGORIES} categories, the rarest are one: {_some(names)}"] * bool(names)


def _some(names: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
