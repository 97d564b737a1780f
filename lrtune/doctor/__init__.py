"""What a training run left behind, and what is wrong with its learning rates."""

from dataclasses import replace
from pathlib import Path

from lrtune.doctor.case import Case
from lrtune.doctor.finding import Finding
from lrtune.doctor.findings import findings
from lrtune.doctor.fit import Fit
from lrtune.doctor.log import Log
from lrtune.doctor.readers import read
from lrtune.doctor.settings import Settings, is_settings, read_settings
from lrtune.errors import InputError

__all__ = ["Case", "Finding", "Fit", "Log", "Settings", "examine", "findings"]


def examine(
    path: str | Path, *, total: int | None = None, warmup: int | None = None
) -> list[Case] | Settings:
    """Read a log, a checkpoint, a script or a config; ``findings`` says what is wrong with a case.

    Args:
        path: a file or a folder.
        total: updates that the run makes, where that is not in the file.
        warmup: updates that the warmup was to take.

    Returns:
        A case for each schedule of a log or checkpoint; what is written in a script or config.

    Raises:
        InputError: it cannot be read, or there are no rates in it.
    """
    path = Path(path)
    for name, value in (("total", total), ("warmup", warmup)):
        if value is not None and value < (name == "total"):
            raise InputError(f"{name}={value}: expected a number of updates")
    if is_settings(path):
        return read_settings(path)
    logs = read(path)
    if total is not None:
        logs = [replace(log, total=total, ended=True) for log in logs]
    return [Case.of(log, warmup) for log in logs]
