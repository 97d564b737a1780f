"""choose: the pool that is measured to be fastest, by a clock of the test's."""

from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lrtune.engine import Choice, SerialPool, choose, make_pool
from lrtune.errors import InputError
from tests.engine.trials import Pairs, Plain, dropout

choosing = import_module("lrtune.engine.choose")
pytestmark = pytest.mark.cpu  # threads of the CPU


@pytest.fixture
def timed(monkeypatch):
    """Milliseconds an update of a trial by (engine, slots, compiled, threads); what was asked."""
    table, asked = {}, []

    def time_updates(pool, hopeless):
        fused = not isinstance(pool, SerialPool)
        compiled = pool._pool._sizes if fused else pool._loss.__name__ != "_loss"
        key = ("fused" if fused else "serial", pool.slots, bool(compiled), torch.get_num_threads())
        asked.append(key)
        return 1e-3 * table[key] * pool.slots

    monkeypatch.setattr(choosing, "time_updates", time_updates)
    torch.set_num_threads(2)
    return table, asked


def serial(one, two):
    return {("serial", 1, False, 1): one, ("serial", 1, False, 2): two}


def test_a_brief_search_is_not_measured_further(digits, timed):
    table, asked = timed
    table.update(serial(1.0, 0.1))
    choice, pool = choose(digits, updates=2000)
    assert asked == [("serial", 1, False, 1)]
    assert (choice.name, choice.slots, choice.threads) == ("serial", 1, 1)
    assert str(choice) == "serial 1 thread: the search takes 2.0 s as it is"
    assert isinstance(pool, SerialPool)


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [(1.0, 0.5, 2), (1.0, 0.9, 2), (1.0, 0.97, 1), (1.0, 1.0, 1), (1.0, 50.0, 1)],
)
def test_a_second_thread_must_be_worth_it(one, two, expected, digits, timed):
    timed[0].update(serial(one, two))
    choice, _ = choose(digits, engine="serial", updates=10_000)
    assert choice.threads == expected
    assert torch.get_num_threads() == 2


def test_the_fastest_number_of_trials_in_even_waves(digits, timed):
    table, asked = timed
    table.update(serial(0.4, 0.4))
    for slots, cost in ((8, 0.16), (27, 0.12)):  # 270 trials: 34 waves of 8, 10 of 27
        table.update({("fused", slots, False, threads): cost for threads in (1, 2)})
    choice, pool = choose(digits, updates=270 * digits.horizon)
    assert (choice.name, choice.slots, choice.compiled) == ("fused", 27, False)
    assert pool.slots == 27
    assert choice.why == "120 µs an update of a trial, serial 1 thread 400"
    assert choice.figures["fused 8 at once 1 thread"] == pytest.approx(1.6e-4)
    assert not any(compiled for _, _, compiled, _ in asked)


def test_more_at_once_are_tried_as_long_as_it_helps(digits, timed, monkeypatch):
    table, asked = timed
    monkeypatch.setitem(choosing.TOGETHER, "cpu", (8, 32, 128, 512))
    table.update(serial(0.4, 0.4))
    for slots, cost in ((8, 0.16), (32, 0.12), (128, 0.13)):
        table.update({("fused", slots, False, threads): cost for threads in (1, 2)})
    monkeypatch.setitem(choosing.COMPILING, "cpu", np.inf)
    choice, _ = choose(digits, updates=512 * 10 * digits.horizon)
    assert choice.slots == 32
    assert {slots for _, slots, *_ in asked} == {1, 8, 32, 128}


@pytest.mark.parametrize(("trials", "worth"), [(100, False), (2000, True)])
def test_compiling_must_be_worth_it(trials, worth, digits, timed):
    table, asked = timed
    table.update(serial(1.0, 1.0))
    for slots in (8, 10, 32):
        table.update({("fused", slots, False, n): 0.1 for n in (1, 2)})
        table.update({("fused", slots, True, n): 0.05 for n in (1, 2)})
    choice, _ = choose(digits, updates=trials * digits.horizon)
    assert any(compiled for _, _, compiled, _ in asked) == choice.compiled == worth


def test_a_model_that_cannot_run_together_is_served_serially(digits, timed):
    timed[0].update(serial(1.0, 1.0))
    task = replace(digits, model=dropout)
    choice, _ = choose(task, updates=10_000)
    assert choice.name == "serial"
    assert "draws random numbers" in choice.why
    with pytest.raises(InputError, match=r"--engine fused: .*draws.*: use --engine serial"):
        choose(task, engine="fused", updates=10_000)
    with pytest.raises(InputError, match=r"--engine fused: .*draws.*: use --engine serial"):
        make_pool(task, Choice("fused", 2), "cpu")


class Starved(torch.nn.Module):
    def forward(self, inputs):
        raise MemoryError


def test_a_check_that_is_short_of_memory_blames_no_task(digits):
    with pytest.raises(MemoryError):
        make_pool(replace(digits, model=Starved), Choice("fused", 2), "cpu")


def test_a_long_update_has_no_overhead_to_share(digits, timed):
    timed[0].update(serial(70.0, 60.0))
    choice, _ = choose(digits, updates=100)
    assert (choice.name, choice.why) == ("serial", "an update takes 70 ms, most of it work")


