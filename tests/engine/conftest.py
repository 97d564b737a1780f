from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from lrtune.tasks import load_task
from tests.engine.models import Plain
from tests.engine.trials import BATCH, mlp, net


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def digits():
    return load_task("digits", batch_size=32, epochs=20.0)


@pytest.fixture(scope="session")
def fifty(digits):
    """Float64, 50 updates in four segments of unequal length."""
    small = digits.train.part(0, 240)
    return replace(
        digits,
        train=small,
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
def small(digits):
    """Six updates in three segments."""
    return replace(
        digits, model=net, val=digits.val.part(0, 60), epochs=6 * 32 / 1149, validations=3
    )
