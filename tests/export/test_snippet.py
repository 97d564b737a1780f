"""The source that is written stands alone, and gives the rates of the table."""

import inspect

import numpy as np
import pytest
from torch import nn
from torch.optim import SGD, lr_scheduler
from torch.optim.lr_scheduler import LambdaLR, SequentialLR

from lrtune.errors import InputError
from lrtune.export import EXPORTERS, export
from lrtune.export.snippet import snippet
from lrtune.schedule import FAMILIES, Schedule

TOTAL = 40


def run(source):
    assert "import lrtune" not in source
    assert "from lrtune" not in source
    namespace = {}
    exec(source, namespace)
    return namespace["make_scheduler"](SGD(nn.Linear(1, 1).parameters(), lr=1.0))


def rates(follow, metrics=None, stepped=True, total=TOTAL):
    used = []
    for update in range(total):
        used.append(follow.optimizer.param_groups[0]["lr"])
        follow.optimizer.step()
        if stepped:
            follow.step()
        if update + 1 in (metrics or {}):
            follow.step(metrics[update + 1])
    return used


@pytest.mark.parametrize("total", [TOTAL, 97])
def test_open_loop_gives_the_tables_rates_and_holds_the_last(opened, total):
    follow = run(export(opened, to="torch", total=total))
    expected = np.pad(opened.rates(total), (0, 5), mode="edge")
    np.testing.assert_allclose(rates(follow, total=total + 5), expected, rtol=0, atol=1e-12)
    row = FAMILIES[opened.family]
    native = row.torch != "LambdaLR" and row.native(opened.resolve(total))
    body = getattr(lr_scheduler, row.torch) if native else LambdaLR
    assert isinstance(follow, SequentialLR if native and opened.warmup else body)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_closed_loop_gives_the_controllers_rates(closed, metrics, mode):
    follow = run(snippet(closed, TOTAL, mode))
    controller = closed.controller(TOTAL, mode)
    for update, metric in metrics.items():
        controller.observe(update, metric)
    stepped = "metrics" not in inspect.signature(follow.step).parameters or closed.warmup > 0
    np.testing.assert_allclose(rates(follow, metrics, stepped), controller.rates, atol=1e-12)


def test_rates_that_seldom_change_are_written_as_their_changes():
    drops = [Schedule("constant", rate) for rate in (0.5, 0.05, 0.005)]
    knobs = {"schedules": drops, "milestones": [0.5, 0.8]}
    source = snippet(Schedule("sequence", 0.5, 0.1, knobs=knobs), 1000)
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
    exec(snippet(Schedule("linear", 0.5), TOTAL), namespace)
    groups = [{"params": nn.Linear(1, 1).parameters(), "lr": lr} for lr in (1.0, 0.1)]
    assert namespace["make_scheduler"](SGD(groups, lr=1.0)).get_last_lr() == [0.5, 0.5]


def test_the_source_says_what_it_is():
    source = snippet(Schedule("wsd", peak_lr=0.1), 100)
    assert '"""wsd: stable, then a decay (Hu 2024, Hägele 2024).' in source
    assert "For 100 calls of scheduler.step(), one after every optimizer update; all" in source
    assert "all parameter groups\nget the same rate." in source
    assert Schedule("wsd", peak_lr=0.1).to_json() in source


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: export(s, to="torhc", total=10), "'torhc' is unknown: did you mean 'torch'"),
        (lambda s: export(s, to="torch", total=0), "total=0"),
        (lambda s: snippet(s, 10, "low"), "mode='low'"),
    ],
)
def test_misuse_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(Schedule("cosine", peak_lr=0.1))


def test_every_target_writes_source():
    for target in EXPORTERS:
        compile(export(Schedule("cosine", peak_lr=0.1), to=target, total=10), target, "exec")
