from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from lrtune.engine import FusedPool, SerialPool, choose, range_test
from lrtune.tasks import load_task
from tests.engine.trials import BATCH, DEVICE, Plain, dropout, mlp


def on_device(default):
    return DEVICE if isinstance(default, str) and default == "cpu" else default


@pytest.fixture(autouse=True, scope="session")
def default_device():
    """What names no device is on that of the run, and gives the same bits each time."""
    torch.backends.cudnn.deterministic = True
    for made in (SerialPool.__init__, FusedPool.__init__, choose, range_test):
        made.__defaults__ = made.__defaults__ and tuple(map(on_device, made.__defaults__))
        for name, default in (made.__kwdefaults__ or {}).items():
            made.__kwdefaults__[name] = on_device(default)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def no_workers(monkeypatch):
    """No worker processes: readings can be counted."""
    monkeypatch.setattr("lrtune.engine.device_task.worker_count", lambda batch_bytes: 0)


@pytest.fixture(scope="session")
def digits():
    return load_task("digits", batch_size=32, epochs=20.0, precision="float32")


@pytest.fixture(scope="session")
def fifty(digits):
    """Float64, 50 updates in four segments of unequal length."""
    return replace(
        digits,
        train=digits.train.part(0, 240),
        val=digits.val.part(0, 60),
        test=None,
        prepare=deepcopy(digits.prepare).double(),
        model=lambda: mlp().double(),
        groups=None,
        batch_size=BATCH,
        epochs=50 * BATCH / 240,
        validations=4,
    )


@pytest.fixture(scope="session")
def six(digits):
    """Float64, six updates in two segments of a linear model with weight decay."""
    return replace(
        digits,
        model=lambda: Plain().double(),
        prepare=deepcopy(digits.prepare).double(),
        val=digits.val.part(0, 60),
        optimizer="adamw",
        settings={"weight_decay": 0.1},
        groups=None,
        epochs=6 * 32 / 1149,
        validations=2,
    )


@pytest.fixture(scope="session")
def twelve(digits):
    """12 updates in four segments of a model with dropout and BatchNorm."""
    val = digits.val.part(0, 100)
    return replace(digits, model=dropout, val=val, epochs=12 * 32 / 1149, validations=4)
