"""Files of tables: CSV with any of the usual separators, and Parquet, as data frames."""

import csv
import gzip
import io
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrtune.errors import InputError
from lrtune.tasks.text import refuse_binaries

if TYPE_CHECKING:
    import pandas as pd

HEAD = 1 << 16  # bytes of a file that are looked at first
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
DECIMAL_COMMA = re.compile(r"[-+]?(\d{1,3}(\.\d{3})+|\d+)(,\d+)?")  # 1.234,5 or 1234,5 or 1234
MOST_NAMED = 5  # columns in a note


def read_table(path: Path) -> tuple["pd.DataFrame", list[str]]:
    """A ``.parquet`` file, or any other as CSV; and notes on how it was read."""
    is_parquet = path.suffix.lower() == ".parquet"
    if not path.is_file():
        raise InputError(f"{path}: {'no regular' if path.exists() else 'no such'} file")
    try:
        return read_parquet(path) if is_parquet else read_csv(path)
    except InputError:
        raise
    # Parse errors are ValueErrors, a cut gzip file ends in an EOFError or zlib.error; pyarrow and
    # pandas look things up in metadata that may be damaged.
    except (
        OSError,
        EOFError,
        zlib.error,
        ValueError,
        LookupError,
        TypeError,
        RuntimeError,
    ) as error:
        raise InputError(
            f"{path}: cannot be read as a table: {' '.join(str(error).split())[:200].rstrip('.:')}"
            f": expected {'Parquet' if is_parquet else 'CSV'}"
        ) from error


def read_csv(path: Path) -> tuple["pd.DataFrame", list[str]]:
    """A CSV file, its first line the names of the columns, and notes on what it is written in."""
    import pandas as pd

    opened: Any = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rb") as file:
        head = file.read(HEAD)
        refuse_binaries(path, head)
        if not head.strip():
            raise InputError(f"{path}: empty: expected a line of column names, and rows")
        # Names hold fewer other separators than rows do.
        separator = max(SEPARATORS, key=lambda separator: _names(head, separator))
        notes = [] if separator == "," else [f"columns are separated by {SEPARATORS[separator]}"]

        def read(**options: Any) -> "pd.DataFrame":
            file.seek(0)
            frame: pd.DataFrame = pd.read_csv(file, sep=separator, **options)
            return frame

        encoding = {"encoding": "utf-8"}
        try:
            frame = _read_rows(path, partial(read, **encoding))
        except UnicodeDecodeError as error:
            encoding = {"encoding": "cp1252", "encoding_errors": "replace"}
            frame = _read_rows(path, partial(read, **encoding))
            byte = f"0x{error.object[error.start]:02x}"
            notes.append(f"not UTF-8 (byte {byte}): read as Windows-1252, which Latin-1 is part of")
    if separator != "," and (names := _read_decimal_commas(frame)):
        with opened(path, "rb") as file:
            _read_thousands(frame, read(index_col=False, dtype=str, **encoding))
        notes.append(f"decimal commas: {some(names)}")
    return frame, notes


def _names(head: bytes, separator: str) -> int:
    """How many fields the first line has."""
    text = io.StringIO(head.lstrip().decode("latin-1"), newline=None)
    return len(next(csv.reader(text, delimiter=separator)))


def _read_rows(path: Path, read: Callable[..., "pd.DataFrame"]) -> "pd.DataFrame":
    import pandas as pd

    # As pandas would name a second "x" x.1, the names are read by themselves.
    header = read(header=None, nrows=1, dtype=str, keep_default_na=False)
    _refuse_twins(path, [name for name in header.iloc[0] if name])
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return read(index_col=False, low_memory=False)
        except pd.errors.ParserWarning as error:
            raise InputError(
                f"{path}: rows of more fields than the first line has names ({header.shape[1]}): "
                "name every column"
            ) from error


def _read_decimal_commas(frame: "pd.DataFrame") -> list[str]:
    """Columns of texts as ``1.234,5`` become numbers, in place; their names."""
    import pandas as pd
    from pandas.api.types import infer_dtype

    names = []
    for name in frame.columns:
        texts = frame[name].dropna()
        if not len(texts) or infer_dtype(texts) != "string":
            continue
        if texts.str.fullmatch(DECIMAL_COMMA).all():
            plain = frame[name].str.replace(".", "", regex=False).str.replace(",", ".", regex=False)
            frame[name] = pd.to_numeric(plain)
            names.append(str(name))
    return names


def _read_thousands(frame: "pd.DataFrame", texts: "pd.DataFrame") -> None:
    """Where commas are decimal, the points of 1.234 are not: such columns are read anew."""
    import pandas as pd

    for name in frame.columns[[kind.kind == "f" for kind in frame.dtypes]]:
        own = texts[name].dropna()
        points = own.str.contains(".", regex=False).any()
        if points and own.str.fullmatch(r"[-+]?(0|[1-9]\d{0,2}(\.\d{3})*)").all():
            frame[name] = pd.to_numeric(texts[name].str.replace(".", "", regex=False))


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
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{path}: two columns are called {twice[0]!r}: rename one")


def some(names: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
