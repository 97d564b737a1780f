"""Tables: CSV and Parquet files, and the small ones that scikit-learn carries."""

import gzip
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from lrtune.errors import InputError, nearest
from lrtune.tasks.columns import NESTED, as_numbers, encode
from lrtune.tasks.data import Data, Kind, cut
from lrtune.tasks.metrics import METRICS, Metric
from lrtune.tasks.options import TaskOptions
from lrtune.tasks.split import Rows, Split
from lrtune.tasks.text import refuse_binaries, slug

if TYPE_CHECKING:
    import pandas as pd

MOST_CLASSES = 20  # whole numbers with more distinct values than this are quantities, not classes
FEWEST_ROWS = 10
# Of training: below, the weights decay more. Measured: an MLP at the usual 0.01 falls 0.1 of R2
# behind ridge regression on diabetes (282 rows), at 3 it does not; from 640 rows, 1 beats 3.
FEW_ROWS = 500
UNITS = {"mse": "variances", "mae": "standard deviations"}  # of the training targets


def table_file(path: Path, options: TaskOptions) -> Data:
    """A CSV or Parquet file.

    Args:
        path: ``.csv``, ``.csv.gz``, ``.parquet``; the first line of a CSV names the columns.
        options: ``target``, the column to predict; ``kind``, told from the target where None;
            ``seed``, of the splits.

    Raises:
        InputError: a file that cannot be read, no such column, a column that holds mistakes, a
            target that cannot be learnt.
    """
    is_parquet = path.suffix.lower() == ".parquet"
    try:
        frame, notes = _parquet(path) if is_parquet else (_csv(path), [])
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8: byte 0x{error.object[error.start]:02x}: convert it (iconv -f "
            "latin1 -t utf-8, if that is what it is)"
        ) from error
    # The parse errors of pandas and pyarrow are ValueErrors; a cut gzip file ends in the others.
    except (OSError, EOFError, zlib.error, ValueError, NotImplementedError) as error:
        raise InputError(
            f"{path}: cannot be read as a table: {' '.join(str(error).split())[:200].rstrip('.:')}"
            f": expected {'Parquet' if is_parquet else 'CSV'}"
        ) from error
    if options.target is None:
        raise InputError(f"{path}: give --target, one of {', '.join(map(str, frame.columns))}")
    return table(
        frame, options.target, options.kind, options.seed, slug(path.stem), f"table {path}", notes
    )


def embedded(name: str, loader: str, options: TaskOptions) -> Data:
    """A table that scikit-learn carries."""
    import sklearn.datasets

    frame = getattr(sklearn.datasets, loader)(as_frame=True).frame
    target = "target" if options.target is None else options.target
    return table(frame, target, options.kind, options.seed, name, f"scikit-learn {loader}")


def table(
    frame: "pd.DataFrame",
    target: str,
    kind: str | None,
    seed: int,
    name: str,
    source: str,
    notes: Sequence[str] = (),
) -> Data:
    """A data frame as splits: see ``encode``; a target that is a number is standardised too."""
    frame = frame.set_axis(list(map(str, frame.columns)), axis=1)
    _check(frame, target, source)
    targets, classes = _targets(frame[target], kind, source)
    labels = targets if classes else None
    rows, test = cut(source, np.arange(len(frame)), labels, seed, classes)
    train, val = cut(source, rows, labels, seed, classes)
    inputs, done = encode(frame.drop(columns=target), train, source)
    told: Kind = "classification" if classes else "regression"
    if not classes:
        targets = _standardised(targets, train, f"{source}: {target}")
    splits = [
        Split(torch.from_numpy(inputs[rows]), torch.from_numpy(targets[rows]))
        for rows in (train, val, test)
    ]
    return Data(
        name=name,
        source=source,
        kind=told,
        metrics=tuple(map(_with_unit, METRICS[told])),
        train=splits[0],
        val=splits[1],
        test=splits[2],
        outputs=max(1, len(classes)),
        defaults={
            "model": "mlp",
            "optimizer": "adamw",
            "settings": {"weight_decay": 3.0 if len(train) < FEW_ROWS else 1.0},
            "batch_size": 32,
            "epochs": 30.0,
        },
        notes=(*notes, *done),
    )


def _csv(path: Path) -> "pd.DataFrame":
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


def _parquet(path: Path) -> tuple["pd.DataFrame", list[str]]:
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
        raise InputError(
            f"{source}: {target} holds lists, records or bytes: expected numbers or words: give "
            "another --target"
        )


def _targets(
    target: "pd.Series[Any]", kind: str | None, source: str
) -> tuple[NDArray[Any], list[str]]:
    """Numbers and no classes, or class numbers and the names of the classes."""
    values = _quantity(target, kind, source)
    return _labels(target, source) if values is None else (values.to_numpy(np.float64), [])


def _quantity(target: "pd.Series[Any]", kind: str | None, source: str) -> "pd.Series[Any] | None":
    """The target as numbers; None where it is a class."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    if kind == "classification":
        return None
    if kind is None and target.nunique() <= MOST_CLASSES:
        numeric = is_numeric_dtype(target) and not is_bool_dtype(target)
        if not numeric or bool((target % 1 == 0).all()):
            return None
    values = as_numbers(target, source, "mend it, or drop the row")
    if values is None and kind == "regression":
        raise InputError(
            f"{source}: kind=regression, but {target.name} holds no numbers "
            f"({target.iloc[0]!r} in row 1): give another --target, or --kind classification"
        )
    return values


def _labels(target: "pd.Series[Any]", source: str) -> tuple[NDArray[np.int64], list[str]]:
    """Class numbers, in the order of the classes, and the names of the classes."""
    import pandas as pd

    numbers, classes = pd.factorize(target, sort=True)
    if len(classes) < 2:
        raise InputError(
            f"{source}: {target.name} has a single class ({classes[0]}): nothing to tell apart: "
            "give another --target"
        )
    if len(classes) == len(target):
        raise InputError(
            f"{source}: {target.name} has {len(classes)} different values in {len(target)} rows: "
            "nothing can be learnt: give another --target, or --kind regression for a number"
        )
    return numbers.astype(np.int64), list(map(str, classes))


def _standardised(numbers: NDArray[np.float64], train: Rows, name: str) -> NDArray[np.float32]:
    first = numbers[train[0]]
    centred = numbers - first  # exact where all are nearly the same
    mean, scale = centred[train].mean(), centred[train].std()
    if scale == 0:
        raise InputError(
            f"{name} is {first:g} in every row of training: nothing to learn: give another --target"
        )
    standard: NDArray[np.float32] = ((centred - mean) / scale).astype(np.float32)
    return standard


def _with_unit(metric: Metric) -> Metric:
    return replace(metric, unit=UNITS.get(metric.name, metric.unit))
