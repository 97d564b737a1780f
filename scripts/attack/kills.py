"""Searches that die on the way: killed, on a full disk, with their database locked by others."""

import os
import random
import resource
import signal
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

import idle
from damage import mutated

from lrtune.search import Record, load_study, records
from lrtune.search.journal import mend

TRIALS = 12  # of a search
KILLS = 20  # of one search, at most


@cache
def expected(slots: int, groups: int) -> list[Record]:
    """The unbroken search."""
    with tempfile.TemporaryDirectory() as folder:
        pool = idle.NoisyPool(slots, groups)
        return idle.pruned_in(Path(folder), pool, TRIALS, stopping=idle.EVERYTHING)


def compared(found: list[Record], slots: int, groups: int) -> str:
    """What is wrong; nothing where it is as if nothing had happened."""
    numbers = [record.number for record in found]
    if len(set(numbers)) < len(numbers):
        return f"a trial is there twice: {numbers}"
    if len(numbers) != len(expected(slots, groups)):
        return f"{len(numbers)} trials of {len(expected(slots, groups))}"
    tables = [idle.frame(one)[idle.SAME] for one in (found, expected(slots, groups))]
    return "" if tables[0].equals(tables[1]) else "another result"


def drawn(rng: random.Random) -> tuple[int, int, bool]:
    """Slots, groups of them, and whether there are checkpoints."""
    slots = rng.randint(1, 5)
    return slots, rng.randint(1, min(2, slots)), rng.random() < 0.5


def killed(rng: random.Random) -> tuple[list[str], str]:
    """Killed a few times at a random entry of the journal, or while a checkpoint is written."""
    slots, groups, checkpoint = drawn(rng)
    ends = list[str]()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for _ in range(KILLS):
            at = rng.choice(["entry", "entry", "checkpoint"]) if checkpoint else "entry"
            count = rng.randint(1, 4 if at == "checkpoint" else 25)
            by = rng.choice(["SIGKILL", "SIGKILL", "SIGTERM"])
            if not dies(folder, idle.NoisyPool(slots, groups), by, count, at, checkpoint):
                break
            ends.append(f"{by} at {'an' if at == 'entry' else 'a'} {at}")
            if (folder / "journal.log").exists():
                mend(folder / "journal.log", stale_seconds=0)
        how = {"stopping": idle.EVERYTHING, "checkpoint": checkpoint}
        found = idle.pruned_in(folder, idle.NoisyPool(slots, groups), TRIALS, **how)
    return ends, compared(found, slots, groups)


def dies(folder: Path, *how: object) -> bool:
    """As ``idle.killed`` has it; whether the search was killed before it was over."""
    try:
        idle.killed(folder, *how, trials=TRIALS)
    except AssertionError:
        return False
    return True


def damaged_checkpoint(rng: random.Random) -> tuple[str, str]:
    """Killed, and a byte or more of the checkpoint are others: what it held starts from scratch."""
    slots, groups, _ = drawn(rng)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        dies(folder, idle.NoisyPool(slots, groups), "SIGKILL", rng.randint(20, 100), "entry", True)
        mend(folder / "journal.log", stale_seconds=0)
        path = folder / idle.CHECKPOINT
        if kept := path.exists():
            path.write_bytes(mutated(path.read_bytes(), rng))
        how = {"stopping": idle.EVERYTHING, "checkpoint": True}
        found = idle.pruned_in(folder, idle.NoisyPool(slots, groups), TRIALS, **how)
    return "damaged" if kept else "no checkpoint yet", compared(found, slots, groups)


def full_disk(rng: random.Random) -> tuple[str, str]:
    """No file may grow beyond a random size, as on a full disk; then there is room again."""
    slots, groups, checkpoint = drawn(rng)
    how = {"stopping": idle.EVERYTHING, "checkpoint": checkpoint}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (rng.randint(1, 50_000),) * 2)
            try:
                idle.pruned_in(folder, idle.NoisyPool(slots, groups), TRIALS, **how)
            except OSError:
                os._exit(1)
            finally:
                os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if (folder / "journal.log").exists() and (folder / "journal.log").stat().st_size:
            try:
                mend(folder / "journal.log", stale_seconds=0)
            except ValueError:  # not a line of it was written
                (folder / "journal.log").unlink()
        found = idle.pruned_in(folder, idle.NoisyPool(slots, groups), TRIALS, **how)
    return "full" if code else "room enough", compared(found, slots, groups)


@contextmanager
def locked_now_and_then(database: Path, rng: random.Random) -> Iterator[None]:
    """Another program has the database for itself, again and again."""
    over = threading.Event()

    def lock() -> None:
        with closing(sqlite3.connect(database, timeout=60)) as other:
            while not over.wait(rng.random()):
                other.execute("BEGIN EXCLUSIVE")
                over.wait(rng.random() / 4)
                other.rollback()

    thread = threading.Thread(target=lock)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def locked_database(rng: random.Random) -> tuple[str, str]:
    """A search in SQLite that others lock for longer than SQLite waits."""
    slots, groups, _ = drawn(rng)
    with tempfile.TemporaryDirectory() as place:
        url = f"sqlite:///{place}/study.db?timeout=0.05"
        idle.study_in(Path(place), storage=url)
        with locked_now_and_then(Path(place, "study.db"), rng):
            pool = idle.NoisyPool(slots, groups)
            idle.pruned_in(Path(place), pool, TRIALS, stopping=idle.EVERYTHING, storage=url)
        found = records(load_study(url, "s"))
    return "locked", compared(found, slots, groups)


ATTACKS: dict[str, Callable[[random.Random], tuple[str | list[str], str]]] = {
    "killed searches": killed,
    "damaged checkpoints": damaged_checkpoint,
    "full disks": full_disk,
    "locked databases": locked_database,
}
