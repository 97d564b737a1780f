"""Feeds: a streamed data set gives what a resident one gives, read once for trials in step."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from lrtune.engine import SerialPool
from lrtune.engine.device_task import StreamLoader
from lrtune.errors import InputError
from lrtune.tasks import Split, Stream


class Pairs(Dataset):
    """A split as a map-style data set that counts its readings, and may augment."""

    def __init__(self, split: Split, noise: float = 0.0):
        self.split, self.noise, self.read = split, noise, 0

    def __len__(self):
        return self.split.samples

    def __getitem__(self, row):
        self.read += 1
        image = self.split.inputs[row].float()
        return image + self.noise * torch.randn(image.shape), self.split.targets[row]


@pytest.fixture
def here(monkeypatch):
    """No worker processes: readings can be counted."""
    monkeypatch.setattr("lrtune.engine.device_task.worker_count", lambda batch_bytes: 0)


@pytest.fixture(scope="module")
def small(digits):
    """A task of 12 updates in four segments, its data as floats."""
    parts = {
        name: Split(split.inputs.float(), split.targets) for name, split in digits.splits.items()
    }
    return replace(digits, **parts, epochs=12 * 32 / 1149, validations=4)


def train(task, slots=1, rates=0.1, late=0):
    """All slots to their end; slot i starts `late * i` segments after slot 0."""
    pool = SerialPool(task, slots)
    told = {slot: [] for slot in range(slots)}
    segment = 0
    while any(len(t) < 5 for t in told.values()):
        for slot in range(slots):
            if segment == late * slot:
                told[slot].append(pool.start(slot, np.full(12, rates), seed=1))
        for progress in pool.advance():
            assert progress.error is None
            told[progress.slot].append(progress)
            if progress.update == 12:
                pool.release(progress.slot)
        segment += 1
    return [[(p.loss, *p.losses) for p in told[slot]] for slot in range(slots)]


def test_streamed_is_resident(small):
    """With worker processes, which is how it runs."""
    streamed = replace(small, train=Pairs(small.train), val=Pairs(small.val), memory=1000)
    assert isinstance(streamed.train, Stream) and isinstance(streamed.val, Stream)
    assert streamed.fingerprint == small.fingerprint
    assert train(streamed) == train(small)


@pytest.mark.parametrize("late", [0, 1])
def test_trials_in_step_share_each_batch(here, small, late):
    pairs = Pairs(small.train)
    task = replace(small, train=pairs, memory=1000)
    pairs.read = 0
    first, second, third = train(task, slots=3, late=late)
    assert first == second == third == train(small)[0]
    streams = 1 if late == 0 else 3
    assert pairs.read == streams * 12 * 32


def test_a_stream_stays_open_from_segment_to_segment(here, small, monkeypatch):
    opened = []
    real = StreamLoader._open
    monkeypatch.setattr(
        StreamLoader, "_open", lambda self, *where: opened.append(where) or real(self, *where)
    )
    task = replace(small, train=Pairs(small.train), memory=1000)
    pool = SerialPool(task, 2)
    pool.start(0, np.full(12, 0.1), seed=1)
    pool.advance()
    pool.start(1, np.full(12, 0.1), seed=1)
    pool.advance()
    assert opened == [(1, 0), (1, 0)]
    assert list(pool.device_task.train._live) == [(1, 6), (1, 3)]
    pool.release(1)
    assert list(pool.device_task.train._live) == [
        (1, 6)
    ]  # nobody goes on from there: its workers end
    for _ in range(2):
        pool.advance()
    assert len(opened) == 2 and not pool.device_task.train._live


def test_what_a_sample_draws_is_by_seed_and_update(here, small):
    """All rows alike, so that nothing but the drawing tells two batches apart."""
    alike = Split(torch.zeros_like(small.train.inputs), small.train.targets)
    task = replace(small, train=Pairs(alike, noise=1.0))
    feed = SerialPool(task).device_task.train
    one, two = (torch.stack([b.inputs for b in feed.updates(seed, 0, 3)]) for seed in (1, 2))
    assert len({one[0].sum().item(), one[1].sum().item(), two[0].sum().item()}) == 3
    assert torch.equal(next(feed.updates(1, 2, 3)).inputs, one[2])


def test_a_data_set_that_augments_does_so_by_seed_and_update(here, small):
    noisy = replace(small, train=Pairs(small.train, noise=1.0))
    assert isinstance(noisy.train, Stream)  # though it would fit
    before = torch.get_rng_state()
    first, again = train(noisy, slots=1), train(noisy, slots=2, late=1)
    assert again == [first[0]] * 2
    assert first != train(small)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_data_set_that_breaks_ends_the_search_with_its_words(here, small):
    pairs = Pairs(small.train)
    task = replace(small, train=pairs, memory=1000)
    pool = SerialPool(task, 2)
    for slot in range(2):
        pool.start(slot, np.full(12, 0.1), seed=1)
    pool.advance()
    pairs.split = pairs.split.part(0, 10)  # the file has been cut short
    with pytest.raises(InputError, match=r"the data has changed: sample .* IndexError"):
        pool.advance()


def test_there_is_shared_memory_for_all_that_read_at_once(small, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "lrtune.engine.device_task.worker_count", lambda size: asked.append(size) or 0
    )
    task = replace(small, train=Pairs(small.train), memory=1000)
    for slots in (1, 3):
        SerialPool(task, slots)
    assert asked[1] == 2 * asked[0]  # the trials, and a validation


def test_where_the_data_is_is_said(small):
    pool = SerialPool(replace(small, train=Pairs(small.train), memory=1000))
    assert pool.placement["train"].startswith("303 KB streamed by ")
    assert pool.placement["val"] == "76 KB in memory"
