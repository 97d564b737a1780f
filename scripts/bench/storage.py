"""What the storage costs a search, by how many trials run at once: asking, reporting, telling.

Run: python scripts/bench/storage.py [--running 8 32 128] [--storages journal sqlite postgresql]
Prints CPU milliseconds a trial: of the search's process, less those of the same search in memory,
and of PostgreSQL's own. Trials are drawn at random, and none is pruned: little else is
measured.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from overhead import REPORTS, IdlePool, idle_task
from postgres import server

from lrtune.search import Limits, Loop, Search, SearchState, Space, SurrogateSampler
from lrtune.search.space import FAMILY, from_unit
from lrtune.search.study import take

SPACE = Space(("cosine", "constant"), (1e-3, 0.5))
TICK = os.sysconf("SC_CLK_TCK")


class Drawn(SurrogateSampler):
    """Draws any schedule, which costs nothing."""

    def draw(
        self, study: optuna.Study, index: int, family: str | None = None, asked: int | None = None
    ) -> tuple[dict[str, object], dict[str, BaseDistribution]]:
        rng = np.random.default_rng(index)
        family = SPACE.families[index % 2]
        own = SPACE.distributions(family)
        params = {FAMILY: family, **{n: from_unit(d, rng.random()) for n, d in own.items()}}
        return params, {FAMILY: CategoricalDistribution(SPACE.families), **own}


@contextmanager
def place(storage: str, folder: Path) -> Iterator[tuple[str | Path | None, Path]]:
    """A storage that is empty, and the file with its server's process id, if there is one."""
    if storage == "postgresql":
        with server(folder / "server") as (url, control):
            yield url, Path(control[control.index("-D") + 1], "postmaster.pid")
    elif storage == "sqlite":
        yield f"sqlite:///{folder}/study.db", folder / "none"
    else:
        yield folder / "journal.log" if storage == "journal" else None, folder / "none"


def seconds_of(pid_file: Path) -> float:
    """CPU of a server and of its processes, those that are over too."""
    if not pid_file.exists():
        return 0.0
    own = pid_file.read_text().split()[0]
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        fields = path.read_text().rpartition(")")[2].split()
        if path.parent.name == own:
            ticks += sum(map(int, fields[11:15]))  # its own and its children's that are over
        elif fields[1] == own:
            ticks += sum(map(int, fields[11:13]))
    return ticks / TICK


def cost(storage: str, running: int, trials: int) -> tuple[float, float]:
    """CPU milliseconds a trial, of the search and of the server."""
    with tempfile.TemporaryDirectory() as name, place(storage, Path(name)) as (where, pid_file):
        sampler, pruner = Drawn(SPACE, idle_task().horizon), optuna.pruners.NopPruner()
        if where is None:
            study = optuna.create_study(sampler=sampler, pruner=pruner)
        else:
            study = take(where, "idle", "me", "minimize").study(sampler=sampler, pruner=pruner)
        pool = IdlePool(idle_task(), running)
        search = Search(study, SPACE, pool, SearchState(Limits(trials=trials)), owner="me")
        began = time.process_time(), seconds_of(pid_file)
        Loop(pool, [search]).run()
        ended = time.process_time(), seconds_of(pid_file)
        assert len(study.get_trials(deepcopy=False)) == trials
    client, own = (
        1000 * (after - before) / trials for before, after in zip(began, ended, strict=True)
    )
    return client, own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--running", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--storages", nargs="+", default=["journal", "sqlite", "postgresql"])
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for running in arguments.running:
        trials = 2 * running
        memory, _ = cost("memory", running, trials)
        for storage in arguments.storages:
            client, own = cost(storage, running, trials)
            print(
                f"{storage:10} {running:4} running, {trials:4} trials: {client - memory:7.1f} ms a "
                f"trial, server {own:6.1f} ms (in memory {memory:.1f})",
                flush=True,
            )
    print(f"{REPORTS} reports a trial, Optuna {optuna.__version__}")


if __name__ == "__main__":
    main()
