"""The order of batches: every sample equally often, none short, by (seed, update) alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lrtune.engine.pool import BatchOrder, derive, reseed

CPU = torch.device("cpu")
pytestmark = pytest.mark.cpu


@st.composite
def sizes(draw):
    samples = draw(st.integers(1, 60))
    return samples, draw(st.integers(1, samples))


@given(sizes=sizes(), seed=st.integers(0, 2**40), updates=st.integers(1, 150))
def test_no_sample_is_left_out_and_no_batch_is_short(sizes, seed, updates):
    samples, batch_size = sizes
    order = BatchOrder(samples, batch_size, CPU)
    batches = [order.batch(seed, update) for update in range(updates)]
    assert {tuple(batch.shape) for batch in batches} == {(batch_size,)}
    # Epoch after epoch, whatever the cuts: each run of `samples` indices is a permutation.
    for epoch in torch.cat(batches).split(samples):
        assert len(epoch.unique()) == len(epoch)
        assert epoch.min() >= 0 and epoch.max() < samples
    assert torch.equal(order.batches(seed, 0, updates), torch.stack(batches))


@given(sizes=sizes(), shuffled=st.randoms(use_true_random=False))
def test_order_depends_on_seed_and_update_alone(sizes, shuffled):
    asked = [(seed, update) for seed in range(5) for update in range(40)]
    first = BatchOrder(*sizes, CPU)
    batches = {key: first.batch(*key) for key in asked}
    again = BatchOrder(*sizes, CPU)
    shuffled.shuffle(asked)  # more epochs than the cache holds, back and forth
    for key in asked:
        torch.rand(1)
        assert torch.equal(again.batch(*key), batches[key])


def test_seeds_and_epochs_differ():
    order = BatchOrder(50, 50, CPU)
    seen = {tuple(order.batch(seed, epoch).tolist()) for seed in range(20) for epoch in range(20)}
    assert len(seen) == 400


def test_derive_tells_neighbours_apart():
    words = [(a, b, c) for a in range(-3, 30) for b in range(3) for c in range(30)]
    words += [(a, b) for a in range(30) for b in range(30)] + [(a,) for a in range(30)]
    derived = [derive(*w) for w in words]
    assert len(set(derived)) == len(words)
    assert all(0 <= seed < 2**63 for seed in derived)
    # Strangers out: every bit is set in about half of them.
    for bit in range(63):
        assert 0.4 < sum(seed >> bit & 1 for seed in derived) / len(derived) < 0.6


@pytest.mark.parametrize("words", [(0,), (3, 1, 4)])
def test_reseed_sets_torchs_generator(words):
    reseed(CPU, *words)
    drawn = torch.rand(3)
    torch.rand(7)
    reseed(CPU, *words)
    assert torch.equal(torch.rand(3), drawn)
    reseed(CPU, *words, 1)
    assert not torch.equal(torch.rand(3), drawn)
