from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from lrtune import InputError

SPLITS = ("train", "val", "test")


@contextmanager
def refused(match: str) -> Iterator[pytest.ExceptionInfo[InputError]]:
    """With a message of one line."""
    with pytest.raises(InputError, match=match) as caught:
        yield caught
    assert "\n" not in str(caught.value)


@pytest.fixture(autouse=True)
def no_workers(monkeypatch):
    """Data are read here, but where a test sets workers itself: they take long to start."""
    monkeypatch.setattr("lrtune.tasks.stream.worker_count", lambda size, busy=1: 0)


@pytest.fixture(scope="session")
def pixels():
    """The digits as PIL takes them: uint8 (n, 8, 8)."""
    return (load_digits().images * 15).astype(np.uint8)


@pytest.fixture
def write_images(pixels):
    """Digits, all different, as ``folder/CLASS/*``: a few of each class as JPEG, the rest PNG."""
    unused = iter(pixels)

    def write(folder, **counts):
        for name, count in counts.items():
            (folder / name).mkdir(parents=True)
            for i in range(count):
                suffix = "jpg" if i < 2 else "png"
                Image.fromarray(next(unused)).save(folder / name / f"{i}.{suffix}", quality=100)
        return folder

    return write


@pytest.fixture(scope="session")
def rows():
    """Every sample with its label, as bytes; one list per split."""

    def of(data):
        splits = (getattr(data, name) for name in SPLITS)
        return [
            sorted(x.numpy().tobytes() + bytes([y]) for x, y in zip(*split, strict=True))
            for split in splits
        ]

    return of
