"""Ctrl-C while a search runs: heard while trials train, held back while results are stored."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupts:
    """Inside ``with``, SIGINT and SIGTERM raise KeyboardInterrupt within ``heard()`` alone."""

    def __init__(self) -> None:
        self._open = False
        self._pending = False
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}
        self._process = os.getpid()

    def __enter__(self) -> "Interrupts":
        # Only the main thread may set handlers; elsewhere (a notebook's worker) all stays as it is.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.getsignal(number)
                # Ignored by a shell's `&` or nohup, it is meant to be; None is C code's, which
                # nobody could put back.
                if before not in (signal.SIG_IGN, None):
                    self._before[number] = before
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Where the work may be cut short at any point."""
        if self._pending:
            raise KeyboardInterrupt
        self._open = True
        try:
            yield
        finally:
            self._open = False

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A worker that reads data has this handler too. The terminal's Ctrl-C is not for it:
            # it ends with us, and by SIGTERM.
            if number == signal.SIGTERM:
                os._exit(0)
            return
        self._pending = True
        if self._open:
            raise KeyboardInterrupt
