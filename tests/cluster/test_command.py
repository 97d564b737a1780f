"""`lrtune search --cluster` ends with the answer of one process, whatever dies meanwhile."""

from pathlib import Path

from tests.cluster.commands import LOCKSTEP, done, same
from tests.cluster.rays import Rays, until


def test_a_search_in_lockstep_is_that_of_one_process(rays: Rays, alone: Path, tmp_path: Path):
    command = done(rays, LOCKSTEP, "--out", tmp_path / "run")
    same(tmp_path / "run", alone)
    assert command.events[-1]["event"] == "finished"  # nothing but events on stdout
    until(lambda: not rays.hosts)
