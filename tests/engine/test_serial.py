"""SerialPool: plain PyTorch's numbers, whatever the slot, the neighbours and the moment."""

import random
import warnings
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from schedulefree import AdamWScheduleFree, SGDScheduleFree
from torch import nn
from torch._dynamo.utils import counters
from torch.nn import functional as F

from lrtune.engine import SerialPool, serial
from lrtune.engine.checkpoint import load, save
from lrtune.engine.pool import INITIAL_WEIGHTS, UPDATE_NOISE, BatchOrder, derive
from lrtune.engine.serial import Average, Captured
from lrtune.tasks import MODELS, Metric
from lrtune.tasks.metrics import CROSS_ENTROPY
from lrtune.tasks.splits import leaves
from tests.engine.trials import (
    DEVICE,
    alone,
    crowded,
    decays,
    dropout,
    falling,
    numbers,
    plainly,
    same,
    train,
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


def two_layers():
    layers = nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10)
    return nn.Sequential(nn.Flatten(), *layers)


class Counts(torch.optim.SGD):
    """As schedule-free optimizers do it: numbers in its groups, and a state beside the tensors."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["done"] = group.get("done", 0) + 1
            group["lr"] /= group["done"]
        self.state["all"] = {"history": [torch.ones(2) * group["done"]], 3: ("word", None)}
        super().step()


def counts(model):
    first, *rest = model.parameters()
    return Counts([{"params": first}, {"params": rest, "lr": 0.5}], lr=0.1, momentum=0.9)


@pytest.mark.parametrize("optimizer", ["adafactor", "asgd", "muon", counts])
def test_any_optimizer_goes_on_from_a_file(optimizer, twelve, tmp_path):
    task = replace(twelve, optimizer=optimizer, settings={}, groups=None, model=two_layers)
    rates = np.geomspace(1, 0.1, task.horizon) * 5e-3
    curve, pool = [], SerialPool(task)
    curve += numbers(pool.start(0, rates, 5))
    for _ in task.checkpoints:
        curve += numbers(pool.advance()[0])
        save(tmp_path / "c", {"0": pool.snapshot(0)}, {"0": {}})
        pool = SerialPool(task)
        pool.restore(0, load(tmp_path / "c")["0"][0])
    same(alone(task, rates, 5), curve)
    assert curve[-1] < curve[1]


@pytest.mark.parametrize(("name", "model"), [("sgd", dropout), ("adamw", two_layers)])
def test_schedule_free_is_the_packages_own_loop(name, model, twelve, tmp_path):
    """Validated at the averaged weights, with batch norm's statistics of those; from a file too."""
    task = replace(twelve, optimizer=name, settings={}, groups=decays, model=model)
    rates, ready = np.full(task.horizon, 0.05), twelve.prepare
    kinds = {"sgd": SGDScheduleFree, "adamw": AdamWScheduleFree}
    pool = SerialPool(task)
    curve = [numbers(pool.start(0, rates, 5, settings={"schedule_free": True}))]
    for _ in task.checkpoints:
        curve.append(numbers(pool.advance()[0]))
        save(tmp_path / "c", {"0": pool.snapshot(0)}, {"0": {}})
        pool = SerialPool(task)
        pool.restore(0, load(tmp_path / "c")["0"][0])
    torch.manual_seed(derive(5, INITIAL_WEIGHTS))
    net, order = model(), BatchOrder(task.train.samples, task.batch_size, torch.device("cpu"))
    groups = decays(net)
    optimizer = kinds[name](groups, lr=0.05)
    for group in optimizer.param_groups:
        group["lr"] *= group.pop("lr_ratio", 1)
    optimizer.train()
    batches = [task.train.take(order.batch(5, update)) for update in range(task.horizon)]
    losses = []
    for update, batch in enumerate(batches):
        torch.manual_seed(derive(5, UPDATE_NOISE, update))
        loss = task.loss(net.train()(ready(batch.inputs)), batch.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose([x for part in curve for x in part[5:]], losses, rtol=1e-6)
    optimizer.eval()
    torch.manual_seed(derive(5, UPDATE_NOISE, task.horizon))
    with torch.no_grad():
        for batch in batches:
            net.train()(ready(batch.inputs))
        final = float(task.loss(net.eval()(ready(task.val.inputs)), task.val.targets))
    assert curve[-1][1] == pytest.approx(final, rel=1e-6)
    assert curve[-1][4] == pytest.approx(curve[-1][1], rel=1e-6)  # averaged: the same weights


def test_the_same_as_plain_pytorch(fifty, digits):
    """With dropout, and more than one evaluation batch."""
    task = replace(fifty, model=lambda: dropout().double(), val=digits.train, validations=2)
    same(plainly(task, falling(task), 5), alone(task, falling(task), 5))


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(("slots", "slot", "late"), [(1, 0, 1), (3, 2, 0), (5, 3, 3)])
def test_a_trial_is_the_same_anywhere(maker, slots, slot, late, twelve):
    """And the caller's generators are as they were."""
    task = replace(twelve, model=MAKERS[maker])
    rates = np.linspace(0.1, 0.01, task.horizon)
    torch.manual_seed(1)
    expected = train(SerialPool(task), 0, rates, seed=7)
    pool = SerialPool(task, slots)
    torch.manual_seed(2)
    states = [torch.get_rng_state] + [torch.cuda.get_rng_state] * (DEVICE != "cpu")
    before = [state() for state in states]
    pool.try_updates(2)
    # cuDNN's sums may come in another order; another dropout mask would change the loss by more.
    rtol, atol = (0, 0) if DEVICE == "cpu" else (1e-2, 2e-2)
    np.testing.assert_allclose(crowded(pool, slot, rates, 7, late=late), expected, rtol, atol)
    assert all(torch.equal(state(), old) for state, old in zip(states, before, strict=True))


def test_all_slots_are_tried_with_their_averages(twelve, monkeypatch):
    seen, update = [], Average.update

    def watched(average, model):
        seen.append(model)
        update(average, model)

    monkeypatch.setattr(Average, "update", watched)
    SerialPool(twelve, 3).try_updates(2)
    assert len(seen) == 6 and len({id(model) for model in seen}) == 3


def test_whole_numbers_are_not_averaged():
    """The mean of an index would be another index."""
    model = nn.Linear(2, 2)
    model.register_buffer("index", torch.arange(64))
    average = Average(model, np.full(60, 0.3))
    model.index += 1
    for _ in range(60):
        average.update(model)
    assert torch.equal(average.model.index, model.index)


def test_noise_is_new_at_every_update_and_seed(twelve):
    """At rate zero, on all samples at once, nothing but dropout tells two updates apart."""
    task = replace(twelve, batch_size=1149, epochs=4, validations=1, settings={})
    pool = SerialPool(task, 2)
    for slot in range(2):
        pool.start(slot, np.zeros(4), seed=slot)
    losses = [progress.losses for progress in pool.advance()]
    assert np.diff(np.sort(np.concatenate(losses))).min() > 1e-4


def test_seeds_differ(twelve):
    curves = [alone(twelve, np.full(12, 0.1), seed) for seed in range(3)]
    assert len({tuple(curve) for curve in curves}) == 3
    assert len({curve[1] for curve in curves}) == 3  # untrained: the initial weights


@pytest.mark.parametrize("segments", [0, 1, 3])
def test_revise_changes_what_is_to_come_and_nothing_else(segments, twelve):
    before, after = np.full(12, 0.1), np.full(12, 0.02)
    both = np.append(before[: 3 * segments], after[3 * segments :])
    pool, curves = SerialPool(twelve, 4), [[], [], [], []]
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


def test_an_error_ends_its_own_slot_alone(twelve):
    task = replace(twelve, model=RefusesInfinity)
    rates = np.full(12, 0.01)
    pool = SerialPool(task, 3)
    curve = numbers(pool.start(0, rates, 2))
    pool.start(1, np.append(rates[:4], np.full(8, 1e39)), 2)
    broken = []
    for _ in range(4):
        fine, other = pool.advance()
        curve += numbers(fine)
        broken.append(other)
    np.testing.assert_array_equal(curve, alone(task, rates, seed=2))
    assert broken[0].error is None
    assert all(b.error.startswith("OverflowError: weights\nare gone (line ") for b in broken[1:])
    assert [b.update for b in broken] == [3, 5, 5, 5]  # where it broke, and no further
    assert np.isnan(broken[1].loss)
    pool.release(1)
    assert pool.start(1, rates, 2).error is None


def test_non_finite_losses_are_reported_not_raised(twelve):
    pool = SerialPool(twelve)
    pool.start(0, np.full(12, 1e39), seed=0)
    reached = [pool.advance()[0] for _ in range(4)]
    assert [(progress.error, progress.update) for progress in reached] == [
        (None, update) for update in (3, 6, 9, 12)
    ]
    assert not np.isfinite([reached[-1].loss, *reached[-1].losses]).any()


@pytest.mark.parametrize("validations", [1, 5, 33])
def test_validations_come_at_the_checkpoints(validations, twelve):
    task = replace(twelve, validations=validations)
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


class ModeSeen(nn.Module):
    """Scales by what it is told the mode is."""

    def forward(self, inputs):
        return inputs.float() * (1.0 if self.training else 0.0)


def test_prepare_is_in_training_mode_for_updates_alone(twelve):
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
    nn.init.zeros_(linear[1].weight)
    pool = SerialPool(replace(twelve, prepare=ModeSeen(), model=lambda: deepcopy(linear)))
    assert pool.start(0, np.full(12, 1e-3), 3).loss == pytest.approx(np.log(10))
    progress = [pool.advance()[0] for _ in range(4)][-1]
    assert progress.losses[-1] < progress.loss  # training sees the pixels, validation does not


def test_bfloat16_is_near_float32(twelve):
    exact, rounded = (
        alone(replace(twelve, precision=name), np.full(12, 0.1), 3)
        for name in ("float32", "bfloat16")
    )
    assert (exact != rounded).any()
    assert rounded == pytest.approx(exact, rel=0.1, abs=0.05)


def test_metrics_over_batches_and_over_the_split_agree(digits, monkeypatch):
    monkeypatch.setattr("lrtune.engine.device_task.EVALUATION_BATCH", 50)  # 288: a short last one
    whole = Metric("whole", CROSS_ENTROPY.function, "minimize", over="split")
    task = replace(digits, metrics=(CROSS_ENTROPY, whole))
    progress = SerialPool(task).start(0, np.zeros(task.horizon), seed=0)
    assert progress.metrics["whole"] == pytest.approx(progress.metrics["cross_entropy"], rel=1e-6)
    assert progress.loss == pytest.approx(progress.metrics["whole"], rel=1e-6)


class Repeated(Captured):
    """A graph that can be had on a CPU: the update again, on the very same tensors."""

    made = 0

    def __init__(self, update, modules, device):
        super().__init__(update, modules, device)
        self._never = False

    def _warm_up(self, batch):
        return self._update(batch)

    def _capture(self, batch):
        Repeated.made += 1
        _, _, model, optimizer = self._update.args
        before = self.places(batch, model, optimizer)

        def replay():
            assert self.places(batch, model, optimizer) == before
            return self._update(batch)

        return replay

    @staticmethod
    def places(batch, model, optimizer):
        states = [list(state.values()) for state in optimizer.state.values()]
        rates = [group["lr"] for group in optimizer.param_groups]
        tensors = [*model.parameters(), *model.buffers(), *leaves(states), *rates, *leaves(batch)]
        return [tensor.data_ptr() for tensor in tensors if tensor is not None]


class Refused(Repeated):
    def _capture(self, batch):
        raise RuntimeError("operation not permitted when stream is capturing")


CAPTURED = {
    "sgd": {"optimizer": "sgd", "settings": {}, "groups": decays},
    "dampening": {"optimizer": "sgd", "settings": {"momentum": 0.9, "dampening": 0.5}},
    "adamw": {"optimizer": "adamw", "settings": {"amsgrad": True}, "groups": decays},
    "rmsprop": {"optimizer": "rmsprop", "settings": {"momentum": 0.5, "centered": True}},
    "adagrad": {"optimizer": "adagrad", "settings": {"initial_accumulator_value": 0.1}},
    "crop": {"augment": ("crop",), "ema": 0.3, "clip_norm": 0.1},
}


@pytest.mark.cpu  # on CUDA, a rate on the device is a float32
@pytest.mark.parametrize("case", CAPTURED)
def test_a_compiled_pool_is_compiled_and_captured_once(case, fifty, monkeypatch):
    """Over trials, refills and restored ones; and they are as in a model of their own."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    changes = {"settings": {}, "optimizer": "sgd", **CAPTURED[case]}
    task = replace(fifty, model=lambda: deepcopy(net).double(), **changes)
    monkeypatch.setattr(serial, "compile_alone", partial(torch.compile, backend="eager"))
    monkeypatch.setattr(serial, "Captured", Repeated)
    torch.compiler.reset()
    counters.clear()
    Repeated.made = 0
    pools = SerialPool(task, 2), SerialPool(task, 2, compiled=True)
    pools[1].try_updates(4)
    graphs = dict(counters["stats"])
    cycle = np.linspace(0.9, 0.5, 50) if case == "sgd" else None
    curves = []
    for pool in pools:
        curve = []
        for number, momenta in enumerate([None, None, cycle, None]):
            slot = number % 2
            curve += train(pool, slot, falling(task) / (1 + number), number, momenta).tolist()
            pool.release(slot)
        pool.start(1, falling(task), 4)
        pool.advance()
        kept = pool.snapshot(1)
        pool.advance()
        pool.release(1)
        pool.restore(0, kept)
        curves.append(curve + numbers(pool.advance()[0]))
    same(*curves)
    assert graphs["unique_graphs"] == 1
    assert dict(counters["stats"]) == graphs and not counters["graph_break"]
    assert Repeated.made == (0 if case in ("dampening", "adagrad") else 2)  # of each slot


@pytest.mark.cpu
def test_where_no_graph_can_be_made_updates_go_on_as_they_are(fifty, monkeypatch):
    monkeypatch.setattr(serial, "compile_alone", lambda function: function)
    monkeypatch.setattr(serial, "Captured", Refused)
    pool = SerialPool(fifty, 1, compiled=True)
    same(alone(fifty, falling(fifty), 3), train(pool, 0, falling(fifty), 3))


class Counting(nn.Module):
    calls = 0

    def forward(self):
        self.calls += 1


def waits():
    """As torch says it of CUDA."""
    warnings.warn("called a synchronizing CUDA operation", stacklevel=1)


DRAWS = [random.random, np.random.rand, partial(torch.rand, 1)]


@pytest.mark.parametrize("act", [Counting(), waits, *DRAWS])
def test_no_graph_is_made_of_what_happens_on_the_host(act, monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    for update, never in (lambda batch: 3, False), (lambda batch: act(), True):
        captured = Captured(update, [act], torch.device("cpu"))
        captured._watched(None)
        assert captured._never == never
    assert modes == ["warn", 0] * 2


@pytest.mark.gpu
def test_whole_updates_are_captured_on_cuda(twelve):
    pools = SerialPool(twelve), SerialPool(twelve, compiled=True)
    for _ in range(2):
        curves = [train(pool, 0, np.full(12, 0.01), 3) for pool in pools]
        for pool in pools:
            pool.release(0)
        np.testing.assert_allclose(*curves, rtol=1e-2, atol=2e-2)
    assert pools[1]._kept[0].train._replay is not None