def test_a_stream_is_shared_by_four(digits, timed):
    table, _ = timed
    table.update({("serial", 4, False, n): 1.0 for n in (1, 2)})
    task = replace(digits, train=Pairs(digits.train), memory=1000)
    choice, _ = choose(task, updates=10_000)
    assert (choice.name, choice.slots, choice.why) == ("serial", 4, "the data is streamed")


def test_fewer_share_a_stream_where_four_have_no_room(digits, monkeypatch):
    def time_updates(pool, hopeless):
        if pool.slots > 1:
            raise torch.OutOfMemoryError("full")
        return 1e-3

    monkeypatch.setattr(choosing, "time_updates", time_updates)
    task = replace(digits, train=Pairs(digits.train), memory=1000)
    choice, pool = choose(task, updates=10_000)
    assert (choice.name, choice.slots, pool.slots) == ("serial", 1, 1)
    with pytest.raises(InputError, match="OutOfMemoryError: full: fewer --slots or a smaller"):
        choose(task, slots=4, updates=10_000)
    with pytest.raises(InputError, match="--engine fused: OutOfMemoryError: full: use --engine"):
        choose(digits, engine="fused", updates=10_000)


def test_what_fails_or_loses_uncompiled_is_compiled(digits, timed):
    """Where there is time for it."""
    table, asked = timed
    table.update(serial(1.0, 1.0))
    for slots in (8, 32):
        for threads in (1, 2):
            table["fused", slots, False, threads] = 1.2  # or fails: below
            table["fused", slots, True, threads] = 0.1
    table["serial", 1, True, 1] = 0.9
    choice, _ = choose(digits, updates=2000 * digits.horizon)
    assert choice.label == "fused 8 at once compiled 1 thread"
    for key in [key for key in table if key[0] == "fused" and not key[2]]:
        del table[key]  # a KeyError when it is timed
    choice, _ = choose(digits, updates=2000 * digits.horizon)
    assert choice.label == "fused 8 at once compiled 1 thread"
    assert choice.figures["fused 8 at once 1 thread"] is None
    asked.clear()
    choice, _ = choose(digits, updates=20 * digits.horizon)
    assert (choice.label, choice.why) == ("serial 1 thread", "KeyError: ('fused', 2, False, 1)")
    assert not any(compiled for _, _, compiled, _ in asked)


@pytest.mark.parametrize(("sample", "asked"), [(0.001, 50), (0.1, 8)])
def test_an_update_has_its_share_of_the_validations(sample, asked, monkeypatch):
    """Of few samples where they take long; no more updates are tried than a trial has."""
    clock, updates, samples = [0.0], [], []

    def run(calls, seconds):
        def try_some(count):
            calls.append(count)
            clock[0] += count * seconds

        return try_some

    monkeypatch.setattr(choosing, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    pool = SimpleNamespace(
        task=SimpleNamespace(horizon=3, batch_size=8, checkpoints=[2, 3]),
        device_task=SimpleNamespace(val=SimpleNamespace(samples=100, part=50)),
        try_updates=run(updates, 0.01),
        try_validation=run(samples, sample),
    )
    assert choosing.time_updates(pool) == pytest.approx(0.01 + 100 * sample * 2 / 3)
    assert (max(updates), max(samples)) == (3, asked)


def test_a_model_that_fails_in_evaluation_alone(digits):
    class Odd(Plain):
        def forward(self, x):
            if len(x) == 32 and not self.training:
                raise ValueError("too many")
            return super().forward(x)

    with pytest.raises(InputError, match="digits: training fails: ValueError: too many"):
        choose(replace(digits, model=Odd), updates=10_000)


def test_bad_wishes(digits):
    with pytest.raises(InputError, match="engine 'fast': one of auto, serial, fused"):
        choose(digits, engine="fast")
    with pytest.raises(InputError, match="slots=0: at least 1"):
        choose(digits, slots=0)


def test_a_model_that_cannot_be_trained(digits):
    def loss(outputs, targets):
        raise ValueError("no\nloss")

    torch.set_num_threads(2)
    with pytest.raises(InputError, match="digits: training fails: ValueError: no loss"):
        choose(replace(digits, loss=loss))
    assert torch.get_num_threads() == 2


def test_measuring_leaves_no_trace(digits):
    before = torch.get_rng_state()
    choice, pool = choose(digits, engine="fused", slots=3, updates=10_000)
    assert torch.equal(torch.get_rng_state(), before)
    rates = np.full(digits.horizon, 0.1)
    fresh = make_pool(digits, choice, "cpu")
    for used in (pool, fresh):
        used.start(0, rates, seed=1)
    assert pool.advance()[0].loss == fresh.advance()[0].loss


def test_what_was_chosen_serves_again_where_it_is_what_is_wished_for():
    choice = Choice("fused", 8, compiled=True, devices=("A", "A"), figures={"serial": None})
    for engine, slots, devices, granted in [
        ("auto", None, "AA", True),
        ("fused", 8, "AA", True),
        ("auto", 4, "AA", False),
        ("serial", None, "AA", False),
        ("auto", None, "A", False),
        ("auto", None, "AB", False),
    ]:
        assert choice.grants(engine, slots, tuple(devices)) == granted
