"""Updates that ask nothing of the host, as a CUDA graph of them may not; no GPU is needed."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lrtune.engine import FusedPool
from lrtune.engine.fused import StackedPool
from lrtune.engine.graphs import Graphs
from lrtune.tasks.metrics import CrossEntropy
from tests.engine.trials import (
    BATCH,
    Pairs,
    alone,
    cnn,
    crowded,
    decays,
    falling,
    same,
    train,
    width,
)


class Tape(TorchDispatchMode):
    """Stands in for a CUDA graph: does the same operations on the same memory again."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        results = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, results))
        return results

    @property
    def names(self):
        """Of all that is more than another look at the same memory."""
        return [func.__name__ for func, *_ in self.operations if not func.is_view]

    def replay(self):
        for func, args, kwargs, results in self.operations:
            if func.is_view:
                continue
            given = {t.untyped_storage().data_ptr() for t in tensors((args, kwargs))}
            for ours, theirs in zip(tensors(results), tensors(func(*args, **kwargs)), strict=True):
                if ours.untyped_storage().data_ptr() not in given:  # else it is done in place
                    ours.copy_(theirs)


def tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


@pytest.fixture
def tapes(monkeypatch):
    """Pools take them for CUDA graphs, and all parameters of a group together, as on a GPU."""
    made = []

    def capture(function, stream, pool):
        with Tape() as tape:
            function()
        made.append(tape)
        first = iter([lambda: None])  # a graph is made without doing its work, and this has done it
        return lambda: next(first, tape.replay)()

    monkeypatch.setattr("lrtune.engine.graphs.capture", capture)
    monkeypatch.setattr(StackedPool, "_grouped", lambda pool, state: state)
    return made


def graphed(task, slots, told=None):
    pool = FusedPool(task, slots)
    pool._pool._graphs = Graphs(torch.device("cpu"), [].append if told is None else told.append)
    return pool


class Noise(nn.Module):
    def forward(self, x):
        x = x.double() / 16
        return x + 0.1 * torch.randn_like(x) if self.training else x


VARIANTS = {
    "plain": {},
    "all": {
        "clip_norm": 0.5,
        "ema": 0.3,
        "groups": decays,
        "optimizer": "adamw",
        "settings": {"amsgrad": True},
        "loss": CrossEntropy(0.1, torch.linspace(0.5, 2, 10).double()),
        "model": lambda: cnn().double(),
    },
    "mixup": {"augment": ("crop", "mixup"), "optimizer": "rmsprop"},
    "drawn": {"prepare": Noise()},
    "streamed": {"optimizer": "adagrad"},
}


@pytest.mark.parametrize("change", VARIANTS.values(), ids=VARIANTS)
def test_a_clock_on_the_device_changes_nothing(change, fifty, tapes, no_workers, monkeypatch):
    """Out of step, in a slot that was used before; room for three updates at a time."""
    monkeypatch.setattr("lrtune.engine.graphs.INDICES_AT_ONCE", 3 * 2 * BATCH)
    task = replace(fifty, **{"epochs": 30 * BATCH / 240, **change})
    if change == VARIANTS["streamed"]:
        task = replace(task, train=Pairs(fifty.train), memory=1000)
    lines = []
    pool = graphed(task, 2, lines)
    same(alone(task, falling(task), 5), crowded(pool, 1, falling(task), 5))
    assert tapes and not lines and width(pool) == 2


def test_a_momentum_that_begins_to_be_cycled(fifty, tapes):
    """It brings tensors of which earlier graphs know nothing."""
    task = replace(fifty, settings={"momentum": 0.0}, epochs=30 * BATCH / 240)
    rates, pool = falling(task), graphed(task, 2)
    same(alone(task, rates, 5), train(pool, 0, rates, 5))
    pool.release(0)
    before = len(tapes)
    momenta = 0.5 + rates
    same(alone(task, rates, 5, momenta), train(pool, 0, rates, 5, momenta))
    assert len(tapes) > before


def test_where_no_graph_can_be_made(fifty, monkeypatch):
    def capture(*_):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr("lrtune.engine.graphs.capture", capture)
    lines = []
    pool = graphed(fifty, 2, lines)
    same(alone(fifty, falling(fifty), 5), crowded(pool, 1, falling(fifty), 5))
    assert lines == [
        "updates are no CUDA graph, and slower for it: RuntimeError: operation not permitted "
        "when stream is capturing"
    ]


FROM_THE_HOST = {"_local_scalar_dense", "nonzero", "lift_fresh", "equal", "is_nonzero"}


def tape_of(task, slots, tapes):
    """Of an update; and how many of its operations are not the model's."""
    pool = graphed(task, slots)
    for slot in range(slots):
        pool.start(slot, falling(task), slot)
    pool.advance()
    tape, inner = tapes[-1], pool._pool
    inputs, parts = next(inner._batches([(0, 0, 1)] * slots))
    with Tape() as gradients, torch.no_grad():
        inner._program.gradients(inner._state, inputs, parts)
    return tape, len(tape.names) - len(gradients.names)


@pytest.mark.parametrize(("optimizer", "most"), [("sgd", 36), ("adamw", 74), ("rmsprop", 46)])
def test_an_update_is_a_few_operations_and_none_asks_the_host(optimizer, most, fifty, tapes):
    """However many rows there are and, beside the model's own, parameters."""

    def deep(layers):
        hidden = [part for _ in range(layers) for part in (nn.Linear(16, 16), nn.ReLU())]
        first, last = nn.Linear(64, 16), nn.Linear(16, 10)
        return nn.Sequential(nn.Flatten(), first, nn.ReLU(), *hidden, last).double()

    task = replace(fifty, optimizer=optimizer, groups=decays, average=None, clip_norm=1.0)
    found = []
    for layers, slots in ((1, 2), (1, 4), (4, 2)):
        tape, own = tape_of(replace(task, model=lambda n=layers: deep(n)), slots, tapes)
        found.append(own)
        names = {name.partition(".")[0] for name in tape.names}
        assert not names & FROM_THE_HOST
        for func, args, kwargs, _ in tape.operations:
            if func.__name__.startswith("_to_copy"):
                assert kwargs.get("device", args[0].device) == args[0].device
    assert len(set(found)) == 1 and found[0] <= most


def test_a_compiled_update_is_one_graph_for_all_trials(fifty, monkeypatch):
    """New trials, refills and other seeds compile nothing; a smaller pool once."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr("lrtune.engine.fused.WORTH_COMPILING", 0.0)
    counters.clear()
    pool = FusedPool(replace(fifty, epochs=12 * BATCH / 240, ema=0.3), 4, compiled=True)
    rates = falling(pool.task)
    for expected in (1, 1, 2):
        for slot in (1, 2, 3) if expected == 1 else ():
            pool.start(slot, rates / 2, 7)
        train(pool, 0, rates, 5)
        for slot in range(4):
            pool.release(slot)
        assert counters["stats"]["unique_graphs"] == expected
    assert not counters["graph_break"]


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_a_cuda_graph_changes_nothing(compiled, fifty):
    task = replace(fifty, augment=("crop", "mixup"), ema=0.3, clip_norm=0.5, groups=decays)
    lines = []
    pool = FusedPool(task, 2, "cuda", compiled=compiled, tell=lines.append)
    same(alone(task, falling(task), 5), crowded(pool, 1, falling(task), 5))
    assert pool._pool._graphs._replays and not lines
