"""The source that is written stands alone, and gives the rates of the table."""

import ast

import numpy as np
import pytest
from torch import nn
from torch.optim import SGD, lr_scheduler
from torch.optim.lr_scheduler import LambdaLR, SequentialLR

from lrtune.errors import InputError
from lrtune.export import export
from lrtune.export.context import ExportContext
from lrtune.export.torch import torch as source_of
from lrtune.schedule import FAMILIES, Schedule

TOTAL = 40


def run(source):
    assert "import lrtune" not in source
    assert "from lrtune" not in source
    namespace = {}
    exec(source, namespace)
    return namespace["make_scheduler"](SGD(nn.Linear(1, 1).parameters(), lr=1.0))


def rates(follow, total=TOTAL):
    used = []
    for _ in range(total):
        used.append(follow.optimizer.param_groups[0]["lr"])
        follow.optimizer.step()
        follow.step()
    return used


def as_it_says(source, metrics):
    """The rates in a loop of the lines that the docstring has, at the times that they name."""
    said = ast.get_docstring(ast.parse(source))
    make, *calls = [line.strip() for line in said.splitlines() if line.startswith("    ")]
    names = {"optimizer": SGD(nn.Linear(1, 1).parameters(), lr=1.0)}
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


@pytest.mark.parametrize("total", [TOTAL, 97])
def test_open_loop_gives_the_tables_rates_and_holds_the_last(opened, total):
    follow = run(export(opened, to="torch", total=total))
    expected = np.pad(opened.rates(total), (0, 5), mode="edge")
    used = rates(follow, total=total)
    with pytest.warns(
        UserWarning, match=f"stepped more than {total} times: the rate stays"
    ) as said:
        used += rates(follow, total=5)
    assert [warning.filename for warning in said] == [__file__]
    np.testing.assert_allclose(used, expected, rtol=0, atol=1e-12)
    row = FAMILIES[opened.family]
    native = row.torch != "LambdaLR" and row.native(opened.resolve(total))
    body = getattr(lr_scheduler, row.torch) if native else LambdaLR
    assert isinstance(follow, SequentialLR if native and opened.warmup else body)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_closed_loop_gives_the_controllers_rates(closed, metrics, mode):
    used = as_it_says(source_of(ExportContext(closed, TOTAL), mode), metrics)
    controller = closed.controller(TOTAL, mode)
    for update, metric in metrics.items():
        controller.observe(update, metric)
    np.testing.assert_allclose(used, controller.rates, atol=1e-12)


def test_open_loop_gives_the_rates_in_the_loop_that_it_says(opened):
    used = as_it_says(export(opened, to="torch", total=TOTAL), {})
    np.testing.assert_allclose(used, opened.rates(TOTAL), rtol=0, atol=1e-12)


def test_rates_that_seldom_change_are_written_as_their_changes():
    drops = [Schedule("constant", rate) for rate in (0.5, 0.05, 0.005)]
    knobs = {"schedules": drops, "milestones": [0.5, 0.8]}
    source = export(Schedule("sequence", 0.5, 0.1, knobs=knobs), to="torch", total=1000)
    assert "ratios = {0: 1.0, 450: 0.1, 720: 0.01}  # from an update on" in source


def test_a_resumed_scheduler_goes_on(opened):
    source = export(opened, to="torch", total=TOTAL)
    first, again = run(source), run(source)
    used = rates(first, total=17)
    again.load_state_dict(first.state_dict())
    again.optimizer.load_state_dict(first.optimizer.state_dict())
    used += rates(again, total=TOTAL - 17)
    np.testing.assert_allclose(used, opened.rates(TOTAL), rtol=0, atol=1e-12)


def test_all_parameter_groups_get_the_same_rate():
    """As it says; Schedule.torch keeps their ratios."""
    namespace = {}
    exec(export(Schedule("linear", 0.5), to="torch", total=TOTAL), namespace)
    groups = [{"params": nn.Linear(1, 1).parameters(), "lr": lr} for lr in (1.0, 0.1)]
    assert namespace["make_scheduler"](SGD(groups, lr=1.0)).get_last_lr() == [0.5, 0.5]


def test_the_source_says_what_it_is():
    source = export(Schedule("wsd", peak_lr=0.1), to="torch", total=100)
    assert '"""wsd: stable, then a decay (Hu 2024, Hägele 2024).' in source
    assert "For 100 updates of the optimizer; all parameter groups get the same rate:" in source
    assert Schedule("wsd", peak_lr=0.1).to_json() in source


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: export(s, to="torhc", total=10), "'torhc' is unknown: did you mean 'torch'"),
        (lambda s: export(s, to="torch", total=0), "total=0"),
        (lambda s: source_of(ExportContext(s, 10), "low"), "mode='low'"),
    ],
)
def test_misuse_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(Schedule("cosine", peak_lr=0.1))
