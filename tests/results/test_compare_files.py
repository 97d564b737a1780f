"""Verdicts that are found, read and refused; the page and the table that are written."""

import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from lrtune.errors import InputError
from lrtune.results import compare
from tests.results.verdicts import made, put

EVIL = "<script>alert(1)</script> \"q' &amp; | مرحبا 🎉 </title><!-- \ud800\x1b"


class Page(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.ids, self.text = [], [], []
        self.feed(html)
        self.words = " ".join("".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self.ids.append(dict(attrs)["id"])

    def handle_data(self, data):
        if self.tags[-1][0] not in ("script", "style"):
            self.text.append(data)


def test_page_and_table_are_written(tmp_path):
    put(tmp_path / "runs" / "a", made())
    put(tmp_path / "runs" / "b", made("wine", lost=["constant"]))
    found = compare.write([tmp_path / "runs"], tmp_path / "deep" / "out")
    pd.testing.assert_frame_equal(
        pd.read_parquet(found.page.parent / "compare.parquet"), found.table
    )
    html = found.page.read_text(encoding="utf-8")
    assert html == compare.render(found.table, found.wins, found.sentences)
    page = Page(html)
    assert page.ids == ["answer", "tasks", "families", "gaps", "sources"]
    assert all(sentence in page.words for sentence in found.sentences)
    assert "2.5" in page.words  # 0.05 worse, of a standard deviation of 0.02
    assert not any("src" in attrs or tag == "link" for tag, attrs in page.tags)
    assert "nan" not in page.words.lower().split()
    assert len(html) < 100_000


def test_hostile_names_are_text(tmp_path):
    gaps = {EVIL: 0.0, "cosine": 0.1}
    found = made(EVIL, **gaps) | {"study": EVIL, "split": EVIL}
    found["objective"] = {"name": EVIL, "unit": EVIL, "direction": "maximize"}
    found["task"]["model"] = EVIL
    put(tmp_path / "runs", found)
    comparison = compare.write([tmp_path / "runs"], tmp_path / "out")
    page = Page(comparison.page.read_text(encoding="utf-8"))
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "alert(1)" in page.words and "مرحبا 🎉" in page.words
    shown = compare.markdown(comparison.table, comparison.wins)
    assert not re.search(r"(?<!\\)<|\x1b|\ud800", shown)
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in shown.splitlines() if line[:1] == "|"}
    assert cells == {8, 10}
    assert len(pd.read_parquet(tmp_path / "out" / "compare.parquet")) == 2


def test_write_is_atomic(tmp_path, monkeypatch):
    put(tmp_path / "runs", made())
    page = compare.write([tmp_path / "runs"], tmp_path / "out").page
    before = page.read_bytes()

    def fails(*names):
        raise OSError("disk full")

    monkeypatch.setattr("lrtune.files.os.replace", fails)
    with pytest.raises(OSError, match="disk full"):
        compare.write([tmp_path / "runs"], tmp_path / "out")
    assert page.read_bytes() == before
    assert {p.name for p in page.parent.iterdir()} == {"compare.html", "compare.parquet"}


def test_out_that_is_a_file(tmp_path):
    put(tmp_path / "runs", made())
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match=r"out='.*out': cannot be a folder: File exists"):
        compare.write([tmp_path / "runs"], tmp_path / "out")


def test_where_verdicts_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "runs" / "deep" / "a", made("a"))
    put(tmp_path / "runs" / "b", made("b"))
    put(tmp_path / "runs" / "not-yet", {}, "run.json")
    put(tmp_path / "results", made("c"), "c.json")
    put(tmp_path / "results", made("b"), "copy-of-b.json")
    put(tmp_path / "results", {"format": 1, "schedule": {}}, "best.json")
    put(tmp_path / "results", ["answer"], "list.json")
    put(tmp_path / "results" / "bench", made("d"), "d.json")

    def found(*paths):
        return {label: v["task"]["name"] for label, v in compare.find_verdicts(paths)}

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
    found = made()
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
        ({"verdict.json": "{"}, "x/verdict.json: not a verdict of lrtune: Expecting"),
        ({"verdict.json": "{}"}, "x/verdict.json: not a verdict of lrtune: 'format'"),
        ({"verdict.json": "[" * 10**5}, "x/verdict.json: not a verdict of lrtune: maximum"),
        ({"verdict.json": b"\xff"}, "x/verdict.json: cannot be read: 'utf-8' codec"),
        ({"a.json": "{"}, "x/a.json: damaged: not JSON: Expecting"),
        (
            {"verdict.json": made() | {"format": 2}},
            "x/verdict.json: a verdict of format 2: this lrtune reads 1",
        ),
        (
            {"verdict.json": made() | {"answer": {"place": "unfinished"}}},
            "x: not finished yet: lrtune confirm goes on with it",
        ),
        (
            {"verdict.json": made(cosine=0.0)},
            "x: has one family only, nothing to compare: leave it out",
        ),
        ({"verdict.json": broken(["horizon"], None)}, "x: a damaged verdict: 'horizon' is missing"),
        ({"verdict.json": broken(["horizon"], "long")}, "x: a damaged verdict: invalid literal"),
        ({"verdict.json": broken(["horizon"], float("inf"))}, "x: a damaged verdict: cannot"),
        ({"verdict.json": broken(["families"], 3)}, "x: a damaged verdict: 'int' object"),
        (
            {"verdict.json": broken(["families", 1, "place"], "third")},
            "x: a damaged verdict: place 'third': none of winner, tied, behind, lost",
        ),
        (
            {"verdict.json": broken(["families", 1, "gap"], float("nan"))},
            "x: a damaged verdict: linear is not lost, and has no mean or no gap",
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
        compare.write(["x"], "out")
    assert str(error.value).startswith(message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verdicts", [[], [("a", made("a")), ("a", made("b"))]])
def test_verdicts_need_names(verdicts):
    with pytest.raises(InputError, match="expected verdicts to compare, each with a name of its"):
        compare.table(verdicts)
