"""Hosts that cannot be reached for a time, or not any more; machines in network namespaces."""

import time

import pytest

from tests.cluster.commands import LOCKSTEP, Command, same
from tests.cluster.rays import Network, Node, Rays, can_make_networks, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_make_networks(), reason="needs root, with network namespaces"),
]


@pytest.fixture(scope="module")
def network():
    with Network(3) as made:
        yield made


@pytest.fixture
def far(network):
    """A head here, and a node on each of two machines."""
    with Rays(network.ip) as cluster:
        cluster.head.wait()
        nodes = [join(cluster, network, machine) for machine in (0, 1)]
        for node in nodes:
            node.wait()
        yield cluster
    for machine in range(3):
        network.mend(machine)


def join(cluster: Rays, network: Network, machine: int) -> Node:
    return cluster.add(ip=network.ip_of(machine), inside=network.inside(machine))


def losses(command: Command) -> list[str]:
    return [line for line in command.err if " lost at " in line]


def test_a_link_that_is_down_for_ten_seconds_costs_no_host(far, network, alone, tmp_path):
    command = Command(far, LOCKSTEP, "--out", tmp_path / "run")
    command.until(2)
    network.cut(0)
    time.sleep(10)
    network.mend(0)
    assert command.end() == 0, command.text()
    assert losses(command) == []
    same(tmp_path / "run", alone)


@pytest.mark.parametrize("fault", ["cut", "gag"])
def test_a_host_that_is_not_heard_any_more_is_replaced(far, network, alone, tmp_path, fault):
    """Its frames are lost, or both directions', and another machine joins."""
    third = join(far, network, 2).wait()
    command = Command(far, LOCKSTEP, "--out", tmp_path / "run")
    command.until(2)
    cut_off = next(node for node in far.nodes if node is not third and node.hosts)
    machine = far.nodes.index(cut_off) - 1
    getattr(network, fault)(machine)
    until(lambda: losses(command), 120, command.text)
    assert command.end() == 0, command.text()
    assert len(losses(command)) == 1
    same(tmp_path / "run", alone)
    network.mend(machine)
    until(lambda: not cut_off.hosts, 120)  # its machine is told that it was given up


def test_a_link_with_a_delay_of_fifty_milliseconds(alone, tmp_path):
    with Network(2, delay=0.05) as network, Rays(network.ip) as cluster:
        cluster.head.wait()
        for machine in (0, 1):
            join(cluster, network, machine).wait()
        command = Command(cluster, LOCKSTEP, "--out", tmp_path / "run")
        assert command.end() == 0, command.text()
    assert losses(command) == []
    same(tmp_path / "run", alone)
