"""best_threads: the faster of one thread and torch's own number, by a clock of the test's."""

from types import SimpleNamespace

import pytest
import torch

from lrtune.engine import SerialPool, threads
from lrtune.errors import InputError


@pytest.fixture
def cost(monkeypatch):
    """Seconds an update by number of threads, as told by the test."""
    costs, clock = {}, SimpleNamespace(now=0.0)

    def try_updates(pool, count):
        clock.now += count * costs[torch.get_num_threads()]

    monkeypatch.setattr(SerialPool, "try_updates", try_updates)
    monkeypatch.setattr(threads, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return costs


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [(1.0, 0.5, 2), (1.0, 0.7, 2), (1.0, 0.9, 1), (1.0, 1.0, 1), (1.0, 50.0, 1)],
)
def test_a_second_thread_must_be_worth_it(one, two, expected, digits, cost):
    cost.update({1: one, 2: two})
    torch.set_num_threads(2)
    assert threads.best_threads(digits) == expected
    assert torch.get_num_threads() == 2


def test_one_thread_is_not_measured(digits, cost):
    assert threads.best_threads(digits) == 1  # `cost` is empty: measuring would raise


def test_threads_are_restored_after_an_error(digits, cost):
    cost[2] = 1.0  # measuring one thread raises
    torch.set_num_threads(2)
    with pytest.raises(InputError, match="digits: training fails: KeyError"):
        threads.best_threads(digits)
    assert torch.get_num_threads() == 2


def test_measuring_leaves_no_trace(digits):
    torch.set_num_threads(2)
    before = torch.get_rng_state()
    assert threads.best_threads(digits) in (1, 2)
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), before)
