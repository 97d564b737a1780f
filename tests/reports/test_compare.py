"""Verdicts side by side: how they are found and refused, the table, wins and ranks per task."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from lrtune.errors import InputError
from lrtune.reports import compare
from lrtune.schedule import Schedule
from tests.documents import changed
from tests.reports.verdicts import made, put, tabled

EVIL = "<script>alert(1)</script> \"q' &amp; | مرحبا 🎉 </title><!-- \ud800\x1b"


def test_the_table_of_a_verdict():
    gaps = {"cosine": 0.0, "linear": 0.0, "wsd": 0.1, "step": 0.2}
    table = tabled(changed(made(lost=["step"], **gaps), split="test"))
    assert table["place"].tolist() == ["tied", "tied", "behind", "lost"]
    assert table["rank"].tolist() == [1.5, 1.5, 3, 4]
    first, lost = table.iloc[0], table.iloc[3]
    assert [first[name] for name in ("task", "horizon", "seed")] == ["digits, mlp", 862, 0]
    assert first["low"] < first["mean"] < first["high"] and first["gap"] == 0
    assert lost["family"] == "step" and np.isnan(lost["gap"])
    assert Schedule.from_json(lost["schedule"]).peak_lr == lost["peak_lr"]


def test_nobody_left_to_win():
    table = tabled(made(cosine=0.0, step=0.0, lost=["cosine", "step"]))
    assert table["rank"].tolist() == [1.5, 1.5] and set(table["place"]) == {"lost"}
    assert compare.wins(table)[["wins", "ties", "losses"]].to_numpy().tolist() == [[0, 0, 1]] * 2


def test_equal_gaps_and_lost_ones_share_ranks():
    gaps = {"cosine": 0.0, "linear": 0.1 + 0.2, "wsd": 0.3, "step": 0.5, "spline": 0.0}
    table = tabled(made(**gaps, lost=["step", "spline"])).set_index("family")["rank"]
    assert table.to_dict() == {"cosine": 1, "linear": 2.5, "wsd": 2.5, "step": 4.5, "spline": 4.5}


def test_who_is_behind_ranks_below_the_top_whatever_its_gap():
    found = made(cosine=0.0, linear=0.02)
    first, other = found.families
    early = changed(other, gap=-0.01)  # on the few seeds before it was left behind
    assert tabled(changed(found, families=[first, early]))["rank"].tolist() == [1, 2]


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
    assert compare.mean_ranks(table) == pytest.approx(means)


def test_different_metrics_are_an_error_on_one_task_alone():
    with pytest.raises(InputError) as error:
        tabled(made(), made(metric="cross_entropy", seed=1))
    assert str(error.value) == (
        "runs/0 and runs/1: the same task, digits, mlp over 862 updates, judged by accuracy and "
        "by cross_entropy: leave one out"
    )
    table = tabled(made(), made("wine", "cross_entropy"), made(horizon=1436))
    assert compare.wins(table)["tasks"].tolist() == [3, 3, 3]
    assert set(table["metric"]) == {"accuracy", "cross_entropy"}


def test_one_seed_has_no_interval():
    found = made()
    unknown = dict.fromkeys(("low", "high", "sd", "gap_low", "gap_high"), np.nan)
    rows = [changed(row, **unknown) for row in found.families]
    table = tabled(changed(found, families=rows))
    assert table["low"].isna().all() and table["gap_low"].isna().all()
    assert table["mean"].notna().all()


def test_mean_ranks_are_of_the_shared_families():
    a, b = {"cosine": 0.0, "linear": 0.1}, {"cosine": 0.0, "linear": 0.0}
    table = tabled(made("x", **a, wsd=0.05), made("y", **b, step=0.3))
    assert compare.mean_ranks(table) == {"cosine": 1.25, "linear": 1.75}
    wins = compare.wins(table).set_index("family")
    assert np.isnan(wins.loc["wsd", "mean_rank"]) and wins.loc["wsd", "losses"] == 1
    few = (tabled(made()), tabled(made(), made(seed=1)))
    disjoint = tabled(made("a", **a), made("b", wsd=0.0, linear=0.1))
    for other in (*few, disjoint):
        assert compare.mean_ranks(other) == {} and compare.wins(other)["mean_rank"].isna().all()


def test_hostile_names_are_text(lrtune, tmp_path):
    gaps = {EVIL: 0.0, "cosine": 0.1}
    found = changed(
        made(EVIL, **gaps), study=EVIL, objective={"name": EVIL, "unit": EVIL}, task={"model": EVIL}
    )
    put(tmp_path / "runs", found)
    code, out, err = lrtune("compare", tmp_path / "runs", "--out", tmp_path / "table.parquet")
    assert (code, err) == (0, "")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800]", out)
    assert "alert(1)" in out and "مرحبا 🎉" in out
    found = compare.table(compare.find_verdicts([tmp_path / "runs"]))
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "table.parquet"), found)
    code, _, err = lrtune("compare", tmp_path / "runs", "--out", tmp_path / "none" / "x.parquet")
    assert code == 2 and "none/x.parquet: cannot be written: No such file" in err


def test_where_verdicts_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "runs" / "deep" / "a", made("a"))
    put(tmp_path / "runs" / "b", made("b"))
    (put(tmp_path / "runs" / "not-yet") / "run.json").write_text("{}")
    put(tmp_path / "results", made("c"), "c.json")
    put(tmp_path / "results", made("b"), "copy-of-b.json")
    (tmp_path / "results" / "best.json").write_text('{"format": 1, "schedule": {}}')
    (tmp_path / "results" / "list.json").write_text('["answer"]')
    put(tmp_path / "results" / "bench", made("d"), "d.json")

    def found(*paths):
        return {label: v.task.name for label, v in compare.find_verdicts(paths)}

    assert found("runs") == {"runs/b": "b", "runs/deep/a": "a"}
    assert found("results") == {"results/c.json": "c", "results/copy-of-b.json": "b"}
    assert found("runs/b", "runs", "results/c.json", "results") == {
        "runs/b": "b",
        "runs/deep/a": "a",
        "results/c.json": "c",
    }
    assert found("runs/b/verdict.json", "results/bench/d.json") == {
        "runs/b": "b",
        "results/bench/d.json": "d",
    }


def broken(path, value):
    """A verdict of which one entry is another, or, of None, missing."""
    found = made().to_json()
    place = found
    for key in path[:-1]:
        place = place[key]
    place.pop(path[-1]) if value is None else place.update({path[-1]: value})
    return found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "x: no such file or folder"),
        ({}, "x: holds no verdict: lrtune confirm RUN makes one"),
        ({"other.json": "{}"}, "x: holds no verdict: lrtune confirm RUN makes one"),
        ({"run.json": "{}"}, "x: has no verdict yet: lrtune confirm x"),
        ({"verdict.json": "{"}, "x/verdict.json: not a verdict: Expecting"),
        ({"a.json": "{"}, "x/a.json: cannot be read as JSON: Expecting"),
        (
            {"verdict.json": broken(["format"], 2)},
            "x/verdict.json: a verdict of format 2: this lrtune reads format 3",
        ),
        (
            {"verdict.json": broken(["answer", "place"], "unfinished")},
            "x: not finished yet: lrtune confirm goes on with it",
        ),
        (
            {"verdict.json": made(cosine=0.0).to_json()},
            "x: has one family only, nothing to compare: leave it out",
        ),
        (
            {"verdict.json": broken(["horizon"], None)},
            "x/verdict.json: damaged: horizon is missing",
        ),
        (
            {"verdict.json": broken(["families", 1, "gap"], float("nan"))},
            "x: damaged: linear is not lost, and has no mean or no gap",
        ),
    ],
)
def test_what_cannot_be_compared(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "x").mkdir()
        for name, text in content.items():
            text = json.dumps(text) if isinstance(text, dict) else text
            (tmp_path / "x" / name).write_text(text)
    with pytest.raises(InputError) as error:
        compare.table(compare.find_verdicts(["x"]))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("verdicts", [[], [("a", made("a")), ("a", made("b"))]])
def test_verdicts_need_names(verdicts):
    with pytest.raises(InputError, match="expected verdicts to compare, each with a name of its"):
        compare.table(verdicts)
