"""The verdict on made-up finals: places, targets, robustness, words, other horizons."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest

from lrtune.errors import InputError
from lrtune.results.horizons import outlook
from lrtune.results.kept import read_verdict
from lrtune.results.notes import notes, why
from lrtune.results.plan import Finalist, Plan, plan_in
from lrtune.results.recommendation import of_verdict, short
from lrtune.results.verdict import standing, verdict
from lrtune.results.wording import quickest
from lrtune.schedule import Schedule

LOSS = {"name": "cross_entropy", "direction": "minimize", "unit": "nats"}
ACCURACY = {"name": "accuracy", "direction": "maximize", "unit": None}
RUN = {
    "study": "s",
    "task": {"name": "digits", "model": "mlp", "data": "", "test": 10},
    "unit": "updates",
    "objective": LOSS,
    "judge": "last",
    "metrics": {"cross_entropy": LOSS, "accuracy": ACCURACY},
    "optimizer": {"name": "sgd"},
    "versions": {},
    "seed": 0,
    "horizon": 100,
    "peak_lr": [0.01, 1.0],
    "range_test": {"base_lr": 0.02, "max_lr": 0.5},
}
SEEDS = list(range(100, 120))


def finalist(family: str, value: float = 0.3) -> Finalist:
    return Finalist(family, Schedule(family, peak_lr=0.1), 1, value, "leader")


def finals(levels: dict[str, float], seeds: int = 5, sd: float = 0.01, horizon: int = 100):
    """Of each family a level, and noise of its own around it; curves fall to it in ten steps."""
    random = np.random.default_rng(0)
    rows = []
    for family, level in levels.items():
        for seed in SEEDS[:seeds]:
            score = level + sd * random.standard_normal()
            lost = math.isnan(score)
            curve = [score + 0.1 * (10 - i) for i in range(1, 11)]
            rows.append(
                {
                    "family": family,
                    "schedule": Schedule(family, peak_lr=0.1).to_json(),
                    "seed": seed,
                    "horizon": horizon,
                    "state": "diverged" if lost else "complete",
                    "reason": "loss is nan" if lost else "reached the horizon",
                    "split": "test",
                    "step": list(range(10, 101, 10)),
                    "judged_at": math.nan if lost else 100,
                    "updates": 100,
                    "final_cross_entropy": score,
                    "final_accuracy": 1 - score,
                    "val_cross_entropy": curve,
                    "val_accuracy": [1 - value for value in curve],
                }
            )
    return pd.DataFrame(rows)


def searched(peaks: dict[float, float], family: str = "cosine") -> pd.DataFrame:
    """Trials of one family: value by peak; NaN diverged."""
    rows = [
        {
            "number": number,
            "family": family,
            "peak_lr": peak,
            "value": value,
            "state": "diverged" if math.isnan(value) else "complete",
            "evidence": "{}",
            "schedule": Schedule(family, peak_lr=peak).to_json(),
            f"{family}.peak_lr": peak,
        }
        for number, (peak, value) in enumerate(peaks.items())
    ]
    return pd.DataFrame(rows)


def judge(levels: dict[str, float], plan: Plan | None = None, run=RUN, **kept):
    who = [finalist(family) for family in levels]
    table = finals(levels, **kept)
    return verdict(searched({0.1: 0.3}), table, who, run, SEEDS, plan or Plan())


def answer(found: dict) -> str:
    return " ".join(of_verdict(found))


def test_a_clear_winner_after_the_first_look() -> None:
    found = judge({"cosine": 0.1, "constant": 0.4, "wsd": 0.5})
    assert found["answer"]["place"] == "winner" and found["answer"]["why"] == "separated"
    assert [row["family"] for row in found["families"]] == ["cosine", "constant", "wsd"]
    use, gain, sure = of_verdict(found)
    assert use == "Use cosine: peak 0.1, T_max 1, eta_min 0"
    assert re.match(r"Gain: cross-entropy 0\.\d+ nats better than a tuned constant \(95 %: 0", gain)
    assert "better than a tuned constant: yes (p < 0.001); wsd is behind (5 fresh" in sure
    assert found["families"][1]["gap"] == pytest.approx(0.3, abs=0.03)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_tie_asks_for_seeds_then_says_how_many_would_do() -> None:
    levels = {"cosine": 0.1, "linear": 0.101, "constant": 0.5}
    unfinished = judge(levels)
    assert unfinished["answer"]["place"] == "unfinished"
    who = [finalist(family) for family in levels]
    asked = standing(finals(levels), who, LOSS, SEEDS, Plan())
    assert asked.wanted == {"cosine": 10, "linear": 10}
    found = judge(levels, seeds=20)
    assert found["answer"]["place"] == "tie"
    assert set(found["answer"]["families"]) == {"cosine", "linear"}
    assert "is as good (20 fresh seeds, test)" in answer(found)
    assert "20 seeds were allowed" in why(found)
    assert found["answer"]["needed"] > 20
    settled = judge(levels, Plan(indifference=0.1))
    assert settled["answer"]["why"] == "settled" and "does not matter" in why(settled)


def test_maximised_metrics_are_ranked_the_other_way() -> None:
    run = RUN | {"objective": ACCURACY}
    found = judge({"cosine": 0.1, "constant": 0.4}, run=run)
    assert found["answer"]["families"] == ["cosine"]
    assert found["families"][0]["mean"] == pytest.approx(0.9, abs=0.02)
    assert found["families"][1]["gap"] == pytest.approx(0.3, abs=0.03)


def test_finals_that_diverge() -> None:
    found = judge({"cosine": math.nan, "constant": 0.4})
    assert found["answer"]["families"] == ["constant"] and found["answer"]["why"] == "alone"
    assert "cosine diverged" in answer(found)
    none = judge({"cosine": math.nan, "constant": math.nan})
    assert none["answer"]["place"] == "none" and answer(none).startswith("No winner")
    assert none["families"][0]["reasons"] == ["loss is nan"]


def test_one_family_and_one_seed() -> None:
    one = judge({"cosine": 0.1})
    assert one["answer"]["why"] == "alone" and "nothing to compare" in answer(one)
    single = judge({"cosine": 0.1, "linear": 0.3}, Plan(1, 1), seeds=1)
    assert single["answer"]["place"] == "tie" and "(1 fresh seed, test)" in answer(single)
    assert single["families"][0]["low"] is None and notes(single)


def test_fewest_updates_to_a_target() -> None:
    found = judge({"cosine": 0.1, "constant": 0.4})
    target = found["quickest"]
    assert target["from"] == "constant" and target["value"] == pytest.approx(0.41, abs=0.02)
    assert target["tied"] == ["cosine"] and target["families"][0]["updates"] == 70
    plan = Plan(target=("accuracy", 0.85))
    found = judge({"cosine": 0.1, "constant": 0.4}, plan)
    assert [row["reached"] for row in found["quickest"]["families"]] == [5, 0]
    assert "accuracy 0.8500" in quickest(found)
    nobody = judge({"cosine": 0.1, "constant": 0.4}, Plan(target=("accuracy", 0.99)))
    assert "no family reached it on every seed" in quickest(nobody)
    with pytest.raises(InputError, match="metric 'f1': one of cross_entropy, accuracy"):
        judge({"cosine": 0.1}, Plan(target=("f1", 1.0)))
    assert "name it" in quickest(judge({"cosine": 0.1, "linear": 0.4}))


def test_only_finals_of_the_same_schedule_and_without_a_gap_in_the_seeds_count() -> None:
    table = finals({"cosine": 0.1, "constant": 0.4})
    other = Schedule("cosine", peak_lr=0.3).to_json()
    table.loc[(table["family"] == "cosine") & (table["seed"] == SEEDS[2]), "schedule"] = other
    who = [finalist("cosine"), finalist("constant")]
    found = standing(table, who, LOSS, SEEDS, Plan())
    assert found.standings["cosine"].seeds == 2 and found.why == "more"


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"seeds": 0}, "seeds=0: a whole number of at least 1"),
        ({"seeds": 8, "max_seeds": 4}, "max_seeds=4: at least as many as seeds, 8"),
        ({"indifference": -1.0}, "indifference=-1.0: 0 or more"),
        ({"indifference": math.inf}, "indifference=inf: 0 or more"),
    ],
)
def test_plans_that_make_no_sense(plan: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Plan(**plan)


def test_a_verdict_is_read_again() -> None:
    plan = Plan(3, 12, 0.01, ("accuracy", 0.9))
    found = judge({"cosine": 0.1, "constant": 0.4}, plan)
    assert read_verdict(json.dumps(found), "here") == found
    assert plan_in(found) == plan
    assert short(found)["lines"] == of_verdict(found)
    for text in ("", "[]", "{}", '{"format": 1, "answer": 3}'):
        with pytest.raises(InputError, match="here: not a verdict of lrtune"):
            read_verdict(text, "here")
    with pytest.raises(InputError, match="format 9: this lrtune reads 1"):
        read_verdict(json.dumps(found | {"format": 9}), "here")


def test_other_horizons() -> None:
    levels = {"cosine": 0.1, "linear": 0.2, "wsd": 0.3, "constant": 0.4}
    short_one = judge(levels, horizon=100)
    alike = judge(levels, horizon=400)
    other = judge(dict(zip(levels, (0.4, 0.3, 0.2, 0.1), strict=True)), horizon=400, seeds=10)
    assert "not known" in outlook([short_one], 300)
    assert "is expected to hold" in outlook([alike, short_one], 300)
    assert "is not expected to hold" in outlook([short_one, other], 300)
    assert "Further out nothing is known" in outlook([short_one, alike], 900)
    middle = judge(levels, horizon=200)
    assert "is not expected to hold" in outlook([short_one, middle, other], 900)
    assert "shorter than any tried" in outlook([short_one, alike], 10)
    assert "no finals yet" in outlook([], 10)


def test_who_was_left_behind_by_another_is_said() -> None:
    """linear loses to cosine on five seeds; on the next ones wsd is the best, with wide noise."""
    table = finals({"cosine": 0.1, "linear": 0.4, "wsd": 0.1}, seeds=20)
    score = table["final_cross_entropy"].copy()
    wsd = (table["family"] == "wsd").to_numpy()
    score[wsd] = np.array([0.2, 0.6, -0.1, 0.4, 0.1, *[-0.5, -0.4, -0.6] * 5])
    table["final_cross_entropy"] = score
    early = (table["family"] != "linear") | table["seed"].isin(SEEDS[:5])
    who = [finalist(family) for family in ("cosine", "linear", "wsd")]
    found = verdict(searched({0.1: 0.3}), table[early], who, RUN, SEEDS, Plan())
    linear = next(row for row in found["families"] if row["family"] == "linear")
    assert found["families"][0]["family"] == "wsd"
    assert (linear["place"], linear["rival"]) == ("behind", "cosine")
    assert linear["gap_low"] < 0 < linear["gap_high"]
    said = "linear was left behind after 5 seeds by cosine, the best at that time"
    assert any(sentence.startswith(said) for sentence in notes(found))
    clear = judge({"cosine": 0.1, "linear": 0.4})
    assert not any("left behind" in sentence for sentence in notes(clear))


def test_a_second_test_is_said() -> None:
    found = judge({"cosine": 0.1, "constant": 0.4})
    assert not any("judged before" in sentence for sentence in notes(found))
    said = notes(found | {"earlier": [5, 10]})
    assert (
        "It was judged before with at most 5 and 10 seeds: of equals, each of these 3 tests may "
        "name a winner in up to 5 %, together in up to 15 %." in said
    )
