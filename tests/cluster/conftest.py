"""Fixtures: one cluster for what harms none of its nodes, and what is left of it at the end."""

import logging
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cluster.commands import SEARCH, course, done
from tests.cluster.rays import Rays

collect_ignore_glob = [] if find_spec("ray") else ["test_*.py"]


@pytest.fixture(scope="session")
def rays() -> Iterator[Rays]:
    """Two nodes with room for two hosts each; nothing of it is left in the end."""
    with Rays(cpus=2) as cluster:
        cluster.head.wait()
        cluster.add(cpus=2).wait()
        yield cluster
    assert cluster.left() == []


@pytest.fixture(scope="session")
def connected(rays: Rays) -> Iterator[Rays]:
    """This process is a driver."""
    import ray

    ray.init(rays.address, log_to_driver=False, logging_level=logging.ERROR, namespace="lrtune")
    yield rays
    ray.shutdown()


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search in one process; trials end in several ways."""
    out = tmp_path_factory.mktemp("alone") / "run"
    done(None, SEARCH, "--out", out)
    assert {*course(out).state} > {"complete"}
    return out
