"""A pool over hosts of a cluster: what one pool gives, whichever of its processes are killed."""

import threading
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
from lrtune.errors import InputError
from lrtune.tasks import Task, load_task
from tests.cluster.counted import Counted
from tests.cluster.rays import Rays, kill, lives, until
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


@pytest.fixture
def machine(connected: Rays):
    """One more node, with room for one host of two CPUs; the others have room for one each."""
    node = connected.add(cpus=2).wait()
    yield node
    node.kill()


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
    assert there.pool.losses == []


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["start", "snapshot", "restore", "segment"])
def test_a_host_is_killed_whenever(spread: Opened, expected, moment):
    with spread() as there:
        told = a_search(there.pool, lambda now: now == moment and kill(there.rays.hosts[:1]))
        assert told == expected
        assert there.pool.losses


@pytest.mark.slow
def test_the_next_host_is_killed_while_it_catches_up(spread: Opened, expected):
    threads, segments = [], []

    def trouble(moment):
        segments.extend([moment] * (moment == "segment"))
        if moment == "segment" and len(segments) == 3:
            known = {host.pid for host in there.rays.hosts}
            kill(there.rays.hosts[:1])
            threads.append(threading.Thread(target=next_one, args=(known,)))
            threads[0].start()

    def next_one(known):
        kill(until(lambda: [host for host in there.rays.hosts if host.pid not in known]))

    with spread() as there:
        assert a_search(there.pool, trouble) == expected
        threads[0].join()
        assert len(there.pool.losses) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("raylet", [True, False])
def test_a_machine_is_lost_and_its_trials_go_on_in_the_others(
    spread: Opened, expected, machine, raylet
):
    """No other has room for a host of its own."""
    killed = []

    def trouble(moment):
        if moment == "segment" and not killed:
            (host,) = machine.hosts
            killed.append(host)
            kill([machine.raylet] if raylet else machine.processes)
            until(lambda: not lives(host))  # Ray ends it a little after its raylet

    with spread(hosts=3, num_cpus=2) as there:
        assert a_search(there.pool, trouble) == expected
        assert any("trains for the lost one too" in line for line in there.told), there.told


@pytest.mark.slow
def test_of_a_machine_that_leaves_at_most_a_segment_is_trained_again(
    spread: Opened, task: Task, machine, tmp_path: Path
):
    count = str(tmp_path / "count")
    with spread(hosts=3, num_cpus=2, task=replace(task, model=lambda: Counted(count))) as there:
        for slot in range(3):
            there.pool.start(slot, RATES, seed=slot)
        there.pool.advance()
        machine.process.terminate()
        until(lambda: any(part.worker.leaving for part in there.pool._parts))
        told = [progress for _ in range(3) for progress in there.pool.advance()]
        assert any("is leaving" in line for line in there.told)
        assert {progress.update for progress in told[-3:]} == {12}
    machine.process.wait(30)
    assert 36 <= (tmp_path / "count").stat().st_size <= 36 + 3


@pytest.mark.slow
def test_a_machine_that_joins_later_is_used(spread: Opened, expected, connected: Rays, machine):
    machine.kill()
    with spread(hosts=3, num_cpus=2) as there:
        for slot in range(3):  # all three, by two hosts
            there.pool.start(slot, RATES, seed=1)
        there.pool.advance()
        new = connected.add(cpus=2).wait()
        until(lambda: new.hosts)
        for slot in range(3):
            there.pool.release(slot)
        assert a_search(there.pool) == expected
        new.kill()


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


def test_a_cluster_that_asks_for_a_token_says_so(tmp_path: Path, monkeypatch):
    def refuses(**_: object) -> None:
        cause = RuntimeError("Failed to connect to GCS.\nRPC error: InvalidAuthToken: missing")
        raise ConnectionError("Failed to connect to Ray cluster") from cause

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", refuses)
    with pytest.raises(InputError, match=r"Failed to connect .*: it asks for a token: export RAY_"):
        place_of(Engine(cluster="auto"), print, tmp_path, lambda room: (room, ""))


def test_an_address_where_nobody_answers_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # this process may be connected
    with pytest.raises(InputError, match=r"cluster 127.0.0.1:1: .*ray start --head"):
        place_of(Engine(cluster="127.0.0.1:1"), print, tmp_path, lambda room: (room, ""))
