"""The C library's allocator, told to keep what it has."""

import ctypes
import sys
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


@cache
def keep_memory() -> None:
    """Let freed memory stay with this process, for as long as it runs.

    By default glibc gives large blocks back at once, and a training step asks for the same ones
    again and again: each time the kernel must fill them with zeros. Without glibc, nothing is done.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # musl
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
