"""What a training run left behind, and what is wrong with its learning rates."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from lrtune.doctor.log import (
    EVENTS,
    LARGEST,
    Log,
    read_checkpoint,
    read_csv,
    read_events,
    read_json,
)
from lrtune.doctor.rules import Diagnosis, Finding, findings
from lrtune.errors import InputError

__all__ = ["Diagnosis", "Finding", "examine", "findings"]

READERS: Mapping[str, Callable[[Path], list[Log]]] = {  # by the file's name
    "*.json": read_json,
    EVENTS: read_events,
    "*.csv": read_csv,
    "*.jsonl": read_json,
    **dict.fromkeys(("*.pt", "*.pth", "*.ckpt", "*.bin", "*.tar"), read_checkpoint),
}
USUAL = ("trainer_state.json", "metrics.csv", "scheduler.pt", "last.ckpt")  # in a run's folder


def examine(path: str | Path, *, total: int | None = None) -> list[Diagnosis]:
    """Read a log or a checkpoint, one diagnosis per schedule; ``findings`` says what is wrong.

    Args:
        path: a file, a folder of TensorBoard's events, or a folder with one of the usual names.
        total: updates that the run makes, where that is not in the file.

    Raises:
        InputError: it cannot be read, there are no rates in it, or `total` is not above 0.
    """
    if total is not None and total < 1:
        raise InputError(f"total={total}: expected a number of updates above 0")
    try:
        logs = _read(Path(path))
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read: {reason}") from error
    return [Diagnosis.of(replace(log, total=total, ended=True) if total else log) for log in logs]


def _read(path: Path) -> list[Log]:
    if path.is_dir():
        known = [path / name for name in USUAL if (path / name).is_file()]
        if not known and not any(path.glob(EVENTS)):
            raise InputError(f"{path}: none of {', '.join(USUAL)}, {EVENTS} in it: give a file")
        return _read(known[0]) if known else read_events(path)
    if not path.stat().st_size:
        raise InputError(f"{path}: is empty")
    reader = next((reader for name, reader in READERS.items() if path.match(name)), None)
    if reader is None:
        raise InputError(
            f"{path}: expected a log (.csv, .json, .jsonl, TensorBoard's events) or a checkpoint "
            "(.pt, .pth, .ckpt, .bin, .tar)"
        )
    if reader is not read_checkpoint and path.stat().st_size > LARGEST:
        raise InputError(f"{path}: at most {LARGEST:,} bytes are read: thin the log")
    return reader(path)
