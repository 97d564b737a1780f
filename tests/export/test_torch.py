"""The source for torch stands alone, and gives the rates of the table; so does a replay."""

import ast

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, lr_scheduler
from torch.optim.lr_scheduler import LambdaLR, SequentialLR

from lrtune.export import export, replay
from lrtune.export.source import FORMULAS, ExportContext, ratio
from lrtune.schedule import FAMILIES, Schedule
from tests.export.frameworks import TOTAL, controller_rates, run


def optimizer_of(*lrs):
    return SGD([{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in lrs])


def rates(follow, total=TOTAL):
    used = []
    for _ in range(total):
        used.append(follow.optimizer.param_groups[0]["lr"])
        follow.optimizer.step()
        follow.step()
    return used


def as_it_says(source, metrics):
    """The rates in a loop of the lines that the docstring has, at the times that they name."""
    docstring = ast.get_docstring(ast.parse(source))
    make, *calls = [line.strip() for line in docstring.splitlines() if line.startswith("    ")]
    names = {"optimizer": optimizer_of(1.0)}
    exec(f"{source}\n{make}", names)
    used = []
    for update in range(1, TOTAL + 1):
        used.append(names["optimizer"].param_groups[0]["lr"])
        names["optimizer"].step()
        names["metric"] = metrics.get(update)
        for call in calls:
            if "after every update" in call or update in metrics:
                exec(call, names)
    return used


def test_open_loop_gives_the_tables_rates_and_holds_the_last(opened, total=97):
    follow = run(opened, "torch", total).make_scheduler(optimizer_of(1.0))
    expected = np.pad(opened.rates(total), (0, 5), mode="edge")
    used = rates(follow, total=total)
    with pytest.warns(UserWarning, match=f"stepped more than {total} times: the rate") as caught:
        used += rates(follow, total=5)
    assert [warning.filename for warning in caught] == [__file__]
    np.testing.assert_allclose(used, expected, rtol=0, atol=1e-12)
    row = FAMILIES[opened.family]
    native = row.torch != "LambdaLR" and row.native(opened.resolve(total))
    body = getattr(lr_scheduler, row.torch) if native else LambdaLR
    assert isinstance(follow, SequentialLR if native and opened.warmup else body)


def test_it_gives_the_rates_in_the_loop_that_it_says(every, metrics):
    used = as_it_says(export(every, to="torch", total=TOTAL), metrics)
    np.testing.assert_allclose(used, controller_rates(every, metrics), rtol=0, atol=1e-12)


def test_all_parameter_groups_get_the_same_rate():
    """As it says; Schedule.torch keeps their ratios."""
    follow = run(Schedule("linear", 0.5), "torch").make_scheduler(optimizer_of(1.0, 0.1))
    assert follow.get_last_lr() == [0.5, 0.5]


def test_a_formula_gives_the_rates_in_numpy_and_then_keeps_the_last(opened, total=997):
    names = {"np": np, "math": __import__("math")}
    exec(ratio(ExportContext(opened, total), "np"), names)
    used = [opened.peak_lr * float(names["ratio"](t)) for t in range(total + 3)]
    expected = opened.rates(total)
    np.testing.assert_allclose(used[:total], expected, rtol=1e-11, atol=1e-15 * opened.peak_lr)
    assert used[total:] == [used[total - 1]] * 3


def test_only_the_users_own_function_has_no_formula():
    assert {name for name, row in FAMILIES.items() if row.body} - {*FORMULAS} == {"custom"}


def test_a_replay_gives_the_rates_that_were_used(closed, metrics):
    again = replay(closed, TOTAL, [*metrics.items()])
    expected = controller_rates(closed, metrics)
    np.testing.assert_allclose(again.rates(TOTAL), expected, rtol=0, atol=1e-12)
    assert not again.closed_loop
    assert (again.warmup, again.warmup_start) == (closed.warmup, closed.warmup_start)


def test_a_replay_is_horizon_free_and_is_written_as_its_changes():
    plateau = Schedule("plateau", 0.4, knobs={"patience": 0})
    again = replay(plateau, 10, [(1, 1.0), (5, 1.0), (10, 0.5)])
    np.testing.assert_allclose(again.rates(1000), [0.4] * 500 + [0.04] * 500)
    assert "ratios = {0: 1.0, 500: 0.1" in export(again, to="torch", total=1000)
