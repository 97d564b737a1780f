"""Verdicts that are found, read and refused; the table that is written."""

import json
import re

import pandas as pd
import pytest

from lrtune.errors import InputError
from lrtune.reports import compare
from tests.documents import changed
from tests.reports.verdicts import made, put

EVIL = "<script>alert(1)</script> \"q' &amp; | مرحبا 🎉 </title><!-- \ud800\x1b"


def test_the_table_is_written(tmp_path):
    put(tmp_path / "runs" / "a", made())
    put(tmp_path / "runs" / "b", made("wine", lost=["constant"]))
    out = tmp_path / "table.parquet"
    found = compare.compare([tmp_path / "runs"], out)
    pd.testing.assert_frame_equal(pd.read_parquet(out), found.table)
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "table.parquet"}


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
    assert len(pd.read_parquet(tmp_path / "table.parquet")) == 2


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("table", "out='table': expected the name of a .parquet file"),
        ("none/table.parquet", "none/table.parquet: cannot be written: No such file"),
        ("folder.parquet", "folder.parquet: cannot be written: Is a directory"),
    ],
)
def test_where_no_table_can_be_written(out, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "runs", made())
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(InputError) as error:
        compare.compare(["runs"], out)
    assert str(error.value).startswith(message)
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "folder.parquet"}


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
        ({"verdict.json": "{}"}, "x/verdict.json: not a verdict: it has no format version"),
        ({"verdict.json": "[" * 10**5}, "x/verdict.json: not a verdict: maximum"),
        ({"verdict.json": b"\xff"}, "x/verdict.json: cannot be read: 'utf-8' codec"),
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
            {"verdict.json": broken(["horizon"], "long")},
            "x/verdict.json: damaged: horizon: expected a valid integer (got 'long')",
        ),
        (
            {"verdict.json": broken(["families"], 3)},
            "x/verdict.json: damaged: families: expected a valid list (got 3)",
        ),
        (
            {"verdict.json": broken(["families", 1, "place"], "third")},
            "x/verdict.json: damaged: families.1.place: expected 'winner', 'tied', 'behind' or",
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
            (tmp_path / "x" / name).write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(InputError) as error:
        compare.compare(["x"], "out.parquet")
    assert str(error.value).startswith(message)
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("verdicts", [[], [("a", made("a")), ("a", made("b"))]])
def test_verdicts_need_names(verdicts):
    with pytest.raises(InputError, match="expected verdicts to compare, each with a name of its"):
        compare.table(verdicts)
