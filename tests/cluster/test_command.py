"""`lrtune search --cluster` ends with the answer of one process, whatever dies meanwhile."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

import lrtune
from tests.cluster.commands import LOCKSTEP, Command, done, same
from tests.cluster.rays import Rays, kill, until


@pytest.fixture
def own():
    """A cluster that may be harmed: a head, and two nodes with room for two hosts each."""
    with Rays() as cluster:
        cluster.head.wait()
        for node in [cluster.add(cpus=2) for _ in range(2)]:
            node.wait()
        yield cluster


def test_a_search_in_lockstep_is_that_of_one_process(rays: Rays, alone: Path, tmp_path: Path):
    command = done(rays, LOCKSTEP, "--out", tmp_path / "run")
    same(tmp_path / "run", alone)
    assert command.events[-1]["event"] == "finished"  # nothing but events on stdout
    until(lambda: not rays.hosts)


@pytest.mark.slow
def test_a_host_and_a_node_are_killed(own: Rays, alone: Path, tmp_path: Path):
    command = Command(own, LOCKSTEP, "--out", tmp_path / "run")
    command.until(2)
    kill(own.hosts[:1])
    command.until(5)
    own.nodes[1].kill()
    command.until(8)
    own.nodes[2].kill()  # none is left
    own.add(cpus=2).wait()
    assert command.end() == 0, command.text()
    same(tmp_path / "run", alone)
    assert sum(" lost at " in line for line in command.err) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["driver", "cluster"])
def test_the_same_command_after_its_end(own: Rays, alone: Path, tmp_path: Path, victim: str):
    for trainings in (0, 3, 6):
        command = Command(own, LOCKSTEP, "--out", tmp_path / "run")
        command.until(trainings)
        if victim == "driver":
            command.kill()
            until(lambda: not own.hosts)
            continue
        kill(own.left())  # the command too
        command.end()
        own.nodes.clear()
        own.start_head().wait()
        own.add(cpus=2).wait()
    done(own, LOCKSTEP, "--out", tmp_path / "run")
    same(tmp_path / "run", alone)


@pytest.mark.slow
def test_the_head_of_the_cluster_dies(own: Rays, alone: Path, tmp_path: Path):
    command = Command(own, LOCKSTEP, "--out", tmp_path / "run")
    command.until(3)
    own.head.kill()
    assert command.end(120) == 1
    until(lambda: not own.left(), 120, lambda: str(own.left()))
    own.start_head().wait()
    own.add(cpus=2).wait()
    done(own, LOCKSTEP, "--out", tmp_path / "run")
    same(tmp_path / "run", alone)


@pytest.mark.slow
def test_a_confirmation_over_hosts_that_is_killed_in_the_middle(
    own: Rays, alone: Path, tmp_path: Path
):
    one, many = tmp_path / "one", tmp_path / "many"
    for folder in (one, many):
        shutil.copytree(alone, folder)
    done(own, "confirm", one, "--budget", 8)
    confirm = [many, "--budget", 8, "--hosts", 2, "--lockstep", "--cluster", "auto"]
    command = Command(own, "confirm", *confirm)
    command.until(2)
    kill(own.hosts[:1])
    command.until(4)
    command.kill()
    done(own, "confirm", *confirm)
    ours, theirs = (lrtune.open(folder).finals().drop(columns="seconds") for folder in (many, one))
    assert len(ours) >= 8
    pd.testing.assert_frame_equal(ours, theirs)
