"""Verdicts side by side: the table, wins per task, Markdown."""

import numpy as np
import pandas as pd
import pytest

from lrtune.errors import InputError
from lrtune.reports import compare, ranks
from lrtune.schedule import Schedule
from lrtune.verdict.finalists import Finalist
from lrtune.verdict.verdict import Plan, Verdict, verdict
from tests.documents import TASK, changed
from tests.reports.verdicts import made, tabled

COLUMNS = "task horizon source study seed metric unit direction split family place mean low high sd"
COLUMNS += " seeds gap gap_low gap_high rank peak_lr warmup schedule"


def judged(shifts, direction="minimize", lost=()):
    """What `verdict` itself says of made-up finals."""
    random = np.random.default_rng(0)
    seeds, objective = list(range(20)), {"name": "loss", "direction": direction, "unit": "nats"}
    shared = random.normal(0, 0.01, len(seeds))
    finalists, finals = [], []
    for number, (family, shift) in enumerate(shifts.items()):
        schedule = Schedule(family, peak_lr=0.1 + number / 10)
        finalists.append(Finalist(family=family, schedule=schedule, trial=number, searched=0.3))
        for seed in seeds:
            score = 0.3 + shift + shared[seed] + random.normal(0, 0.002)
            bad = family in lost and seed == 1
            final = {"family": family, "schedule": schedule.to_json(), "seed": seed}
            final |= {"state": "diverged" if bad else "complete", "reason": "", "split": "test"}
            final |= {"horizon": 100, "updates": 100, "step": [100], "val_loss": [score]}
            finals.append(final | {"final_loss": float("nan") if bad else score})
    run = {
        "study": "s",
        "task": TASK | {"name": "t", "model": "m"},
        "seed": 3,
    }
    run |= {"objective": objective, "metrics": {"loss": objective}}
    run |= {"optimizer": {"name": "sgd"}, "versions": {}}
    run |= {"judge": "last", "horizon": 100, "peak_lr": [0.01, 1.0], "range_test": None}
    trials = pd.DataFrame({"family": list(shifts), "state": "complete", "evidence": ""})
    trials = trials.assign(value=0.3, peak_lr=0.1, number=range(len(shifts)))
    return verdict(
        trials,
        pd.DataFrame(finals),
        finalists,
        run,
        seeds,
        Plan(trainings=20 * len(shifts)),
        over=True,
    )


def test_a_verdict_as_it_is_made():
    found = judged({"cosine": 0.0, "linear": 0.03, "step": 0.05, "constant": 0.0}, lost=["step"])
    table = compare.table([("runs/t", Verdict.model_validate(found.to_json()))])
    assert sorted(table) == sorted(COLUMNS.split())
    assert table["place"].tolist() == ["tied", "tied", "behind", "lost"]
    assert table["rank"].tolist() == [1, 2, 3, 4]
    first, lost = table.iloc[0], table.iloc[3]
    assert (first["task"], first["horizon"], first["split"], first["seed"]) == (
        "t, m",
        100,
        "test",
        3,
    )
    assert first["low"] < first["mean"] < first["high"] and first["gap"] == 0
    assert lost["family"] == "step" and np.isnan(lost["gap"]) and lost["seeds"] == 3
    assert Schedule.from_json(lost["schedule"]) == Schedule("step", peak_lr=lost["peak_lr"])


def test_nobody_left_to_win():
    found = judged({"cosine": 0.0, "step": 0.0}, lost=["cosine", "step"])
    table = compare.table([("runs/t", found)])
    assert table["rank"].tolist() == [1.5, 1.5] and set(table["place"]) == {"lost"}
    assert compare.sentences(table)[0] == "Nobody won: on every task, all families lost seeds."


def test_equal_gaps_and_lost_ones_share_ranks():
    gaps = {"cosine": 0.0, "linear": 0.1 + 0.2, "wsd": 0.3, "step": 0.5, "spline": 0.0}
    table = tabled(made(**gaps, lost=["step", "spline"])).set_index("family")["rank"]
    assert table.to_dict() == {"cosine": 1, "linear": 2.5, "wsd": 2.5, "step": 4.5, "spline": 4.5}


def test_who_is_behind_ranks_below_the_top_whatever_its_gap():
    found = made(cosine=0.0, linear=0.02)
    first, behind = found.families
    behind = changed(behind, gap=-0.01)  # on the few seeds before it was left behind
    assert tabled(changed(found, families=[first, behind]))["rank"].tolist() == [1, 2]


def test_one_task_again_counts_once():
    a = {"cosine": 0.0, "linear": 0.1, "wsd": 0.2}
    b = {"cosine": 0.1, "linear": 0.0, "wsd": 0.2}
    table = tabled(made("x", **a), made("y", **a), made("y", seed=1, **b), made("y", seed=2, **b))
    wins = compare.wins(table).set_index("family")
    assert wins["tasks"].tolist() == [2, 2, 2]
    assert wins.loc["cosine", "wins"] == pytest.approx(4 / 3)
    assert wins.loc["linear", "wins"] == pytest.approx(2 / 3)
    assert wins[["wins", "ties", "losses"]].sum(axis=1).to_numpy() == pytest.approx(2)
    means = {"cosine": (1 + 5 / 3) / 2, "linear": (2 + 4 / 3) / 2, "wsd": 3}
    assert ranks.ranking(table).means == pytest.approx(means)
    assert (
        compare.sentences(table)[-1]
        == "y, mlp over 862 updates was judged 3 times and counts once."
    )


def test_another_horizon_is_another_task():
    table = tabled(made(), made(horizon=1436))
    assert compare.wins(table)["tasks"].tolist() == [2, 2, 2]


def test_different_metrics_are_an_error_on_one_task_alone():
    with pytest.raises(InputError) as error:
        tabled(made(), made(metric="cross_entropy", seed=1))
    assert str(error.value) == (
        "runs/0 and runs/1: the same task, digits, mlp over 862 updates, judged by accuracy and "
        "by cross_entropy: leave one out"
    )
    table = tabled(made(), made("wine", "cross_entropy"))
    assert set(table["metric"]) == {"accuracy", "cross_entropy"}


def test_one_seed_has_no_interval():
    found = made()
    unknown = dict.fromkeys(("low", "high", "sd", "gap_low", "gap_high"), np.nan)
    rows = [changed(row, **unknown) for row in found.families]
    table = tabled(changed(found, families=rows))
    assert table["low"].isna().all() and table["gap_low"].isna().all()
    assert table["mean"].notna().all()
