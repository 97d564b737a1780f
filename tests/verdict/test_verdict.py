"""The verdict on made-up finals: places, targets, robustness, words, other horizons."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lrtune.errors import InputError
from lrtune.schedule import Schedule
from lrtune.verdict.recommendation import WHY, notes, of_verdict
from lrtune.verdict.settings import Objective
from lrtune.verdict.summary import Finalist
from lrtune.verdict.verdict import Plan, Verdict, standing, verdict
from tests.documents import ACCURACY, LOSS, RUN, changed

SEEDS = list(range(100, 120))


def finalist(family: str, value: float = 0.3) -> Finalist:
    schedule = Schedule(family, peak_lr=0.1)
    return Finalist(family=family, schedule=schedule, trial=1, searched=value)


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


def judge(levels: dict[str, float], plan: Plan | None = None, run=RUN, over=True, **kept):
    """The verdict on five finals of each, unless ``kept`` says otherwise."""
    table = finals(levels, **kept)
    plan = plan or Plan()
    plan = replace(plan, trainings=plan.trainings or len(table))
    who = [finalist(family) for family in levels]
    return verdict(searched({0.1: 0.3}), table, who, run, SEEDS, plan, over)


def answer(found: Verdict) -> str:
    return " ".join(of_verdict(found))


def test_a_clear_winner() -> None:
    found = judge({"cosine": 0.1, "constant": 0.4, "wsd": 0.5})
    assert (found.answer.place, found.answer.why) == ("winner", "separated")
    assert found.recommended.family == "cosine"
    assert [row.family for row in found.families] == ["cosine", "constant", "wsd"]
    (gain,) = found.answer.gains
    assert (gain.over, gain.what, gain.sure) == ("constant", "a tuned constant", True)
    assert gain.p < 0.01 and 0 < gain.low < gain.gain < gain.high
    use, gained, sure = of_verdict(found)
    assert use == "Use cosine: peak 0.1, T_max 1, eta_min 0"
    assert gained.startswith("Gain: cross-entropy 0.") and "better than a tuned constant" in gained
    assert "better than a tuned constant: yes (p" in sure and "wsd is behind" in sure
    assert found.families[1].gap == pytest.approx(0.3, abs=0.03)
    upwards = judge({"cosine": 0.1, "constant": 0.4}, run=changed(RUN, objective=ACCURACY))
    assert upwards.answer.families == ["cosine"]
    assert upwards.families[0].mean == pytest.approx(0.9, abs=0.02)
    assert upwards.families[1].gap == pytest.approx(0.3, abs=0.03)


def test_a_tie_says_why_no_more_was_trained() -> None:
    levels = {"cosine": 0.1, "rex": 0.101, "constant": 0.5}
    who = [finalist(family) for family in levels]
    close = levels | {"rex": 0.11}
    asked = standing(finals(close, seeds=3), who, LOSS, SEEDS, Plan(trainings=30))
    assert asked.wanted == {"cosine": 4, "rex": 4}
    unfinished = judge(close, Plan(trainings=30), over=False, seeds=3)
    assert unfinished.answer.place == "unfinished" and "not finished" in answer(unfinished)
    found = judge(levels)
    assert (found.answer.place, found.answer.why) == ("tie", "futile")
    assert set(found.answer.families) == {"cosine", "rex"}
    assert "rex is as good" in answer(found) and "hardly" in str(notes(found))
    settled = judge(levels, Plan(margin=0.1))
    assert settled.answer.why == "equivalent" and settled.answer.margin == 0.1
    assert "0.1 nats" in str(notes(settled))
    for reason in WHY:
        (said,) = notes(changed(found, answer={"why": reason}))
        assert said.startswith("Why no more seeds: ") and "{" not in said
    *_, again = notes(changed(found, earlier=[5, 10]))
    assert "with 5 and 10 trainings" in again and "these 3 tests" in again and "15 %" in again


def test_finals_that_diverge_one_family_and_one_seed() -> None:
    found = judge({"cosine": math.nan, "constant": 0.4})
    assert found.answer.families == ["constant"] and found.answer.place == "winner"
    assert "cosine diverged" in answer(found)
    none = judge({"cosine": math.nan, "constant": math.nan})
    assert none.answer.place == "none" and answer(none).startswith("No winner")
    assert none.answer.recommended is None and none.answer.gains == []
    assert none.families[0].reasons == ["loss is nan"]
    one = judge({"cosine": 0.1})
    assert one.answer.why == "alone" and "nothing to compare" in answer(one)
    single = judge({"cosine": 0.1, "linear": 0.3}, seeds=1)
    assert single.answer.place == "tie" and "(1 fresh seed, test)" in answer(single)
    assert math.isnan(single.families[0].low)


def test_your_own_comes_first_in_the_gains() -> None:
    table = finals({"cosine": 0.1, "constant": 0.2, "step": 0.11})
    mine = Finalist(family="yours", schedule=Schedule("step", peak_lr=0.1), role="yours")
    who, plan = [finalist("cosine"), finalist("constant"), mine], Plan(trainings=len(table))
    gains = verdict(searched({0.1: 0.3}), table, who, RUN, SEEDS, plan, True).answer.gains
    assert [gain.what for gain in gains] == ["your step", "a tuned constant"]
    assert [gain.sure for gain in gains] == [False, True]


@pytest.mark.parametrize("objective", [LOSS, ACCURACY])
def test_what_the_search_alone_says_of_those_not_compared(objective: Objective) -> None:
    """Of each the 5 % quantile, the mean and the 95 % quantile of what is believed."""
    believed = {
        "cosine": (0.1, 0.2, 0.3),
        "linear": (0.15, 0.22, 0.5),
        "rex": (0.25, 0.35, 0.45),
        "step": (0.4, 0.5, 0.6),
        "wsd": (0.01, 0.02, 0.03),
        "tanh": (math.nan,) * 3,
        "spline": (math.nan,) * 3,
    }
    rows = []
    for family, ends in believed.items():
        low, mean, high = ends if objective is LOSS else [1 - end for end in reversed(ends)]
        known = {"expected": mean, "low": low, "high": high, "p_best": 0 * mean}
        rows.append(searched({0.1: 0.3}, family).assign(**known))
    trials = pd.concat(rows, ignore_index=True)
    trials.loc[trials["family"] == "spline", "state"] = "diverged"
    table, run = finals({"cosine": 0.1}), changed(RUN, objective=objective)
    found = verdict(trials, table, [finalist("cosine")], run, SEEDS, Plan(trainings=5), True)
    expected = {"linear": "close", "rex": "open", "step": "behind", "wsd": "open", "tanh": "open"}
    expected |= {"spline": "diverged"}
    assert {gone.family: gone.why for gone in found.absent} == expected
    assert "Expected by the search: linear is as good; step is behind" in answer(found)


def test_only_finals_of_the_same_schedule_and_without_a_gap_in_the_seeds_count() -> None:
    table = finals({"cosine": 0.1, "constant": 0.4})
    other = Schedule("cosine", peak_lr=0.3).to_json()
    table.loc[(table["family"] == "cosine") & (table["seed"] == SEEDS[2]), "schedule"] = other
    who = [finalist("cosine"), finalist("constant")]
    found = standing(table, who, LOSS, SEEDS, Plan(trainings=10))
    assert found.standings["cosine"].seeds == 2 and found.why == "more"


def test_plans_that_make_no_sense() -> None:
    for margin in (-1.0, math.inf):
        with pytest.raises(InputError, match=f"margin={margin}: 0 or more"):
            Plan(margin=margin)


def test_a_verdict_is_read_again(tmp_path: Path) -> None:
    plan = Plan(trainings=10, margin=0.01, width=4)
    found, path = judge({"cosine": 0.1, "constant": 0.4}, plan), tmp_path / "verdict.json"
    found.write(path)
    assert Verdict.read(path) == found and found.plan == plan
    written = path.read_text()
    for old, new, message in (
        (written, "", "not a verdict: Expecting value"),
        (written, "[]", "not a verdict: it has no format version"),
        (written, "[" * 10**5, "not a verdict: maximum recursion"),
        ('"format": 3', '"format": 2', "a verdict of format 2: this lrtune reads format 3"),
        ('"horizon": 100', '"horizon": "long"', "horizon: expected a valid integer .got 'long'"),
        ('"seed": 0,', "", "damaged: seed is missing"),
        ('"place": "behind"', '"place": "third"', "place: expected 'winner', .*got 'third'"),
        ('"margin": 0.01', '"margin": -1', "plan: expected margin=-1: 0 or more"),
        ('"family": "cosine",\n        "peak', '"family": "cosin",\n        "peak', "did you mean"),
    ):
        assert old in written
        path.write_text(written.replace(old, new))
        with pytest.raises(InputError, match=f"verdict.json: .*{message}"):
            Verdict.read(path)


def test_judged_again_it_is_the_same_though_another_is_recommended() -> None:
    table, who = finals({"step": 0.12, "cosine": 0.1, "wsd": 0.11}), ["step", "cosine", "wsd"]
    plan = Plan(trainings=len(table))
    found = verdict(searched({0.1: 0.3}), table, [*map(finalist, who)], RUN, SEEDS, plan, True)
    assert found.answer.recommended != "step"
    assert [one.family for one in found.finalists] == who
    again = verdict(searched({0.1: 0.3}), table, found.finalists, RUN, SEEDS, plan, True)
    assert again == found
