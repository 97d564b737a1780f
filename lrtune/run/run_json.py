"""run.json: what a run was asked to do and with what, as it is kept, checked and shown."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrtune.errors import InputError
from lrtune.files import replace
from lrtune.format import hidden, hidden_in

if TYPE_CHECKING:  # it brings torch
    from lrtune.engine import RangeTest

FORMAT = 1


def range_test_json(test: "RangeTest") -> dict[str, Any]:
    """A range test as ``run.json`` keeps it and the figure reads it; NaN as null."""

    def curve(values: np.typing.NDArray[np.float64]) -> list[float | None]:
        return [float(v) if np.isfinite(v) else None for v in values]

    return {
        **asdict(test.suggestion),
        "rates": curve(test.rates),
        "losses": [curve(losses) for losses in test.smoothed],
        "message": test.message,
    }


# What a run's settings cannot do without.
REQUIRED: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("task", "objective", "metrics", "optimizer", "versions"), dict),
    **dict.fromkeys(("placement", "engine"), dict),
    **dict.fromkeys(("study", "unit", "device", "command", "owner", "judge"), str),
    **dict.fromkeys(("families", "peak_lr", "warmup"), list),
    **dict.fromkeys(("horizon", "validations", "seed"), int),
    "epochs": (int, float),
    "storage": (str, type(None)),
    "range_test": (dict, type(None)),
}


def read_settings(path: Path) -> dict[str, Any]:
    """The settings of a run.

    Raises:
        InputError: there are none, they are damaged, or a newer lrtune wrote them.
    """
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path.parent}: not a run: it has no run.json") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as a run's settings: {error}") from error
    if not isinstance(settings, dict) or type(settings.get("format")) is not int:
        raise InputError(f"{path}: not a run's settings: it says no format")
    if settings["format"] != FORMAT:
        raise InputError(
            f"{path}: format {settings['format']}: this lrtune reads {FORMAT}: "
            "use the lrtune that made it, or a newer one"
        )
    for name, kind in REQUIRED.items():
        if name not in settings or not isinstance(settings[name], kind):
            raise InputError(f"{path}: damaged: {name} is missing or of another type")
    return {"cycle_momentum": False} | settings  # which runs do not say from before it was there


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    replace(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def without_password(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings to be shown and passed on: a storage's URL may hold a password."""
    shown = settings | {"command": hidden_in(settings["command"])}
    if settings["storage"] is not None:
        shown["storage"] = hidden(settings["storage"])
    asked = settings.get("asked") or {}
    if asked.get("storage") is not None:
        shown["asked"] = asked | {"storage": hidden(asked["storage"])}
    return shown
