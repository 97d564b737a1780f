"""Loaders: a stream gives what memory gives, read once for trials in step; what averages weigh."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from lrtune.engine import FusedPool, SerialPool, device_task
from lrtune.engine.device_task import (
    DeviceTask,
    StreamLoader,
    ema_shares,
    make_loader,
    stack_batches,
)
from lrtune.errors import InputError
from lrtune.tasks import Split, Stream
from tests.engine.trials import Pairs, falling


@pytest.fixture(scope="module")
def small(digits):
    """A task of 12 updates in four segments, its data as floats."""
    parts = {
        name: Split(split.inputs.float(), split.targets) for name, split in digits.splits.items()
    }
    return replace(digits, **parts, epochs=12 * 32 / 1149, validations=4)


def streamed(task, noise=0.0):
    return replace(task, train=Pairs(task.train, noise), memory=1000)


def train(task, slots=1, late=0):
    """All slots to their end; slot i starts `late * i` segments after slot 0."""
    pool = SerialPool(task, slots)
    losses = {slot: [] for slot in range(slots)}
    segment = 0
    while any(len(curve) < 5 for curve in losses.values()):
        for slot in range(slots):
            if segment == late * slot:
                progress = pool.start(slot, np.full(12, 0.1), seed=1)
                losses[slot].append((progress.loss,))
        for progress in pool.advance():
            assert progress.error is None
            losses[progress.slot].append((progress.loss, *progress.losses))
            if progress.update == 12:
                pool.release(progress.slot)
        segment += 1
    return list(losses.values())


def test_streamed_is_resident(small):
    """With worker processes, which is how it runs."""
    task = replace(small, train=Pairs(small.train), val=Pairs(small.val), memory=1000)
    assert isinstance(task.train, Stream) and isinstance(task.val, Stream)
    assert task.fingerprint == small.fingerprint
    assert train(task) == train(small)


@pytest.mark.parametrize("late", [0, 1])
def test_trials_in_step_share_each_batch(no_workers, small, late):
    pairs = Pairs(small.train)
    task = replace(small, train=pairs, memory=1000)
    pairs.read = 0
    first, second, third = train(task, slots=3, late=late)
    assert first == second == third == train(small)[0]
    assert pairs.read == (1 if late == 0 else 3) * 12 * 32


def test_a_stream_stays_open_from_segment_to_segment(no_workers, small, monkeypatch):
    opened, real = [], StreamLoader._open
    monkeypatch.setattr(
        StreamLoader, "_open", lambda self, *where: opened.append(where) or real(self, *where)
    )
    pool = SerialPool(streamed(small), 2)
    for slot in range(2):
        pool.start(slot, np.full(12, 0.1), seed=1)
        pool.advance()
    assert opened == [(1, 0), (1, 0)]
    live = pool.device_task.train._live
    assert list(live) == [(1, 6), (1, 3)]
    pool.release(1)
    assert list(live) == [(1, 6)]  # nobody goes on from there: its workers end
    for _ in range(2):
        pool.advance()
    assert len(opened) == 2 and not live


def test_what_a_sample_draws_is_by_seed_and_update(no_workers, small):
    """All rows alike, so that nothing but the drawing tells two batches apart."""
    alike = Split(torch.zeros_like(small.train.inputs), small.train.targets)
    loader = SerialPool(replace(small, train=Pairs(alike, noise=1.0))).device_task.train
    one, two = (torch.stack([b.inputs for b in loader.updates(seed, 0, 3)]) for seed in (1, 2))
    assert len({one[0].sum().item(), one[1].sum().item(), two[0].sum().item()}) == 3
    assert torch.equal(next(loader.updates(1, 2, 3)).inputs, one[2])


def test_a_data_set_that_augments_does_so_by_seed_and_update(no_workers, small):
    noisy = replace(small, train=Pairs(small.train, noise=1.0))
    assert isinstance(noisy.train, Stream)  # though it would fit
    before = torch.get_rng_state()
    first, again = train(noisy, slots=1), train(noisy, slots=2, late=1)
    assert again == [first[0]] * 2
    assert first != train(small)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_data_set_that_breaks_ends_the_search_with_its_words(no_workers, small):
    pairs = Pairs(small.train)
    pool = SerialPool(replace(small, train=pairs, memory=1000), 2)
    for slot in range(2):
        pool.start(slot, np.full(12, 0.1), seed=1)
    pool.advance()
    pairs.split = pairs.split.part(0, 10)  # the file has been cut short
    with pytest.raises(InputError, match=r"the data has changed: sample .* IndexError"):
        pool.advance()


def test_there_is_shared_memory_for_all_that_read_at_once(small, monkeypatch):
    asked = []
    count = "lrtune.engine.device_task.worker_count"
    monkeypatch.setattr(count, lambda size: asked.append(size) or 0)
    for slots in (1, 3):
        pool = SerialPool(streamed(small), slots)
    assert asked[1] == 2 * asked[0]  # the trials, and a validation
    assert pool.placement["train"].startswith("303 KB streamed by ")
    assert pool.placement["val"] == "76 KB in memory"


def test_a_batch_of_many_trials_is_augmented_at_once(fifty, monkeypatch):
    """And the numbers of a trial do not depend on who else is there, or where they are."""
    task, calls = replace(fifty, augment=("crop", "mixup")), []
    real = device_task.augment
    monkeypatch.setattr(device_task, "augment", lambda *a: calls.append(1) or real(*a))
    pool = FusedPool(task, 4)
    pool.start(0, falling(task), 0)
    pool.advance()
    for slot in (1, 2, 3):
        pool.start(slot, falling(task), slot)
    calls.clear()
    reached = pool.advance()
    assert len(calls) == max(len(progress.losses) for progress in reached)
    spans = [(7, 60, 70), (8, 3, 5), (7, 66, 67)]
    numbers = pool.device_task.numbers(spans, range(10))  # (updates, trials, batch, numbers)
    assert numbers.shape == (10, 3, task.batch_size, 3)
    assert torch.equal(numbers[6, 0], numbers[0, 2])
    assert torch.equal(numbers[1:, 1], numbers[1:2, 1].expand(9, -1, -1))
    *_, last = DeviceTask(task, 1, "cpu").updates(7, 40, 50)
    assert torch.equal(last.inputs[1], pool.device_task.numbers([(7, 49, 50)], range(1))[0, 0])


def test_stacked_weights_are_a_column():
    inputs, targets = torch.rand(4, 3), torch.arange(4)
    kept = torch.tensor(0.7)
    bare, mixed = [(1.0, targets)], [(kept, targets), (1 - kept, targets.roll(1))]
    stacked, [(ones, _)] = stack_batches([(inputs, bare)] * 2)
    _, parts = stack_batches([(inputs, mixed)] * 2)
    assert stacked.shape == (2, 4, 3)
    assert ones.dtype == torch.float32 and ones.tolist() == [1.0, 1.0]
    assert [weights.tolist() for weights, _ in parts] == [[kept] * 2, [1 - kept] * 2]
    assert torch.equal(parts[1][1], targets.roll(1).expand(2, -1))


@pytest.mark.parametrize(
    ("length", "checkpoints", "stride", "looks"),
    [
        (40, [10, 21, 30], 5, [5, 10, 15, 20, 26]),  # counted from each validation on
        (400, [3, 6, 9], 50, [3, 6, 9]),  # in each segment, however short
        (3, [2, 6], 1, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_an_average_weighs_by_age(length, checkpoints, stride, looks):
    """Of what was looked at d**age, and the bias towards the start is divided out."""
    shares = ema_shares(length, np.array(checkpoints), stride)
    assert (np.flatnonzero(shares) + 1).tolist() == looks
    decay = (1 - 1 / length) ** np.diff(looks)[0]
    weights = np.zeros(len(looks))
    for look, share in enumerate(shares[shares > 0]):
        weights = (1 - share) * weights
        weights[look] = share
    expected = decay ** np.arange(len(looks))[::-1]
    np.testing.assert_allclose(weights, expected / expected.sum())


@pytest.fixture
def no_collector():
    """What nobody needs any more is free at once, and not when the collector comes by."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("make", [SerialPool, FusedPool])
