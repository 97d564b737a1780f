"""run.json: what a run was asked to do and with what, as it is read, written and shown."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lrtune.errors import InputError
from lrtune.format import hidden, hidden_in
from lrtune.verdict.settings import RangeTestFacts, RunSettings

if TYPE_CHECKING:  # it brings torch
    from lrtune.engine import RangeTest


def range_test_facts(test: "RangeTest") -> RangeTestFacts:
    """A range test as ``run.json`` keeps it and the figure reads it."""
    return RangeTestFacts(
        **asdict(test.suggestion),
        rates=test.rates.tolist(),
        losses=[losses.tolist() for losses in test.smoothed],
        message=test.message,
    )


def read_settings(path: Path) -> RunSettings:
    """The settings of a run.

    Raises:
        InputError: there are none, they are damaged, or of another format.
    """
    if not path.is_file():
        raise InputError(f"{path.parent}: not a run: it has no run.json")
    return RunSettings.read(path)


def without_password(settings: RunSettings) -> RunSettings:
    """Settings to be shown and passed on: a storage's URL may hold a password."""
    asked = settings.asked
    if asked is not None and asked.get("storage") is not None:
        asked = asked | {"storage": hidden(asked["storage"])}
    storage = None if settings.storage is None else hidden(settings.storage)
    shown = {"command": hidden_in(settings.command), "storage": storage, "asked": asked}
    return settings.model_copy(update=shown)
