"""A search whose PostgreSQL is stopped, or whose connections are ended, again and again."""

import atexit
import os
import random
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import idle
from kills import TRIALS, compared, drawn

from lrtune.engine import Progress
from lrtune.search import load_study, records

MOST = 6  # outages of one search
BIN = Path("/usr/lib/postgresql/15/bin")
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": False}


@dataclass(frozen=True)
class Server:
    """A PostgreSQL of our own on loopback."""

    run_as: list[str]
    folder: Path
    port: int

    def control(self, *words: str) -> None:
        """Start it or stop it."""
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        command = [str(BIN / "pg_ctl"), "-D", str(self.folder), "-w", "-l", f"{self.folder}/log"]
        subprocess.run([*self.run_as, *command, "-o", options, *words], **QUIET)

    def ask(self, statement: str) -> None:
        """Run a statement as its superuser."""
        words = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "me", "-d", "postgres"]
        subprocess.run(["psql", *words, "-c", statement], **QUIET)

    def url(self, database: str) -> str:
        """Of a database of ours, with a password that the server does not ask for."""
        return f"postgresql+psycopg2://me:secret@127.0.0.1:{self.port}/{database}"

    def end(self) -> None:
        """Stop it and remove all."""
        self.control("stop", "-m", "immediate")
        shutil.rmtree(self.folder, ignore_errors=True)


@cache
def server() -> Server | None:
    """The server of this process; None where there is no PostgreSQL 15."""
    if not BIN.exists():
        return None
    folder = Path(tempfile.mkdtemp(prefix="lrtune-postgres-", dir="/tmp"))
    run_as = []
    if os.getuid() == 0:  # as whom it does not start
        shutil.chown(folder, "postgres")
        path = "/usr/sbin:/sbin:/usr/bin:/bin"
        run_as = [str(shutil.which("runuser", path=path)), "-u", "postgres", "--"]
    made = Server(run_as, folder, 20000 + os.getpid() % 20000)
    init = [str(BIN / "initdb"), "-D", str(folder), "-U", "me", "--auth=trust"]
    subprocess.run([*run_as, *init], **QUIET)
    made.control("start")
    atexit.register(made.end)
    return made


@contextmanager
def disturbed(
    server: Server, rng: random.Random, seen: list[str], began: threading.Event
) -> Iterator[None]:
    """Once it has begun, somebody stops the server or ends its connections, again and again."""
    over = threading.Event()

    def disturb() -> None:
        began.wait()  # a server that is away at first is the user's mistake
        while not seen or (len(seen) < MOST and not over.wait(rng.uniform(0.05, 1.5))):
            kind = rng.choice(["connections ended", "stopped", "stopped at once", "restarted"])
            seen.append(kind)
            if kind == "connections ended":
                server.ask(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
                )
                continue
            server.control("stop", "-m", "immediate" if kind == "stopped at once" else "fast")
            if kind != "restarted":
                over.wait(rng.uniform(0, 2))
            server.control("start")

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield
    finally:
        over.set()
        began.set()
        thread.join()


class Training(idle.NoisyPool):
    """Says when it trains."""

    began: threading.Event

    def collect(self, group: int) -> list[Progress]:
        self.began.set()
        return super().collect(group)


def outages(rng: random.Random) -> tuple[list[str], str]:
    """A search in a server that goes away."""
    if (postgres := server()) is None:
        return ["no PostgreSQL 15 here"], ""
    slots, groups, _ = drawn(rng)
    name, seen = f"attack{rng.getrandbits(60)}", list[str]()
    postgres.ask(f"CREATE DATABASE {name}")
    with tempfile.TemporaryDirectory() as place:
        idle.study_in(Path(place), storage=postgres.url(name))
        pool = Training(slots, groups)
        pool.began = threading.Event()
        with disturbed(postgres, rng, seen, pool.began):
            how = {"stopping": idle.EVERYTHING, "storage": postgres.url(name)}
            idle.pruned_in(Path(place), pool, TRIALS, **how)
        found = records(load_study(postgres.url(name), "s"))
    return seen, compared(found, slots, groups)


ATTACKS: dict[str, Callable[[random.Random], tuple[str | list[str], str]]] = {
    "PostgreSQL away": outages,
}