@pytest.mark.parametrize("stream", [False, True])
def test_a_pool_that_is_gone_is_free(make, stream, fifty, no_workers, no_collector):
    task = streamed(fifty) if stream else fifty
    pool = make(task, 2)
    pool.try_updates(1)
    pool.start(0, falling(task), 5)
    assert pool.advance()[0].error is None
    inner = pool._pool if isinstance(pool, FusedPool) else pool
    held = [weakref.ref(one) for one in (inner, pool.device_task, pool.device_task.train)]
    del inner
    assert all(one() is not None for one in held)
    del pool
    assert [one() for one in held] == [None] * 3


def test_a_trial_that_is_over_is_free(fifty, no_collector):
    pool = SerialPool(replace(fifty, ema=0.3))
    pool.start(0, falling(fifty), 5)
    pool.advance()
    held = [weakref.ref(m) for m in (pool._trials[0].model, pool._trials[0].average.model)]
    pool.release(0)
    assert [one() for one in held] == [None] * 2


def test_pools_share_the_data_on_their_device(fifty, no_collector):
    one, other = (make_loader(fifty.train, fifty, torch.device("meta")) for _ in range(2))
    inputs = one._split.inputs
    assert inputs is other._split.inputs is not fifty.train.inputs
    held = weakref.ref(inputs)
    del one, other, inputs
    assert held() is None
