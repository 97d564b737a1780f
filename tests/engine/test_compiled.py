"""Compiled programs: the numbers of the eager one, and the sizes at which they run."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from lrtune.engine import FusedPool
from lrtune.engine.device_task import compile_alone
from lrtune.engine.fused import CompiledSizes
from tests.engine.test_equal import decays
from tests.engine.trials import (
    BATCH,
    all_curves,
    alone,
    falling,
    mlp,
    numbers,
)


def test_compiled_is_eager(fifty, digits):
    """In float32."""
    task = replace(fifty, model=mlp, prepare=digits.prepare, clip_norm=1.0, ema=0.3, groups=decays)
    task = replace(task, epochs=4 * BATCH / 240)
    rates = falling(task)
    eager, compiled = (all_curves(FusedPool(task, 2, compiled=c), rates) for c in (False, True))
    np.testing.assert_allclose(compiled, eager, rtol=1e-6)


def test_a_compiled_program_shrinks_at_the_tail(fifty, monkeypatch):
    """Without the compiler's last part, which takes long: the sizes, and what changes in place."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr("lrtune.engine.fused.WORTH_COMPILING", 0.0)
    sizes: list[int] = []
    task = replace(fifty, ema=0.3, clip_norm=0.5, epochs=8 * BATCH / 240)
    rates = falling(task)
    pool = FusedPool(task, 4, compiled=True)
    matrix = pool._pool
    update = matrix._update
    matrix._update = lambda size: sizes.append(size) or update(size)
    curves = [numbers(pool.start(slot, rates / (1 + slot), slot)) for slot in range(4)]
    for gone in (1, 3, 0, None):
        for progress in pool.advance():
            curves[progress.slot] += numbers(progress)
        if gone is not None:
            pool.release(gone)
    assert sizes == [4, 4, 2, 1]
    for slot, curve in enumerate(curves):
        expected = alone(task, rates / (1 + slot), slot)
        np.testing.assert_allclose(curve, expected[: len(curve)], rtol=1e-9)


def test_no_program_uses_up_what_another_may_compile(monkeypatch):
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    for size in range(2, 14):
        compile_alone(lambda tensor: tensor + 1)(torch.zeros(size))
        assert len(graphs) == size - 1


@pytest.mark.parametrize(
    ("ready", "needed", "updates", "expected"),
    [
        ({}, 5, 1000, 16),  # nothing is compiled: what may have been, in another pool
        ({4: 1.0}, 5, 1000, 16),
        ({16: 1.0}, 16, 1000, 16),
        ({16: 1.0}, 9, 1000, 16),
        ({16: 1.0}, 3, 200, 4),  # saves 3/4 of 200 s: more than twice what compiling may take
        ({16: 1.0}, 3, 150, 16),  # which is more than what the first took
        ({16: 1.0, 8: 0.5}, 3, 150, 8),
        ({16: 1.0, 2: 0.1}, 3, 10, 16),
    ],
)
def test_sizes(ready, needed, updates, expected):
    sizes = CompiledSizes()
    for size, pace in ready.items():
        sizes.took(size, 10.0, pace)
    assert sizes.fit(needed, 16, updates) == expected
