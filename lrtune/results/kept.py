"""Kept: a verdict as JSON holds it."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lrtune.errors import InputError

FORMAT = 1


def plain(value: Any) -> Any:
    """As JSON can hold it: what is not finite is null."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_verdict(text: str, where: str) -> dict[str, Any]:
    """A verdict that was written.

    Raises:
        InputError: it is not one, or a newer lrtune wrote it.
    """
    try:
        found = json.loads(text)
        version = found["format"]
        found["answer"]["place"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{where}: not a verdict of lrtune: {error}") from error
    if version != FORMAT:
        raise InputError(f"{where}: a verdict of format {version}: this lrtune reads {FORMAT}")
    return dict(found)
