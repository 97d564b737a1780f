"""A pool over hosts of a cluster: what one pool gives, whichever of its processes are killed."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrtune.engine import FusedPool, SerialPool
from lrtune.engine.choose import Choice
from lrtune.engine.cluster import RemoteHost
from lrtune.engine.devices import Engine
from lrtune.engine.place import place_of
from lrtune.engine.spread import SpreadPool
from lrtune.tasks import Task, load_task
from tests.cluster.rays import Rays, kill, until
from tests.engine import trials

RATES = np.linspace(0.1, 0.01, 12)
STATE = 10_000  # bytes, fewer than those of the model


@pytest.fixture(scope="module")
def task():
    """12 updates in four segments; the model is a lambda of this file, which hosts lack."""
    model = lambda: trials.mlp()  # noqa: E731
    task = load_task("digits", batch_size=32, epochs=12 * 32 / 1149)
    return replace(task, model=model, optimizer="adam", settings={}, validations=4)


class Spread:
    """A pool over hosts, and what it has told."""

    def __init__(self, rays: Rays, pool: SpreadPool, told: list[str]) -> None:
        self.rays, self.pool, self.told = rays, pool, told


Opened = Callable[..., Any]


@pytest.fixture
def spread(connected: Rays, task, tmp_path: Path) -> Opened:
    @contextmanager
    def opened(
        slots: int = 3, name: str = "serial", task: Task = task, **wishes: Any
    ) -> Iterator[Spread]:
        told: list[str] = []

        def tell(line: str) -> None:
            told.append(line)
            print(time.strftime("%H:%M:%S"), line)  # to be read where a test fails

        engine = Engine(cluster=connected.address, slots=slots, **{"hosts": 2, **wishes})
        with place_of(engine, tell, tmp_path / "states", slots) as place:
            yield Spread(connected, place.pool(task, Choice(name, slots, threads=1)), told)
        until(lambda: not connected.hosts)

    return opened


def numbers(progress):
    return [progress.slot, *trials.numbers(progress)]


def a_search(pool, trouble=lambda moment: None):
    """Trials that come, go, change and move, in numbers; trouble comes before some moments."""
    told = []
    for slot in (2, 0, 1):
        trouble("start")
        told.append(pool.start(slot, RATES * (slot + 1), seed=slot % 2))
    trouble("segment")
    told += pool.advance()
    pool.revise(2, np.append(RATES[:3], RATES[3:] / 2))  # as a closed loop does
    pool.release(1)
    trouble("segment")
    told += pool.advance()
    trouble("snapshot")
    moved = pool.snapshot(0)
    trouble("restore")
    pool.restore(1, replace(moved, rates=np.append(RATES[:6], RATES[6:] * 2)))
    trouble("segment")
    told += pool.advance()
    pool.release(0)
    pool.restore(0, replace(pool.snapshot(2), rates=np.append(RATES[:3], RATES[3:] / 2)))
    trouble("segment")
    told += pool.advance()
    return [numbers(progress) for progress in told]


@pytest.fixture(scope="module")
def expected(task):
    return a_search(SerialPool(task, 3))


@pytest.mark.parametrize(
    ("name", "lockstep"), [("serial", True), ("fused", True), ("serial", False)]
)
def test_the_same_as_one_pool(spread: Opened, task: Task, name: str, lockstep: bool):
    kind = {"serial": SerialPool, "fused": FusedPool}[name]
    with spread(4, name, lockstep=lockstep) as there:
        assert a_search(there.pool) == a_search(kind(task, 4))
    assert there.told == []


def test_both_hosts_are_killed_at_once_and_then_one_in_a_segment(spread: Opened, expected):
    segments = []

    def trouble(moment):
        segments.extend([moment] * (moment == "segment"))
        if moment == "segment" and len(segments) < 3:
            kill(there.rays.hosts[: 3 - len(segments)])

    with spread() as there:
        assert a_search(there.pool, trouble) == expected
        assert len(there.pool.losses) == 3
        assert " lost at " in there.told[0]


def test_no_state_passes_through_here_where_hosts_see_the_folder(
    spread: Opened, monkeypatch: pytest.MonkeyPatch
):
    sizes, send = [], RemoteHost.send
    arrived = RemoteHost._answer

    def counted(host, request):
        sizes.append(len(request) if isinstance(request, bytes) else 0)
        return send(host, request)

    def counted_back(host, answer, packed):
        sizes.append(len(packed.result()))
        arrived(host, answer, packed)

    with spread() as there:
        for slot in range(3):
            there.pool.start(slot, RATES, seed=slot)
        monkeypatch.setattr(RemoteHost, "send", counted)
        monkeypatch.setattr(RemoteHost, "_answer", counted_back)
        for _ in range(3):
            there.pool.advance()
            snapshots = [there.pool.snapshot(slot) for slot in range(3)]
        there.pool.release(0)
        there.pool.restore(0, snapshots[2])
        assert len(sizes) > 20
        assert max(sizes) < STATE
        assert there.pool.advance()[0].update == 12
        there.pool.release(1)
        there.pool.start(1, RATES, seed=0)
        there.pool.launch(0)
    # Hosts end with their pool, in a segment too: see ``spread``.
