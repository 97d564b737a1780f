"""A closed loop's rates as an open-loop schedule: the same, update by update."""

import numpy as np

from lrtune.export import export
from lrtune.export.replay import replay
from lrtune.schedule import Schedule


def test_it_gives_the_rates_that_were_used(closed, metrics):
    controller = closed.controller(40)
    for update, metric in metrics.items():
        controller.observe(update, metric)
    again = replay(closed, 40, [*metrics.items()])
    np.testing.assert_allclose(again.rates(40), controller.rates, rtol=0, atol=1e-12)
    assert not again.closed_loop
    assert (again.warmup, again.warmup_start) == (closed.warmup, closed.warmup_start)


def test_it_is_horizon_free_and_is_written_as_its_changes():
    plateau = Schedule("plateau", 0.4, knobs={"patience": 0})
    again = replay(plateau, 10, [(1, 1.0), (5, 1.0), (10, 0.5)])
    np.testing.assert_allclose(again.rates(1000), [0.4] * 500 + [0.04] * 500)
    assert "ratios = {0: 1.0, 500: 0.1" in export(again, to="torch", total=1000)
