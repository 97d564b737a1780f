"""SpreadPool: what one pool gives, from a process a device; and none of them is left behind."""

import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from lrtune.engine import SerialPool
from lrtune.engine.choose import Choice
from lrtune.engine.place import maker, of_processes
from lrtune.engine.worker import Worker, say
from lrtune.errors import InputError
from tests.engine import trials
from tests.engine.trials import DEVICE, Pairs

RATES = np.linspace(0.1, 0.01, 12)
TWO = (DEVICE, DEVICE)
LOCK = threading.Lock()  # cannot leave its process
SPOILED, ERROR = np.append(RATES[:4], np.full(8, 1e9)), np.append(RATES[:4], np.full(8, 1e39))


class Touchy(nn.Module):
    """Blames the data for large weights, and raises where they are no longer finite."""

    def __init__(self, width):
        super().__init__()
        self.inner = nn.Sequential(
            nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.Dropout(), nn.ReLU()
        )
        self.last = nn.Linear(width, 10)

    def forward(self, x):
        largest = self.last.weight.abs().max()
        if largest > 1e3:
            if not torch.isfinite(largest):
                raise OverflowError("weights are gone")
            raise InputError("the data has changed: sample 3")
        return self.last(self.inner(x))


class Strict(trials.Plain):
    def forward(self, x):
        if not torch.are_deterministic_algorithms_enabled():
            raise LookupError("any order will do")
        return super().forward(x)


@pytest.fixture(scope="module")
def task(digits):
    """12 updates in four segments; the model is a lambda."""
    model = lambda: Touchy(32)  # noqa: E731
    return replace(
        digits, model=model, optimizer="adam", settings={}, epochs=12 * 32 / 1149, validations=4
    )


@pytest.fixture(scope="module")
def shared(task):
    with of_processes(task, 3, TWO, threads=1) as pool:
        yield pool


@pytest.fixture
def pool(shared):
    """Slots 0 and 1 of one process, 2 of another, all free."""
    yield shared
    for slot in range(3):
        shared.release(slot)


def numbers(progress):
    return [progress.slot, *trials.numbers(progress)]


