"""A PostgreSQL of our own on loopback, for benchmarks and tests."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BIN = Path("/usr/lib/postgresql/15/bin")  # Debian's


@contextmanager
def server(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """As long as it is used: its URL, and the command that controls it."""
    port = 20000 + os.getpid() % 20000
    run_as = shutil.which("runuser", path="/usr/sbin:/sbin:/usr/bin:/bin")
    as_user = [str(run_as), "-u", "postgres", "--"] if os.getuid() == 0 else []
    if as_user:
        folder = Path("/tmp") / f"lrtune-postgres-{os.getpid()}"  # where another user may go
        folder.mkdir(mode=0o700)
        shutil.chown(folder, "postgres")
    control = [*as_user, str(BIN / "pg_ctl"), "-D", str(folder), "-w", "-l", f"{folder}/log"]
    control += ["-o", f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"]
    init = [*as_user, str(BIN / "initdb"), "-D", str(folder), "-U", "me", "--auth=trust"]
    subprocess.run(init, check=True, capture_output=True)
    subprocess.run([*control, "start"], check=True, stdout=subprocess.DEVNULL)
    try:
        yield f"postgresql+psycopg2://me:secret@127.0.0.1:{port}/postgres", control
    finally:
        stop = [*control, "stop", "-m", "immediate"]
        subprocess.run(stop, check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(folder)
