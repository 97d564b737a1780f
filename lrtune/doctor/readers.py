"""READERS: what doctor can read, told by name and, where names say nothing, by content."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lrtune.doctor.columns import read_csv, read_json, read_jsonl
from lrtune.doctor.events import PATTERN, read_events
from lrtune.doctor.log import Log, NoRates
from lrtune.doctor.states import read_checkpoint
from lrtune.errors import InputError


class Reader(NamedTuple):
    """A kind of file.

    Attributes:
        names: patterns of file names.
        read: path -> a Log of each scheduler, column or tag.
        search: patterns under a folder, in the order they are looked for.
    """

    names: tuple[str, ...]
    read: Callable[[Path], list[Log]]
    search: tuple[str, ...]


READERS = (
    Reader(("*.json",), read_json, ("trainer_state.json", "checkpoint-*/trainer_state.json")),
    Reader((PATTERN,), read_events, ()),
    Reader(("*.csv",), read_csv, ("metrics.csv", "rates.csv", "*.csv")),
    Reader(("*.jsonl", "*.ndjson"), read_jsonl, ("*.jsonl",)),
    Reader(
        ("*.pt", "*.pth", "*.ckpt", "*.bin", "*.tar"),
        read_checkpoint,
        (
            "scheduler.pt",
            "checkpoint-*/scheduler.pt",
            "last.ckpt",
            "*.ckpt",
            "checkpoints/*.ckpt",
            "*.pt",
            "*.pth",
        ),
    ),
)


def read(path: Path) -> list[Log]:
    """What a training run left behind: a file, or a folder with one that can be read.

    Raises:
        InputError: nothing there, nothing that is known, or no rates in it.
    """
    try:
        if path.is_dir():
            return _folder(path)
        if not path.stat().st_size:
            raise InputError(f"{path}: is empty")
        for reader in READERS:
            if any(path.match(pattern) for pattern in reader.names):
                return reader.read(path)
        return _by_content(path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not text: {error}") from error
    except RecursionError as error:
        raise InputError(f"{path}: is nested too deeply to be read") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _folder(path: Path) -> list[Log]:
    """The newest file of the first kind in which there are rates."""
    without: dict[Path, InputError] = {}
    for reader in READERS:
        for pattern in reader.search:
            found = max({*path.glob(pattern)} - without.keys(), key=_newest, default=None)
            if found is None:
                continue
            try:
                logs = reader.read(found)
            except NoRates as error:
                without[found] = error
            else:
                return [log.noted(f"read from {found.relative_to(path)}") for log in logs]
    if next(path.rglob(PATTERN), None) is not None:
        try:
            return read_events(path)
        except NoRates as error:
            without[path] = error
    raise next(iter(without.values()), None) or InputError(
        f"{path}: no trainer_state.json, metrics.csv, event file or checkpoint in it: give a file"
    )


def _newest(path: Path) -> tuple[int, float, str]:
    digits = "".join(c for c in path.parent.name if c.isdigit())
    return int(digits or 0), path.stat().st_mtime, path.name


def _by_content(path: Path) -> list[Log]:
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return read_checkpoint(path)
    if start[:1] == b"{":
        return read_json(path)
    if b"\x00" in start:
        raise InputError(
            f"{path}: is no log that is known: CSV, JSON lines, trainer_state.json, TensorBoard "
            "events, a checkpoint, a Python script, or a YAML, TOML or JSON config"
        )
    return read_csv(path)
