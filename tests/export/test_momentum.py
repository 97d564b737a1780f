"""The momentum cycle in other people's loops: whoever cannot hold it says so."""

import csv
import json

import numpy as np
import pytest
from torch import nn
from torch.optim import SGD, Adagrad, AdamW

from lrtune.errors import InputError
from lrtune.export import EXPORTERS, export
from lrtune.schedule import Schedule
from lrtune.scheduler import scheduler

TOTAL = 40
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
    found = []
    for _ in range(updates):
        found.append(held(follow.optimizer))
        follow.optimizer.step()
        follow.step()
    return found


@pytest.mark.parametrize("make", [SGD, AdamW])
@pytest.mark.parametrize("schedule", CYCLES, ids=lambda s: s.family)
def test_torchs_scheduler_has_it(schedule, make):
    """In all groups, resumed in the middle with a new optimizer, and held at the end."""
    first = scheduler(schedule, made(make), TOTAL)
    found = used(first, 17)
    again = scheduler(schedule, made(make), TOTAL)
    again.load_state_dict(first.state_dict())
    found += used(again, TOTAL - 17)
    momenta = schedule.momenta(TOTAL)
    np.testing.assert_allclose(found, np.stack([momenta, momenta], 1), rtol=0, atol=1e-12)
    np.testing.assert_allclose(held(again.optimizer), momenta[-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [SGD, AdamW])
@pytest.mark.parametrize("schedule", CYCLES, ids=lambda s: s.family)
def test_so_has_the_snippet(schedule, make):
    namespace = {}
    exec(export(schedule, to="torch", total=TOTAL), namespace)
    optimizer = make(nn.Linear(1, 1).parameters(), lr=1.0)
    found = used(namespace["make_scheduler"](optimizer), TOTAL)
    np.testing.assert_allclose(np.ravel(found), schedule.momenta(TOTAL), rtol=0, atol=1e-12)


@pytest.mark.parametrize("schedule", CYCLES, ids=lambda s: s.family)
def test_so_has_timm_by_the_count_of_updates(schedule):
    """Whether it is told each update or resumes at one; epochs and past the end change nothing."""
    namespace = {}
    exec(export(schedule, to="timm", total=TOTAL), namespace)
    optimizer = made(SGD)
    scheduler, found = namespace["make_scheduler"](optimizer), []
    with pytest.warns(UserWarning, match="stepped more than 40 times: the rate stays") as said:
        for update in range(1, TOTAL + 4):
            found.append([optimizer.param_groups[0]["lr"], held(optimizer)[0]])
            optimizer.step()
            scheduler.step_update(num_updates=update, metric=0.5)
            scheduler.step(update // 3, 0.5)
    assert len(said) == 1
    wanted = np.stack([schedule.rates(TOTAL), schedule.momenta(TOTAL)], 1)
    wanted = np.pad(wanted, ((0, 3), (0, 0)), mode="edge")
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)

    again = made(SGD)
    with pytest.warns(UserWarning, match="before"):  # torch's: no update in this process yet
        namespace["make_scheduler"](again).step_update(17)
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
    if target in ("keras", "optax"):
        with pytest.raises(
            InputError, match=f"{target} cannot hold the momentum cycle of one_cycl"
        ):
            export(schedule, to=target, total=TOTAL)
        return
    text = export(schedule, to=target, total=TOTAL)
    momenta = schedule.momenta(TOTAL).tolist()
    if target == "csv":
        rows = list(csv.DictReader(text.splitlines()))
        assert [float(row["momentum"]) for row in rows] == momenta
        assert [float(row["rate"]) for row in rows] == schedule.rates(TOTAL).tolist()
        assert "momentum" not in export(Schedule("one_cycle", 0.5), to="csv", total=TOTAL)
    elif target == "json":
        assert json.loads(text)["momenta"] == momenta
        assert "momenta" not in json.loads(export(Schedule("cosine", 0.5), to="json", total=TOTAL))
    else:
        assert "base_momentum=0.85, max_momentum=0.95, cycle_momentum=True" in text
