"""Augmentation: what each does to a batch, by its numbers alone and never in place."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from lrtune.tasks.images import NAMES, augment, check_augment, draw
from tests.tasks.conftest import refused

SHAPES = [(1, 8, 8), (3, 32, 32), (2, 16, 24)]
shapes = st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40))


def batch(shape=(3, 32, 32), count=64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, *shape, generator=generator) + 10, torch.arange(count)


def seeded(seed, names, inputs, targets):
    numbers = draw(names, np.random.default_rng(seed), 1, len(inputs))[0]
    return augment(names, inputs, targets, torch.as_tensor(numbers))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_numbers_decide_and_the_batch_stays(name, dtype):
    inputs, targets = batch((2, 16, 24))
    inputs = inputs.to(dtype)
    kept = inputs.clone(), targets.clone()
    first, again, other = (seeded(seed, (name,), inputs, targets)[0] for seed in (3, 3, 4))
    assert (first.shape, first.dtype) == (inputs.shape, dtype)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(inputs, kept[0]) and torch.equal(targets, kept[1])
    dense = inputs.to(memory_format=torch.channels_last)
    assert torch.equal(seeded(3, (name,), dense, targets)[0], first)


def test_flip_mirrors_about_half_and_does_no_more():
    inputs, targets = batch((2, 4, 6), count=1000)
    outputs, _ = seeded(0, ("flip",), inputs, targets)
    mirrored, same = ((outputs == x).flatten(1).all(1) for x in (inputs.flip(-1), inputs))
    assert bool((mirrored ^ same).all())
    assert 430 < mirrored.sum() < 570  # 4.4 standard deviations


@pytest.mark.parametrize("shape", SHAPES)
def test_crop_is_a_window_of_the_padded_image(shape):
    inputs, targets = batch(shape, count=200)
    _, height, width = shape
    pad_h, pad_w = height // 8, width // 8
    padded = F.pad(inputs, (pad_w, pad_w, pad_h, pad_h), mode="reflect")
    outputs, _ = seeded(0, ("crop",), inputs, targets)
    windows = [
        {
            (top, left)
            for top in range(2 * pad_h + 1)
            for left in range(2 * pad_w + 1)
            if torch.equal(image, wide[:, top : top + height, left : left + width])
        }
        for image, wide in zip(outputs, padded, strict=True)
    ]
    assert all(len(each) == 1 for each in windows)
    tops, lefts = zip(*(each.pop() for each in windows), strict=True)
    assert set(tops) == set(range(2 * pad_h + 1))  # both borders are reached
    assert set(lefts) == set(range(2 * pad_w + 1))


@pytest.mark.parametrize("shape", SHAPES)
def test_cutout_zeros_one_whole_square_per_image(shape):
    inputs, targets = batch(shape, count=300)
    side = min(shape[1:]) // 4
    outputs, _ = seeded(0, ("cutout",), inputs, targets)
    zero = outputs == 0
    assert torch.equal(torch.where(zero, inputs, outputs), inputs)
    assert bool((zero == zero[:, :1]).all())  # the same in every channel
    rows, columns = zero[:, 0].any(2), zero[:, 0].any(1)
    assert bool((rows.sum(1) == side).all()) and bool((columns.sum(1) == side).all())
    assert bool((zero[:, 0].sum((1, 2)) == side**2).all())
    assert bool(rows.any(0).all()) and bool(columns.any(0).all())  # every place is reached


@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_mixups_inputs_are_the_combination_that_its_weights_say(seed, count):
    inputs, targets = batch((1, 4, 4), count)
    outputs, ((kept, own), (rest, others)) = seeded(seed, ("mixup",), inputs, targets)
    assert 0 <= kept <= 1
    assert kept + rest == 1
    torch.testing.assert_close(outputs, kept * inputs[own] + rest * inputs[others])
    assert sorted(others.tolist()) == list(range(count))
    assert count == 1 or not bool((own == others).any())


def test_mixups_proportion_is_beta_and_one_for_a_batch():
    drawn = draw(("crop", "mixup"), np.random.default_rng(0), 800, 3)
    assert drawn.shape == (800, 3, 3) and drawn.dtype == np.float32
    assert (drawn[..., 2] == drawn[:, :1, 2]).all()
    assert drawn[:, 0, 2].mean() == pytest.approx(0.5, abs=0.06)
    assert drawn[:, 0, 2].var() == pytest.approx(0.25 / 1.4, rel=0.1)  # 1 / (4 (2 alpha + 1))


@pytest.mark.parametrize("side", [8, 9, 1024])
def test_the_largest_number_is_still_a_place(side):
    """Uniform numbers come up to 1 - 2**-24, and rounding could make that 1."""
    inputs, targets = torch.rand(1, 1, side, side), torch.zeros(1)
    numbers = torch.full((1, 4), 1 - 2**-24)
    outputs, _ = augment(("crop", "cutout"), inputs, targets, numbers)
    assert (outputs == 0).sum() == (side // 4) ** 2


def test_names_apply_in_their_order():
    """Cutout before mixup leaves no zeros; after it, it does."""
    inputs, targets = batch()
    assert seeded(0, (), inputs, targets) == (inputs, [(1.0, targets)])
    first, _ = seeded(0, ("cutout", "mixup"), inputs, targets)
    last, _ = seeded(0, ("mixup", "cutout"), inputs, targets)
    assert (first == 0).sum() < (last == 0).sum() == len(inputs) * 3 * 8 * 8


@given(shapes, st.permutations(NAMES))
def test_any_image_and_order_keeps_shape_and_stays_finite(shape, names):
    inputs, targets = batch(shape, count=3)
    check_augment(tuple(names), shape)
    outputs, parts = seeded(0, tuple(names), inputs, targets)
    assert outputs.shape == inputs.shape
    assert bool(outputs.isfinite().all())
    assert sum(float(weight) for weight, _ in parts) == pytest.approx(1)


def test_refusals():
    with refused("augment 'flpi': one of .*; did you mean 'flip'"):
        check_augment(("flpi",), (3, 8, 8))
    with refused("augment 'flip': given 2 times"):
        check_augment(("flip", "crop", "flip"), (3, 8, 8))


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
def test_nothing_waits_for_the_device():
    numbers = torch.as_tensor(draw(NAMES, np.random.default_rng(0), 1, 64)[0])
    inputs, targets, numbers = (x.to("cuda") for x in (*batch(), numbers))
    augment(NAMES, inputs, targets, numbers)  # the first call sets kernels up
    torch.cuda.set_sync_debug_mode("error")
    try:
        outputs, _ = augment(NAMES, inputs, targets, numbers)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert outputs.device == inputs.device
