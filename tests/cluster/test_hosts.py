"""Hosts that are slow, leave, lack files, or are of another kind."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lrtune
from lrtune.engine import SerialPool
from tests.cluster import counted, streamed
from tests.cluster.commands import Command, done, same
from tests.cluster.rays import Rays, can_make_networks, kill, until

pytestmark = pytest.mark.slow
OPTIONS = "--trials 12 --no-confirm --no-transfer --families cosine,constant --peak-lr 0.01,1 "
OPTIONS += "--engine serial --slots 2"
# Of an interpreter that Ray starts for a worker: as if another version were installed there.
OTHER = """
import sys
if any("default_worker" in word for word in sys.orig_argv):
    import numpy
    numpy.__version__ = "2.0.9"
"""

needs_root = pytest.mark.skipif(not can_make_networks(), reason="needs root, with namespaces")


def without(folder: Path) -> list[str]:
    """Runs a command for which a folder is empty."""
    return ["unshare", "-m", "sh", "-c", f'mount -t tmpfs none {folder} && exec "$0" "$@"']


@pytest.fixture
def count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LRTUNE_TEST_COUNT", str(tmp_path / "count"))
    (tmp_path / "count").touch()
    return tmp_path / "count"


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    """A user's task, in a folder of its own."""
    (tmp_path / "own").mkdir()
    return Path(shutil.copy(counted.__file__, tmp_path / "own" / "mine.py"))


@pytest.fixture
def streamed_file(tmp_path: Path) -> Path:
    """Another user's."""
    return Path(shutil.copy(streamed.__file__, tmp_path / "theirs.py"))


def test_who_is_ready_is_served_and_each_training_is_that_of_one_alone(count, task_file, tmp_path):
    """With a host that is far slower than the other."""
    with Rays(LRTUNE_TEST_COUNT=str(count)) as cluster:
        cluster.head.wait()
        for pause in ("0.02", "0.2"):
            cluster.add(cpus=1, LRTUNE_TEST_SLOW=pause).wait()
        search = f"search {task_file}:make {OPTIONS} --trials 30 --hosts 2 --cluster auto"
        done(cluster, search, "--out", tmp_path / "run")
    trials = lrtune.open(tmp_path / "run").trials()
    assert list(trials.number) == list(range(30))
    task = counted.make()
    for _, trial in trials.iterrows():
        pool = SerialPool(task)
        schedule = lrtune.Schedule.from_json(trial.schedule)
        pool.start(0, schedule.rates(task.horizon), trial.seed)
        losses = [pool.advance()[0].loss for _ in trial.step]
        np.testing.assert_array_equal(trial.loss, losses)
    slow, fast = sorted(trials.hosts.explode().value_counts())
    assert fast > 2 * slow  # and in lockstep as many as the other


@needs_root
def test_a_host_without_the_file_of_the_task_gets_it(count, task_file, tmp_path):
    search = f"search {task_file}:make {OPTIONS}"
    with Rays(LRTUNE_TEST_COUNT=str(count)) as cluster:
        cluster.head.wait()
        cluster.add(cpus=2, inside=without(task_file.parent)).wait()
        done(cluster, search, "--out", tmp_path / "alone")
        search += " --hosts 2 --lockstep --cluster auto"
        done(cluster, search, "--out", tmp_path / "run")
    same(tmp_path / "run", tmp_path / "alone")


@needs_root
def test_states_travel_where_hosts_do_not_see_the_folder(tmp_path):
    """And the search goes on when they are killed, and when it is itself."""
    folder = tmp_path / "runs"
    folder.mkdir()
    search = f"search digits --epochs 2 --batch-size 64 {OPTIONS}"  # too short to measure
    with Rays() as cluster:
        cluster.head.wait()
        cluster.add(cpus=2, inside=without(folder)).wait()
        done(cluster, search, "--out", tmp_path / "alone")
        search += " --hosts 2 --lockstep --cluster auto"
        command = Command(cluster, search, "--out", folder / "run")
        command.until(3)
        kill(cluster.hosts)
        command.until(6)
        command.kill()
        done(cluster, search, "--out", folder / "run")
    same(folder / "run", tmp_path / "alone")


def test_a_host_with_another_version_is_refused_by_name(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(OTHER)
    path = os.pathsep.join([str(tmp_path), str(Path(lrtune.__file__).parents[1])])
    with Rays() as cluster:
        cluster.head.wait()
        cluster.add(cpus=2, PYTHONPATH=path).wait()
        command = Command(
            cluster, f"search digits {OPTIONS} --cluster auto", "--out", tmp_path / "run"
        )
        assert command.end() == 2, command.text()
    told = "".join(command.err)
    assert "has numpy 2.0.9, and the search " in told, told
    assert "Traceback" not in told


@pytest.fixture(scope="module")
def two():
    """Nodes of which the second one has other data."""
    with Rays() as cluster:
        cluster.head.wait()
        cluster.add(cpus=1).wait()
        cluster.add(cpus=1, LRTUNE_TEST_OTHER="yes").wait()
        yield cluster


@pytest.mark.parametrize(
    ("function", "difference"),
    [
        ("first", "mine, train: the data has changed: sample 0 is another one than at the start"),
        ("second", "the data has changed: sample 1 is another one than at the start"),
        ("drawn", "mine, train: the data has changed: samples are others than at the start"),
    ],
)
def test_a_host_with_other_data_is_refused(two, streamed_file, tmp_path, function, difference):
    """Before anything is trained, or where it meets the sample."""
    search = f"search {streamed_file}:{function} {OPTIONS} --hosts 2 --lockstep --cluster auto"
    command = Command(two, search, "--out", tmp_path / "run")
    assert command.end() == 2, command.text()
    assert re.search(
        rf"^lrtune: \S+/[01]: {difference}: have the same data there$", command.err[-1]
    )
    assert "Traceback" not in "".join(command.err)


@needs_root
def test_a_host_without_the_images_is_refused(tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(30):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(
                tmp_path / "pets" / name / f"{number}.png"
            )
    with Rays() as cluster:
        cluster.head.wait()
        cluster.add(cpus=2, inside=without(tmp_path / "pets")).wait()
        search = f"search {tmp_path / 'pets'} --memory 1KB {OPTIONS} --cluster auto"
        command = Command(cluster, search, "--out", tmp_path / "run")
        assert command.end() == 2, command.text()
    assert re.search(
        r"/0: pets, train: .*\.png: not a .* \(no regular file\): have", command.err[-1]
    )
    assert "Traceback" not in "".join(command.err)


def test_a_host_with_other_data_that_comes_later_is_left_out(streamed_file, tmp_path):
    search = f"search {streamed_file}:first {OPTIONS} --budget 999 --hosts 2 --cluster auto"
    with Rays() as cluster:
        cluster.head.wait()
        cluster.add(cpus=1).wait()
        command = Command(cluster, search, "--trials", 999, "--out", tmp_path / "run")
        command.until(1)
        cluster.add(cpus=1, LRTUNE_TEST_OTHER="yes").wait()
        until(lambda: "is not used: " in "".join(command.err), 120, command.text)
        command.until(command.ended + 3)
        command.kill()
    assert "mine, train: the data has changed" in "".join(command.err)
    trials = [event for event in command.events if event["event"] == "trial"]
    assert len({host for trial in trials for host in trial["hosts"]}) == 1
