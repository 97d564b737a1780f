"""Tables: CSV and Parquet files, and the small ones that scikit-learn carries."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lrtune.errors import InputError, nearest
from lrtune.tasks.data import Data, split_size
from lrtune.tasks.split import Split

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["classification", "regression"]

MOST_CLASSES = 20  # whole numbers with more distinct values than this are quantities, not classes
MOST_CATEGORIES = 64  # of one column; the rarest share one


def table_file(path: Path, target: str | None, kind: str | None, seed: int) -> Data:
    """A CSV or Parquet file.

    Args:
        path: ``.csv``, ``.csv.gz``, ``.parquet``; the first line of a CSV names the columns.
        target: the column to predict.
        kind: classification or regression; told from the target where None.
        seed: of the split.

    Raises:
        InputError: a file that cannot be read, no such column, a target that cannot be learnt.
    """
    import pandas as pd

    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError) as error:  # pandas' and pyarrow's parse errors are ValueErrors
        raise InputError(f"{path}: cannot be read as a table: {_line(error)}") from error
    if target is None:
        raise InputError(f"{path}: give --target, one of {', '.join(map(str, frame.columns))}")
    return table(frame, target, kind, seed, re.sub(r"[^\w-]+", "-", path.stem), f"table {path}")


def table(
    frame: "pd.DataFrame", target: str, kind: str | None, seed: int, name: str, source: str
) -> Data:
    """A data frame: numbers imputed and standardised, words one-hot, by the training rows alone."""
    columns = [str(column) for column in frame.columns]
    twice = next((c for i, c in enumerate(columns) if c in columns[:i]), None)
    if twice is not None:
        raise InputError(f"{source}: two columns are called {twice!r}")
    frame = frame.set_axis(columns, axis=1)
    if target not in columns:
        raise InputError(f"{source}: no column {target!r}{nearest(target, columns)}")
    missing = int(frame[target].isna().sum())
    if missing:
        raise InputError(f"{source}: {target} is missing in {missing} rows: fill or drop them")
    kind = _kind(frame[target], kind, source)
    features = frame.drop(columns=target)
    features = features.loc[:, features.nunique(dropna=False) > 1]  # one value tells nothing
    if features.empty:
        raise InputError(f"{source}: no column beside {target!r} that varies")
    classes, targets = _targets(frame[target], kind, source)
    train, val, test = _three_parts(targets, kind, seed, source)
    inputs = _encode(features, train)
    if kind == "regression":
        mean, scale = targets[train].mean(), targets[train].std()
        targets = ((targets - mean) / scale).astype(np.float32)
    splits = [
        Split(torch.from_numpy(inputs[rows]), torch.from_numpy(targets[rows]))
        for rows in (train, val, test)
    ]
    return Data(
        name=name,
        source=source,
        train=splits[0],
        val=splits[1],
        test=splits[2],
        classes=classes,
        prepare=nn.Identity(),
        defaults={"model": "mlp", "optimizer": "adamw", "batch_size": 32, "epochs": 30.0},
    )


def embedded(name: str, loader: str, seed: int) -> Data:
    """A table that scikit-learn carries."""
    import sklearn.datasets

    frame = getattr(sklearn.datasets, loader)(as_frame=True).frame
    return table(frame, "target", None, seed, name, f"scikit-learn {loader}")


def _kind(target: "pd.Series[Any]", given: str | None, source: str) -> Kind:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    numeric = is_numeric_dtype(target) and not is_bool_dtype(target)
    match given:
        case "classification":
            return "classification"
        case "regression" if numeric:
            return "regression"
        case "regression":
            raise InputError(f"{source}: kind=regression, but {target.name} holds no numbers")
        case None:
            whole = not numeric or bool((target % 1 == 0).all())
            few = whole and target.nunique() <= MOST_CLASSES
            return "regression" if numeric and not few else "classification"
    raise InputError(f"kind={given!r}: classification or regression")


def _targets(
    target: "pd.Series[Any]", kind: Kind, source: str
) -> tuple[tuple[str, ...] | None, NDArray[Any]]:
    if kind == "regression":
        values = target.to_numpy(np.float64)
        if not np.isfinite(values).all():
            raise InputError(f"{source}: {target.name} holds infinity")
        if values.min() == values.max():
            raise InputError(f"{source}: {target.name} is {values[0]:g} in every row")
        return None, values
    names, numbers = np.unique(target.astype(str).to_numpy(), return_inverse=True)
    if len(names) < 2:
        raise InputError(f"{source}: {target.name} has a single class ({names[0]})")
    return tuple(map(str, names)), numbers.astype(np.int64)


def _three_parts(
    targets: NDArray[Any], kind: Kind, seed: int, source: str
) -> list[NDArray[np.int64]]:
    """Rows of train, val and test, classes in proportion."""
    from sklearn.model_selection import train_test_split

    rows, parts = np.arange(len(targets)), []
    for _ in range(2):
        strata = targets[rows] if kind == "classification" else None
        try:
            rows, cut = train_test_split(
                rows, test_size=split_size(len(rows)), random_state=seed, stratify=strata
            )
        except ValueError as error:
            raise InputError(f"{source}: cannot be split: {_line(error)}: add rows") from error
        parts.append(cut)
    test, val = parts
    return [rows, val, test]


def _encode(features: "pd.DataFrame", train: NDArray[np.int64]) -> NDArray[np.float32]:
    from pandas.api.types import is_bool_dtype, is_datetime64_any_dtype, is_numeric_dtype
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers, words = {}, {}
    for name, column in ((name, features[name]) for name in map(str, features.columns)):
        if is_datetime64_any_dtype(column):
            numbers[name] = column.astype("int64") / 1e9
        elif is_numeric_dtype(column) and not is_bool_dtype(column):
            numbers[name] = column.astype("float64").replace([np.inf, -np.inf], np.nan)
        else:
            words[name] = column.astype("object").where(column.notna(), "").astype(str)
    plain = features.assign(**numbers, **words)
    encoder = ColumnTransformer(
        [
            (
                "numbers",
                make_pipeline(
                    SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True),
                    StandardScaler(),
                ),
                list(numbers),
            ),
            (
                "words",
                OneHotEncoder(
                    handle_unknown="infrequent_if_exist",
                    max_categories=MOST_CATEGORIES,
                    sparse_output=False,
                ),
                list(words),
            ),
        ]
    )
    encoder.fit(plain.iloc[train])
    return np.asarray(encoder.transform(plain), dtype=np.float32)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".:")
