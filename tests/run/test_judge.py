"""Which weights of a training count: one rule in the search, in the finals and in the report."""

import html
import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from overfit import overfit

import lrtune as package
from lrtune import Budget, Stopping
from lrtune.run.folder import Run
from lrtune.schedule import Schedule
from lrtune.verdict.best import BestSchedule

SEARCH = {"budget": Budget(trials=6), "families": ["constant", "cosine"], "peak_lr": (0.03, 0.06)}
SEARCH |= {"warmup": (0.0, 0.0), "stopping": Stopping("none", patience=0), "engine": "serial"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The same search with its finals, judged in both ways. Read them, never write in them."""
    found = {}
    for judge in ("last", "best"):
        folder = tmp_path_factory.mktemp(judge) / "run"
        package.tune(overfit(), judge=judge, out=folder, **SEARCH)
        package.confirm(folder, overfit(), trainings=4)
        found[judge] = Run(folder)
    return found


def judged(row: pd.Series, judge: str) -> int:
    """Which validation of a training counts."""
    curve = list(row["val_cross_entropy"])
    return len(curve) - 1 if judge == "last" else curve.index(min(curve))


@pytest.mark.parametrize("judge", ["last", "best"])
def test_one_rule_from_the_search_to_the_report(runs: dict[str, Run], judge: str) -> None:
    run = runs[judge]
    assert run.settings.judge == judge
    trials = run.trials()
    assert set(trials["state"]) == {"complete"}
    for _, row in trials.iterrows():
        at = judged(row, judge)
        assert row["value"] == row["val_cross_entropy"][at]
        assert row["judged_at"] == row["step"][at]
    finals = run.finals()
    assert set(finals["split"]) == {"test"}
    for _, row in finals.iterrows():
        assert row["judged_at"] == row["step"][judged(row, judge)]
    verdict = run.verdict()
    assert verdict.judge == judge
    for family in verdict.families:
        own = finals[finals["schedule"] == family.schedule.to_json()]
        curves = [row["val_cross_entropy"][judged(row, judge)] for _, row in own.iterrows()]
        assert family.validation == pytest.approx(sum(curves) / len(curves))
        assert family.mean == pytest.approx(own["final_cross_entropy"].mean())
    assert json.loads((run.folder / "best.json").read_text())["judge"] == judge
    found = BestSchedule.of(trials, run.settings, None).found
    row = trials[trials["number"] == found.trial].iloc[0]
    assert found.metrics["cross_entropy"] == row["value"]
    assert found.metrics["accuracy"] == row["val_accuracy"][judged(row, judge)]
    page = html.unescape(re.sub("<[^>]*>", "", (run.folder / "report.html").read_text()))
    assert f"judge{judge}" in page
    assert ("each with the weights of its best validation" in page) == (judge == "best")


def test_where_all_overfits_the_two_differ(runs: dict[str, Run]) -> None:
    last, best = (runs[judge].trials() for judge in ("last", "best"))
    assert last["schedule"][0] == best["schedule"][0]  # before the sampler learns
    assert best["value"][0] < last["value"][0]
    assert best["judged_at"][0] < last["judged_at"][0]
    finals = [runs[judge].finals()["final_cross_entropy"].mean() for judge in ("last", "best")]
    assert finals[1] < finals[0]


def test_where_every_trial_plateaus_nothing_is_crowned_by_what_it_showed(tmp_path: Path) -> None:
    """The first is trained to its end all the same; of the others there are forecasts."""
    quick = {"families": ["constant"], "stopping": Stopping(patience=1, min_delta=0.5)}
    run = package.tune(overfit(), judge="best", out=tmp_path / "run", **(SEARCH | quick))
    whole = run.trials()["state"] == "complete"
    assert whole.any() and (run.trials()["state"] == "plateaued").any()
    assert run.trials()["value"].notna().equals(whole)
    assert run.best() in [Schedule.from_json(text) for text in run.trials()["schedule"][whole]]
    found = package.confirm(run, replace(overfit()), trainings=4)
    assert found.families[0].searched == found.families[0].searched
