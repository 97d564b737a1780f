"""How much memory there is for data, and how much of it a user allows."""

import re
from contextvars import ContextVar
from pathlib import Path

import psutil
import torch

from lrtune.errors import InputError

SHARE = 0.5  # of the free memory, for data; the rest is for models, activations and other people
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
# A container's own limit and use, version 2 and version 1 of the kernel's interface.
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)

# What a user allows, while a task is built that does not say so itself.
LIMIT: ContextVar[int | None] = ContextVar("limit", default=None)


def room(device: torch.device, limit: int | None) -> int:
    """Bytes of data that may be kept on a device: the user's limit, else half of what is free."""
    if limit is not None:
        return limit
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(SHARE * (torch.cuda.mem_get_info(device)[0] + cached))
    return int(SHARE * min(psutil.virtual_memory().available, *_containers()))


def _containers() -> list[int]:
    free = [2**63]
    for limit, used in CGROUPS:
        try:
            free.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such container, or no limit ("max")
            continue
    return free


def parse_size(text: str) -> int:
    """Bytes from ``500MB`` or ``1.5 GB``.

    >>> parse_size("1.5 GB")
    1500000000
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B)", text.strip().upper())
    if match is None or (size := int(float(match[1]) * UNITS[match[2]])) < 1:
        raise InputError(f"memory={text!r}: a number and a unit: 500MB, 2GB")
    return size


def size(count: int) -> str:
    """Bytes for a person.

    >>> size(1_500_000_000)
    '1.5 GB'
    """
    unit = next((u for u, n in reversed(UNITS.items()) if count >= n), "B")
    return f"{count / UNITS[unit]:.3g} {unit}"