def processes():
    """Those that serve devices, and what they have started."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.status() != psutil.STATUS_ZOMBIE]


def a_search(pool):
    """Trials that come, go, change and move, in numbers."""
    told = [pool.start(slot, RATES * (slot + 1), seed=slot % 2) for slot in (2, 0, 1)]
    told += pool.advance()
    pool.revise(2, np.append(RATES[:3], RATES[3:] / 2))
    pool.release(1)
    told += pool.advance()
    pool.restore(1, replace(pool.snapshot(0), rates=np.append(RATES[:6], RATES[6:] * 2)))
    told += pool.advance()
    pool.release(0)
    pool.restore(0, replace(pool.snapshot(2), rates=np.append(RATES[:3], RATES[3:] / 2)))
    told += pool.advance()
    for slot in range(3):
        pool.release(slot)
    return [numbers(progress) for progress in told]


def test_the_same_as_one_pool(pool, task):
    told = a_search(pool)
    assert told == a_search(SerialPool(task, 3))
    copied, original = told[-3], told[-1]
    assert (copied[0], copied[1:]) == (0, original[1:])  # moved to another process
    assert (pool.slots, pool.task) == (3, task)
    assert pool.placement == SerialPool(task, 1).placement
    assert pool.advance() == []


def test_an_error_of_the_model_ends_its_own_slot_alone(pool, task):
    told = []
    for one in (pool, SerialPool(task, 3)):
        for slot, rates in enumerate([RATES, RATES, ERROR]):
            one.start(slot, rates, seed=1)
        told.append([progress for _ in range(3) for progress in one.advance()])
    ours, theirs = told
    assert [(p.slot, p.update, p.error) for p in ours] == [
        (p.slot, p.update, p.error) for p in theirs
    ]
    assert [p.error for p in ours[3:5]] == [None, None]
    assert ours[5].error.startswith("OverflowError: weights are gone (line ")
    assert [numbers(p) for p in ours if p.slot < 2] == [numbers(p) for p in theirs if p.slot < 2]


def test_a_full_memory_is_told_as_such():
    def full():
        raise torch.OutOfMemoryError("CUDA out of memory")

    worker = Worker("cpu", "cuda:1")
    worker.hold(SimpleNamespace(splits={}), {})
    worker.open(0, lambda *_: SimpleNamespace(advance=full, placement={}), 1)
    answer = pickle.loads(worker.do(pickle.dumps((0, "advance", ()))))
    assert isinstance(answer, MemoryError) and str(answer) == "cuda:1: CUDA out of memory"


def test_what_a_task_needs_and_is_not_there_is_told():
    answer = pickle.loads(Worker("cpu", "host/1").do(b"cnowhere\nNet\n."))
    assert isinstance(answer, InputError)
    assert str(answer).startswith("host/1: cannot take the task: ModuleNotFoundError: No module na")


def test_wrong_data_is_told_as_such(pool):
    pool.start(0, RATES, seed=1)
    pool.start(2, SPOILED, seed=1)
    pool.advance()
    with pytest.raises(InputError, match=r"^the data has changed: sample 3$"):
        pool.advance()
    pool.release(2)
    assert pool.start(2, RATES, seed=1).error is None  # what waited on the pipes is forgotten
    assert [(p.slot, p.update) for p in pool.advance()] == [(0, 9), (2, 3)]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda pool: pool.start(2, np.ones(11), 7),
            RuntimeError,
            rf"of {DEVICE}:\n(.*\n)+.*\(11,\)",
        ),
        (lambda pool: pool.snapshot(1), RuntimeError, "slot 1 is free"),
        (lambda pool: pool.start(3, RATES, 0), IndexError, "slot 3: there are 0 to 2"),
        (lambda pool: pool.start(-1, RATES, 0), IndexError, "slot -1"),
        (lambda pool: of_processes(pool.task, 1, TWO), InputError, "one for each of 2"),
        (lambda pool: of_processes(pool.task, 1, []), InputError, "one for each of 0"),
        (
            lambda pool: of_processes(replace(pool.task, groups=partial(id, LOCK)), 1, [DEVICE]),
            InputError,
            "digits: cannot be sent .* cannot pickle '_thread.lock'",
        ),
        (
            lambda pool: of_processes(replace(pool.task, optimizer="sdg"), 1, [DEVICE]),
            InputError,
            "did you mean 'sgd'",
        ),
    ],
)
def test_misuse_is_refused(call, error, message, pool):
    pool.start(0, RATES, seed=0)
    before = processes()
    with pytest.raises(error, match=message):
        call(pool)
    assert processes() == before
    assert [progress.slot for progress in pool.advance()] == [0]


class Waits(nn.Linear):
    """With large weights it waits in training for a file."""

    def __init__(self, file):
        super().__init__(64, 10)
        self.file = file

    def forward(self, x):
        until = time.monotonic() + 60
        while self.training and self.weight.abs().max() > 1e3 and not self.file.exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        return super().forward(x.flatten(1))


def test_a_device_trains_on_while_another_is_not_ready(task, tmp_path):
    file = tmp_path / "go on"
    task = replace(task, model=lambda: Waits(file))
    with of_processes(task, 3, ("cpu", "cpu"), threads=1) as pool:
        assert pool.groups == [range(2), range(2, 3)]
        pool.start(0, RATES, seed=0)
        pool.start(2, SPOILED, seed=0)
        pool.launch(1)
        for update in (3, 6, 9):
            pool.launch(0)
            assert [(p.slot, p.update) for p in pool.collect(0)] == [(0, update)]
            assert pool.snapshot(0).update == update
            if update == 3:
                assert [(p.slot, p.update) for p in pool.collect(1)] == [(2, 3)]
                pool.launch(1)
        file.touch()
        assert [(p.slot, p.update) for p in pool.collect(1)] == [(2, 6)]


def threads_told(task, slots, device):
    """A Pool that says how many threads and slots it was given, and takes long to train."""
    print("hello", flush=True)
    say(f"{slots} slots")
    task = replace(task, model=lambda: Slow(Touchy(32)))
    pool = SerialPool(task, slots, device)
    pool.placement = {"train": f"{torch.get_num_threads()} threads, {slots} slots"}
    return pool


class Slow(nn.Sequential):
    def forward(self, x):
        time.sleep(0.1 * self.training)
        return super().forward(x)


def test_the_trials_of_a_process_that_is_killed_go_on_in_another(task, capfd):
    before = processes()
    task = replace(task, train=Pairs(task.train, noise=1.0))
    told = []
    pool = of_processes(task, 3, TWO, threads_told, threads=2, tell=told.append)
    assert pool.placement == {"train": "2 threads, 2 slots; 2 threads, 1 slots"}
    first, second = sorted(set(processes()) - set(before), key=lambda process: process.pid)
    for slot in (1, 2):
        pool.start(slot, RATES, seed=0)
    pool.advance()
    assert told == [f"{DEVICE}: 2 slots", f"{DEVICE}: 1 slots"]
    out, err = capfd.readouterr()
    assert out.strip() == "" and "hello" in err  # what a user's model prints is not on our stdout
    assert first.children() and second.children()  # they read the data
    pool.snapshot(1)
    threading.Timer(0.15, first.kill).start()
    one, other = pool.advance()
    assert numbers(one)[1:] == numbers(other)[1:]
    assert [(loss.host, loss.trials) for loss in pool.losses] == [(DEVICE, 1)]
    assert re.fullmatch(
        rf"{DEVICE} lost at ..:..: its process has ended: exit code -9 \(SIGKILL\); "
        "1 trial goes on elsewhere",
        told[2],
    )
    assert not first.is_running() and second.is_running()
    pool.close()
    assert processes() == before
    pool.close()
    with pytest.raises(RuntimeError, match=f"{DEVICE}: the pool is closed"):
        pool.snapshot(2)


class Deadly(nn.Linear):
    """Ends its process in training."""

    def forward(self, x):
        if self.training:
            os._exit(3)
        return super().forward(x.flatten(1))


def test_a_model_that_ends_its_process_each_time_is_told(task, monkeypatch):
    monkeypatch.setattr("lrtune.engine.spread.TIRED", 2)
    with of_processes(replace(task, model=lambda: Deadly(64, 10)), 1, ("cpu",), SerialPool) as pool:
        pool.start(0, RATES, seed=0)
        with pytest.raises(
            RuntimeError, match=r"^cpu: its process has ended: exit code 3, as 1 bef"
        ):
            pool.advance()


# Not a module that may be imported twice: it has no `if __name__ == "__main__"`.
SCRIPT = """
import sys, time
import numpy as np
import psutil
from dataclasses import replace
from torch import nn
from lrtune.engine.place import of_processes
from lrtune.tasks import load_task

