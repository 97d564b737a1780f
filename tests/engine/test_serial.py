"""SerialPool: plain PyTorch's numbers, whatever the slot, the neighbours and the moment."""

from copy import deepcopy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lrtune.engine import OPTIMIZERS, SerialPool
from lrtune.engine.rng import INITIAL_WEIGHTS, UPDATE_NOISE, BatchOrder, derive
from lrtune.engine.serial import Average
from lrtune.errors import InputError
from lrtune.tasks import MODELS

CUDA = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]
PLAIN = {
    "sgd": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, foreach=False),
    "nesterov": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, nesterov=True, foreach=False),
    "adam": lambda p: torch.optim.Adam(p, lr=1.0, foreach=False),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1.0, foreach=False),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1.0, foreach=False),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1.0, foreach=False),
}


def dropout():
    """Dropout, and BatchNorm with its running statistics."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 32, bias=False),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(32, 10),
    )


class NoisyAlways(nn.Module):
    """Draws in evaluation too, as ``F.dropout`` does where ``training`` is forgotten."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(64, 10)

    def forward(self, x):
        return self.inner(F.dropout(x.flatten(1), 0.3))


class RefusesInfinity(nn.Module):
    """Raises where its weights are no longer finite."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(64, 10)

    def forward(self, x):
        if not bool(torch.isfinite(self.inner.weight).all()):
            raise OverflowError("weights\nare gone")
        return self.inner(x.flatten(1))


MAKERS = {"dropout": dropout, "cnn": lambda: MODELS["cnn"]((1, 8, 8), 10), "noisy": NoisyAlways}


@pytest.fixture(scope="module")
def small(digits):
    """12 updates in four segments."""
    return replace(
        digits, model=dropout, val=digits.val.part(0, 100), epochs=12 * 32 / 1149, validations=4
    )


def numbers(progress):
    return [progress.update, progress.loss, *progress.metrics.values(), *progress.losses]


def train(pool, slot, rates, seed):
    """A trial from its admission to its end, in numbers; the other slots go round and round."""
    curve = numbers(pool.start(slot, rates, seed))
    while True:
        for progress in pool.advance():
            assert progress.error is None
            if progress.slot == slot:
                curve += numbers(progress)
                if progress.update == pool.task.horizon:
                    return np.array(curve)
            elif progress.update == pool.task.horizon:
                pool.release(progress.slot)
                pool.start(progress.slot, rates * 3, seed + progress.slot + 1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_as_plain_pytorch(name, digits):
    task = replace(
        digits,
        optimizer=name,
        groups=None,
        model=lambda: dropout().double(),
        prepare=deepcopy(digits.prepare).double(),
        val=digits.train,  # more than one evaluation batch
        epochs=50 * 32 / 1149,
        validations=2,
    )
    rates = np.geomspace(1e-2, 1e-3, 50)
    curve = train(SerialPool(task), 0, rates, seed=5)

    torch.manual_seed(derive(5, INITIAL_WEIGHTS))
    model = task.model()
    optimizer = PLAIN[name](model.parameters())
    order = BatchOrder(1149, 32, torch.device("cpu"))
    x, y = task.prepare(task.train.inputs), task.train.targets

    def validation(update):
        model.eval()
        outputs = model(x)
        accuracy = (outputs.argmax(1) == y).double().mean()
        loss = F.cross_entropy(outputs, y).item()
        return [update, loss, loss, accuracy.item()]

    expected = validation(0)
    losses = []
    for update, rate in enumerate(rates):
        batch = order.batch(5, update)
        torch.manual_seed(derive(5, UPDATE_NOISE, update))
        model.train()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if update + 1 in (25, 50):
            expected += [*validation(update + 1), *losses]
            losses = []
    np.testing.assert_allclose(curve, expected, rtol=1e-9)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(
    ("slots", "slot", "late"), [(1, 0, 1), (2, 0, 0), (3, 2, 0), (3, 1, 2), (5, 3, 3)]
)
def test_a_trial_is_the_same_anywhere(maker, device, slots, slot, late, small):
    task = replace(small, model=MAKERS[maker])
    rates = np.linspace(0.1, 0.01, task.horizon)
    torch.manual_seed(1)
    alone = train(SerialPool(task, 1, device), 0, rates, seed=7)
    pool = SerialPool(task, slots, device)
    for other in range(slots):
        pool.start(other, rates * 2, seed=other)
    for _ in range(late):
        pool.advance()
    pool.release(slot)  # the trial comes into a slot that another one has used
    torch.manual_seed(2)
    # cuDNN's sums may come in another order; another dropout mask would change the loss by more.
    rtol, atol = (0, 0) if device == "cpu" else (1e-2, 2e-2)
    np.testing.assert_allclose(train(pool, slot, rates, seed=7), alone, rtol, atol)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("maker", MAKERS)
def test_the_callers_generators_are_untouched(maker, device, small):
    task = replace(small, model=MAKERS[maker])
    states = [torch.get_rng_state] + [torch.cuda.get_rng_state] * (device == "cuda")
    before = [state() for state in states]
    pool = SerialPool(task, 2, device)
    train(pool, 0, np.full(task.horizon, 0.01), seed=0)
    pool.try_updates(2)
    assert all(torch.equal(state(), old) for state, old in zip(states, before, strict=True))


def test_all_slots_are_tried_with_their_averages(small, monkeypatch):
    seen, update = [], Average.update

    def watched(average, model):
        seen.append(model)
        update(average, model)

    monkeypatch.setattr(Average, "update", watched)
    SerialPool(small, 3).try_updates(2)
    assert len(seen) == 6 and len({id(model) for model in seen}) == 3


def test_noise_is_new_at_every_update_and_seed(small):
    """At rate zero, on all samples at once, nothing but dropout tells two updates apart."""
    task = replace(small, batch_size=1149, epochs=4, validations=1, settings={})
    pool = SerialPool(task, 2)
    for slot in range(2):
        pool.start(slot, np.zeros(4), seed=slot)
    losses = [progress.losses for progress in pool.advance()]
    assert np.diff(np.sort(np.concatenate(losses))).min() > 1e-4


def test_seeds_differ(small):
    rates = np.full(small.horizon, 0.1)
    curves = [train(SerialPool(small), 0, rates, seed) for seed in range(3)]
    assert len({tuple(curve) for curve in curves}) == 3
    assert len({curve[1] for curve in curves}) == 3  # untrained: the initial weights


@pytest.mark.parametrize("segments", [0, 1, 3])
def test_revise_changes_what_is_to_come_and_nothing_else(segments, small):
    before, after = np.full(12, 0.1), np.full(12, 0.02)
    both = np.append(before[: 3 * segments], after[3 * segments :])
    pool, curves = SerialPool(small, 4), [[], [], [], []]
    for slot, rates in enumerate([before, both, before, after]):
        curves[slot] += numbers(pool.start(slot, rates, seed=1))
    for segment in range(4):
        if segment == segments:
            pool.revise(0, after)
        for progress in pool.advance():
            curves[progress.slot] += numbers(progress)
    revised, expected, never, always = curves
    assert revised == expected != never
    assert (revised == always) == (segments == 0)


def test_an_error_ends_its_own_slot_alone(small):
    task = replace(small, model=RefusesInfinity)
    rates = np.full(12, 0.01)
    alone = train(SerialPool(task), 0, rates, seed=2)
    pool = SerialPool(task, 3)
    curve = numbers(pool.start(0, rates, 2))
    pool.start(1, np.append(rates[:4], np.full(8, 1e39)), 2)
    broken = []
    for _ in range(4):
        for progress in pool.advance():
            if progress.slot == 0:
                curve += numbers(progress)
            else:
                broken.append(progress)
    np.testing.assert_array_equal(curve, alone)
    assert [b.error for b in broken] == [None, *3 * ["OverflowError: weights\nare gone"]]
    assert [b.update for b in broken] == [3, 5, 5, 5]  # where it broke, and no further
    assert np.isnan(broken[1].loss)
    assert "in forward" in broken[1].traceback
    pool.release(1)
    assert pool.start(1, rates, 2).error is None


def test_non_finite_losses_are_reported_not_raised(small):
    pool = SerialPool(small)
    pool.start(0, np.full(12, 1e39), seed=0)
    reached = [pool.advance()[0] for _ in range(4)]
    assert [progress.error for progress in reached] == [None] * 4
    assert [progress.update for progress in reached] == [3, 6, 9, 12]
    assert not np.isfinite(reached[-1].loss)
    assert not np.isfinite(reached[-1].losses).any()


@pytest.mark.parametrize("validations", [1, 3, 5, 12, 33])
def test_validations_come_at_the_checkpoints(validations, small):
    task = replace(small, validations=validations)
    pool = SerialPool(task)
    reached = [pool.start(0, np.full(12, 0.1), seed=0)]
    assert (reached[0].update, len(reached[0].losses)) == (0, 0)
    while reached[-1].update < 12:
        reached += pool.advance()
    assert [progress.update for progress in reached[1:]] == task.checkpoints.tolist()
    assert len(reached) - 1 == min(validations, 12)
    for last, progress in pairwise(reached):
        assert len(progress.losses) == progress.update - last.update
        assert progress.metrics.keys() == {"cross_entropy", "accuracy"}
        assert progress.seconds > 0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda pool: pool.start(1, np.ones(11), 0), ValueError, r"\(11,\), expected \(12,\)"),
        (lambda pool: pool.start(1, np.ones((1, 12)), 0), ValueError, r"\(1, 12\), expected"),
        (lambda pool: pool.revise(0, np.ones(13)), ValueError, r"\(13,\), expected \(12,\)"),
        (lambda pool: pool.start(0, np.ones(12), 0), RuntimeError, "slot 0 is occupied: release"),
        (lambda pool: pool.revise(1, np.ones(12)), RuntimeError, "slot 1 is free"),
        (lambda pool: SerialPool(pool.task, 0), InputError, "slots=0: at least 1"),
        (
            lambda pool: SerialPool(replace(pool.task, optimizer="sdg")),
            InputError,
            "did you mean 'sgd'",
        ),
    ],
)
def test_misuse_is_refused(call, error, message, small):
    pool = SerialPool(small, 2)
    pool.start(0, np.full(12, 0.1), seed=0)
    with pytest.raises(error, match=message):
        call(pool)
    assert [progress.slot for progress in pool.advance()] == [0]
