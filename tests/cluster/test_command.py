"""`lrtune search --cluster` ends with the answer of one process, whatever dies meanwhile."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

import lrtune
from tests.cluster.commands import LOCKSTEP, Command, done, same
from tests.cluster.rays import Rays, kill, lives, until


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
        own.kill()  # the command too
        command.end()
        own.start_head().wait()
        own.add(cpus=2).wait()
    done(own, LOCKSTEP, "--out", tmp_path / "run")
    same(tmp_path / "run", alone)


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False])  # or its server alone, and not this machine's Ray
def test_the_head_of_the_cluster_dies(own: Rays, alone: Path, tmp_path: Path, whole: bool):
    command = Command(own, LOCKSTEP, "--out", tmp_path / "run")
    command.until(3)
    hosts = own.hosts
    for host in hosts:  # else they may come to the end without it
        host.suspend()
    kill([one for one in own.head.processes if whole or one.name() == "gcs_server"])
    assert command.end(120) == 1
    told = "".join(command.err)
    # Where Ray on its own machine is gone, Ray ends a driver, sometimes before it can say why.
    assert whole or "does not answer any more: nothing that was stored is lost" in told, told
    assert "Traceback" not in told
    for host in filter(lives, hosts):
        host.resume()
    until(lambda: not own.hosts, 120, lambda: str(own.hosts))
    own.kill()
    own.start_head().wait()
    own.add(cpus=2).wait()
    done(own, LOCKSTEP, "--out", tmp_path / "run")
    same(tmp_path / "run", alone)


@pytest.mark.slow
def test_a_confirmation_over_hosts_and_one_that_is_killed_in_the_middle(
    own: Rays, alone: Path, tmp_path: Path
):
    one, many, killed = tmp_path / "one", tmp_path / "many", tmp_path / "killed"
    for folder in (one, many, killed):
        shutil.copytree(alone, folder)
    done(None, "confirm --budget 8", one)
    over = "confirm --budget 8 --hosts 2 --slots 4 --lockstep --cluster auto"
    done(own, over, many)
    expected = finals(one)
    pd.testing.assert_frame_equal(finals(many), expected)
    command = Command(own, over, killed)
    command.until(2)
    kill(own.hosts[:1])
    command.until(4)
    command.kill()
    done(own, over, killed)  # adds as many as were asked for
    there = finals(killed)
    assert len(there) > len(expected) and not there.index.has_duplicates
    pd.testing.assert_frame_equal(there.loc[expected.index], expected)


def finals(folder: Path) -> pd.DataFrame:
    """Of a confirmation, what does not depend on time and place, by what was trained."""
    found = lrtune.open(folder).finals().drop(columns=["seconds", "hosts"])
    return found.set_index(["schedule", "seed"])
