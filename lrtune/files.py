"""Files written whole or not at all, and what JSON can hold."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def replace(path: Path, content: bytes) -> None:
    """Write a file in one step: a reader meets the old one or the new one, never half."""
    part = beside(path)
    try:  # open() heeds the umask
        with part.open("xb") as file:
            file.write(content)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def beside(path: Path) -> Path:
    """A name of its own beside a path, for another process may be at the same."""
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}")


def plain(value: Any) -> Any:
    """As JSON can hold it: what is not finite is null, which not every reader lets pass."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return plain(value.item()) if isinstance(value, np.generic) else value
