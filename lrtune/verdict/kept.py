"""Kept: a verdict as JSON holds it."""

import json
from typing import Any

from lrtune.errors import InputError

FORMAT = 2


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