class Slow(nn.Sequential):
    def forward(self, x):
        time.sleep(0.3 * self.training)
        return super().forward(x)

task = load_task(sys.argv[1])  # its folder is on the path no longer
parts = task.model
task = replace(task, model=lambda: Slow(parts()))
rates = np.full(task.horizon, 0.1)
pool = of_processes(task, 2, ("cpu", "cpu"))
for slot in range(2):
    pool.start(slot, rates, seed=slot)
print(*[child.pid for child in psutil.Process().children()], flush=True)
try:
    pool.advance()
except KeyboardInterrupt:
    print("interrupted", flush=True)
print([pool.snapshot(slot).update for slot in range(2)], flush=True)
for slot in range(2):
    pool.release(slot)
    print(pool.start(slot, rates, seed=0).update, flush=True)
pool.advance()
"""
TASK = """
from dataclasses import replace
from layers.linear import Net
from lrtune.tasks import load_task

def task():
    digits = load_task("digits", batch_size=32)
    return replace(digits, epochs=15 * 32 / 1149, validations=1, model=lambda: Net(8))
"""
LAYERS = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, width):
        super().__init__(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, 10))
"""


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_ctrl_c_leaves_the_pool_in_step_and_nobody_outlives_the_parent(tmp_path: Path):
    user = tmp_path / "user"
    (user / "layers").mkdir(parents=True)  # without an __init__.py
    (user / "layers" / "linear.py").write_text(LAYERS)
    (user / "my.py").write_text(TASK)
    (tmp_path / "script.py").write_text(SCRIPT)
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", f"{user / 'my.py'}:task"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    with parent:
        assert parent.stdout is not None and parent.stderr is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2, parent.stderr.read()
        time.sleep(0.3)
        for group in (parent.pid, *children):  # a terminal's Ctrl-C, and one sent to each by hand
            os.killpg(group, signal.SIGINT)
        told = [parent.stdout.readline().strip() for _ in range(4)]
        assert told == ["interrupted", "[15, 15]", "0", "0"], parent.stderr.read()
        assert not any(gone(pid) for pid in children)
        parent.kill()
        parent.wait()
        since = time.monotonic()
        while not all(gone(pid) for pid in children):
            time.sleep(0.01)
            assert time.monotonic() - since < 3  # and not after their segment
        assert parent.stderr.read() == ""


@pytest.mark.parametrize("deterministic", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_each_process_is_deterministic(deterministic, task):
    make = maker(Choice("serial", 2, deterministic=deterministic), say)
    with of_processes(replace(task, model=Strict), 2, TWO, make) as pool:
        error = pool.start(1, RATES, seed=0).error
    expected = None if deterministic else "LookupError: any order will do"
    assert error == expected or error.startswith(f"{expected} (line ")
    assert not torch.are_deterministic_algorithms_enabled()
