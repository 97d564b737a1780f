"""A run's files, damaged key by key and byte by byte; then commands look at them."""

import atexit
import contextlib
import io
import json
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from forks import HANG
from pyarrow.parquet import read_metadata

from lrtune.cli import commands

SEARCH = "search digits --batch-size 64 --epochs 2 --families cosine,constant --budget 14 --quiet"
LOOKS = ("show", "show --json", "report", "export", "export --to csv", "dashboard", "compare")
FILES = ("run.json", "best.json", "verdict.json", "finals.jsonl", "journal.log", "trials.parquet")
NASTY: tuple[Any, ...] = (
    *(None, True, -1, 0, 3, 0.5, 1e308, "", "x", "nan", "\udcff", "x" * 100_000),
    *([], [[]], [None], ["x", 1], {}, {"x": 1}, {"format": 1}),
)


class Hang(BaseException):
    """A command took too long."""


@contextlib.contextmanager
def no_hang(seconds: int = HANG) -> Iterator[None]:
    def late(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def command(
    line: str, *words: object, seconds: int = HANG, keep: list[str] | None = None
) -> tuple[str, str]:
    """How a command ends, and what is wrong with that; its output is added to ``keep``."""
    argv = ["lrtune", *line.split(), *map(str, words)]
    out = io.StringIO()
    try:
        with (
            mock.patch.object(sys, "argv", argv),
            mock.patch("lrtune.reports.dashboard._Server.serve_forever"),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(out),
            no_hang(seconds),
        ):
            commands.main()
    except SystemExit as ended:
        code = ended.code or 0
        return f"exit code {code}", "" if code in (0, 1, 2, 3) else f"exit code {code}: {argv}"
    except Hang:
        return "hang", f"hang: {argv}"
    except BaseException as error:
        *_, last = traceback.extract_tb(error.__traceback__)
        where = f"{Path(last.filename).name}:{last.lineno}"
        return "traceback", f"{type(error).__name__}: {str(error)[:200]} ({where}): {argv[1:]}"
    finally:
        if keep is not None:
            keep.append(out.getvalue())
    return "exit code 0", ""


@cache
def base() -> Path:
    """A run with a verdict."""
    folder = Path(tempfile.mkdtemp(prefix="lrtune-attack-")) / "run"
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    end, defect = command(SEARCH, "--out", folder, seconds=600)
    assert end == "exit code 0" and (folder / "verdict.json").exists(), (end, defect)
    return folder


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Bytes changed, lost, added or repeated."""
    at = rng.randrange(len(content) + 1)
    end = min(len(content), at + rng.choice([1, 1, 1, 8, 100, 5000]))
    return rng.choice(
        [
            lambda: content[:at],
            lambda: content[:at] + content[end:],
            lambda: content[:at] + rng.randbytes(end - at) + content[end:],
            lambda: content[:at] + bytes(end - at) + content[end:],
            lambda: content[:at] + b"\xff" + content[at:],
            lambda: content[:end] + content[at:],
            lambda: b"",
        ]
    )()


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a document with each of its keys."""
    pairs = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(pairs):
        yield document, key
        if isinstance(value, dict | list):
            yield from places(value)


def changed(text: str, rng: random.Random) -> bytes:
    """A JSON document with a key lost, or with another value."""
    document = json.loads(text)
    place, key = rng.choice([*places(document)])
    if rng.random() < 0.3:
        del place[key]
    else:
        place[key] = rng.choice(NASTY)
    found = json.dumps(document)
    if rng.random() < 0.1:
        found = found.replace("1", rng.choice(["9" * 5000, "[" * 5000, "1e999", "NaN"]), 1)
    return found.encode("utf-8", "surrogateescape")


def damaged(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    if path.suffix == ".parquet" or rng.random() < 0.4:
        path.write_bytes(mutated(content, rng))
    elif path.suffix == ".json":
        path.write_bytes(changed(content.decode(), rng))
    else:
        lines = content.splitlines(keepends=True)
        number = rng.randrange(len(lines))
        lines[number] = changed(lines[number].decode(), rng) + b"\n"
        path.write_bytes(b"".join(lines))


def damaged_run(rng: random.Random) -> tuple[str, str]:
    """A file of a run is damaged; a command looks at the run, and must leave what there was."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(base(), Path(place, "run")))
        name, line = rng.choice(FILES), rng.choice(LOOKS)
        damaged(folder / name, rng)
        journal = (folder / "journal.log").read_bytes()
        whole = read_metadata(base() / "trials.parquet").num_rows
        target = folder / rng.choice(["", "best.json"]) if line.startswith("export") else folder
        end, defect = command(line, target)
        if not (folder / "journal.log").read_bytes().startswith(journal):
            defect = f"{line} took something from the journal"
        if name != "trials.parquet" and read_metadata(folder / "trials.parquet").num_rows < whole:
            defect = f"{line} took trials from trials.parquet"
    return end, defect and f"{name}: {defect}"


ATTACKS: dict[str, Callable[[random.Random], tuple[str, str]]] = {"damaged runs": damaged_run}
