"""What a training run left behind, and what is wrong with its learning rates."""

from dataclasses import replace
from pathlib import Path

from lrtune.doctor.diagnosis import Diagnosis
from lrtune.doctor.readers import read
from lrtune.doctor.rules import Finding, findings
from lrtune.errors import InputError

__all__ = ["Diagnosis", "Finding", "examine", "findings"]


def examine(path: str | Path, *, total: int | None = None) -> list[Diagnosis]:
    """Read a log or a checkpoint, one diagnosis per schedule; ``findings`` says what is wrong.

    Args:
        path: a file, or a folder of TensorBoard's events.
        total: updates that the run makes, where that is not in the file.

    Raises:
        InputError: it cannot be read, there are no rates in it, or `total` is not above 0.
    """
    if total is not None and total < 1:
        raise InputError(f"total={total}: expected a number of updates above 0")
    logs = read(Path(path))
    return [Diagnosis.of(replace(log, total=total, ended=True) if total else log) for log in logs]
