"""The momentum cycle in other people's loops: whoever cannot hold it says so."""

import csv
import json

import numpy as np
import pytest
from torch import nn
from torch.optim import SGD, Adagrad, AdamW

from lrtune.errors import InputError
from lrtune.export import EXPORTERS, RATES_ALONE, export
from lrtune.schedule import Schedule
from lrtune.scheduler import scheduler
from tests.export.frameworks import TOTAL, run

BOTH = {"base_momentum": 0.85, "max_momentum": 0.95}
CYCLES = [
    Schedule("one_cycle", 0.5, knobs=BOTH),
    Schedule("one_cycle", 0.5, knobs={**BOTH, "anneal_strategy": "linear", "pct_start": 0.0}),
    Schedule("cyclic", 0.5, 0.1, 0.3, {**BOTH, "mode": "exp_range"}),
    Schedule("cyclic", 0.5, knobs={**BOTH, "mode": "triangular2"}),
]


def made(make):
    groups = [{"params": nn.Linear(1, 1).parameters(), "lr": lr} for lr in (1.0, 0.5)]
    return make(groups, lr=1.0)


def held(optimizer):
    return [g["betas"][0] if "betas" in g else g["momentum"] for g in optimizer.param_groups]


def used(follow, updates):
    momenta = []
    for _ in range(updates):
        momenta.append(held(follow.optimizer))
        follow.optimizer.step()
        follow.step()
    return momenta


@pytest.mark.parametrize("make", [SGD, AdamW])
@pytest.mark.parametrize("schedule", CYCLES, ids=lambda s: s.family)
def test_torch_has_it(schedule, make):
    """In all groups, resumed with a new optimizer, held at the end; the export too."""
    first = scheduler(schedule, made(make), TOTAL)
    momenta = used(first, 17)
    again = scheduler(schedule, made(make), TOTAL)
    again.load_state_dict(first.state_dict())
    momenta += used(again, TOTAL - 17)
    momenta.append(held(again.optimizer))
    expected = np.pad(schedule.momenta(TOTAL), (0, 1), mode="edge")
    np.testing.assert_allclose(momenta, np.stack([expected] * 2, 1), rtol=0, atol=1e-12)
    exported = used(run(schedule, "torch").make_scheduler(made(make)), TOTAL)
    np.testing.assert_allclose(exported, momenta[:-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("schedule", CYCLES, ids=lambda s: s.family)
def test_so_has_timm_by_the_count_of_updates(schedule):
    """Whether it is told each update or resumes at one; epochs and past the end change nothing."""
    exported, optimizer, rows = run(schedule, "timm"), made(SGD), []
    follow = exported.make_scheduler(optimizer)
    with pytest.warns(UserWarning, match="stepped more than 40 times: the rate stays") as caught:
        for update in range(1, TOTAL + 4):
            rows.append([optimizer.param_groups[0]["lr"], held(optimizer)[0]])
            optimizer.step()
            follow.step_update(num_updates=update, metric=0.5)
            follow.step(update // 3, 0.5)
    assert len(caught) == 1
    expected = np.stack([schedule.rates(TOTAL), schedule.momenta(TOTAL)], 1)
    expected = np.pad(expected, ((0, 3), (0, 0)), mode="edge")
    np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-12)

    again = made(SGD)
    with pytest.warns(UserWarning, match="before"):  # torch's: no update in this process yet
        exported.make_scheduler(again).step_update(17)
    np.testing.assert_allclose(held(again), schedule.momenta(TOTAL)[17], rtol=0, atol=1e-12)


def test_without_a_cycle_momentum_is_the_users_own():
    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=1.0, momentum=0.7)
    follow = scheduler(Schedule("one_cycle", 0.5), optimizer, TOTAL)
    assert set(np.ravel(used(follow, TOTAL))) == {0.7}


def test_an_optimizer_without_momentum_is_refused():
    with pytest.raises(InputError, match="Adagrad has no momentum to cycle: take SGD"):
        scheduler(CYCLES[0], made(Adagrad), TOTAL)


@pytest.mark.parametrize("target", EXPORTERS)
def test_every_target_holds_it_or_says_that_it_cannot(target):
    schedule = CYCLES[0]
    if target in RATES_ALONE:
        with pytest.raises(InputError, match=f"{target} cannot hold the momentum cycle of one_cyc"):
            export(schedule, to=target, total=TOTAL)
        return
    text = export(schedule, to=target, total=TOTAL)
    momenta = schedule.momenta(TOTAL).tolist()
    if target == "csv":
        rows = list(csv.DictReader(text.splitlines()))
        assert [float(row["momentum"]) for row in rows] == momenta
        assert [float(row["rate"]) for row in rows] == schedule.rates(TOTAL).tolist()
    elif target == "json":
        assert json.loads(text)["momenta"] == momenta
    else:
        assert "cycle_momentum=True" in text
