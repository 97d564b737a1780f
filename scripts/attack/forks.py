"""Commands of lrtune in forks of this process, which has imported all that they need."""

import contextlib
import gc
import importlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from lrtune.cli import commands

HANG = 30  # seconds
TASK = "search digits --batch-size 64 --epochs 1 --families cosine,constant --quiet"


def nothing() -> None:
    """Before a command that is left alone."""


def forked(words: list[str], before: Callable[[], None] = nothing, seconds: float = 600) -> str:
    """Run a command in a fork: its output, and on the last line how it ended.

    That is "exit code N", the name of a signal, or "hang" after so many seconds.
    """
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            _run(words, before, output.fileno())
        end = _end(child, seconds)
        output.seek(0)
        return f"{output.read().decode(errors='replace')}\n{end}"


def _run(words: list[str], before: Callable[[], None], output: int) -> None:
    code = 70
    try:
        os.setpgid(0, 0)
        for stream in (1, 2):
            os.dup2(output, stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", closefd=False) for stream in (1, 2))
        sys.argv = ["lrtune", *words]
        before()
        commands.main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _end(child: int, seconds: float) -> str:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hang"


@cache
def warm() -> None:
    """Import what a search imports on its way; in a fork, so that torch starts no threads here."""
    with tempfile.TemporaryDirectory() as place:
        names = Path(place, "modules")

        def listed() -> None:
            end = sys.exit
            sys.exit = lambda code: (names.write_text("\n".join(sys.modules)), end(code))

        words = [*TASK.split(), "--budget", "10", "--engine", "fused", "--slots", "3"]
        said = forked([*words, "--out", f"{place}/run"], listed)
        assert said.endswith("exit code 0"), said
        for name in names.read_text().split("\n"):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    gc.collect()
    gc.freeze()
