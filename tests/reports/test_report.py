import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from lrtune.format import LONGEST
from lrtune.reports import report
from lrtune.reports.answer import answer
from lrtune.reports.blocks import render as page_of
from lrtune.reports.first_screen import LABELS
from lrtune.reports.parameters import inside
from lrtune.reports.plot_style import LABEL
from lrtune.verdict.summary import by_family
from tests.reports.conftest import search

SECTIONS = [
    "answer",
    "settings",
    "families",
    "curves",
    "peak",
    "inside",
    "range",
    "budget",
    "stopping",
    "trials",
    "record",
]
EVIL = "<script>alert(1)</script> \"q' &amp; مرحبا 🎉 </title><!-- $x$"
MEGABYTE = 1_000_000
# Figures of each kind of search, one of them per family; where nothing ended, the range test.
SHOWN = {"many": 5 + 18, "one family": 5 + 1, "none complete": 1, "no trials": 1}


class Page(HTMLParser):
    """The tags, the text and the embedded data of a page."""

    def __init__(self, html):
        super().__init__()
        self.ids, self.tags, self.text, self.data = [], [], [], []
        self.inside = ""
        self.feed(html)
        self.words = " ".join("".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self.inside = attrs.get("type", tag) if tag == "script" else tag
        if tag == "section":
            self.ids.append(attrs["id"])

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "application/json":
            self.data.append(json.loads(data))
        elif self.inside not in ("script", "style"):
            self.text.append(data)


def shown(section):
    """The words of a section."""
    return Page(page_of("section.html", section=section)).words


@pytest.fixture(scope="module")
def page(many):
    return Page(report.render(*many))


def test_every_section_of_every_kind_of_search(kind):
    name, trials, run = kind
    html = report.render(trials, run)
    page = Page(html)
    assert page.ids == SECTIONS
    assert len(html.encode()) < 8 * MEGABYTE
    assert len(page.data) == SHOWN[name]
    assert all(figure["data"] for figure in page.data)
    assert "nan" not in page.words.lower().split()
    if name in ("many", "one family"):
        assert "not measured; validation cross-entropy" in page.words
        assert "no: each trial ran once, on one seed" in page.words
    else:
        assert "No winner." in page.words


def test_no_range_test_no_section(many):
    trials, run = many
    assert "range" not in Page(report.render(trials, {**run, "range_test": None})).ids


def test_code_that_is_copied_names_the_training_of_its_peak(many, page):
    training = "# The peak rate holds for sgd, momentum 0.9, nesterov, weight decay 0.0005, batch "
    study, task = many[1]["study"], many[1]["task"]
    found = f"# Found in {study}: {task['name']}, model {task['model']}, by lrtune "
    # With lrtune, and each framework.
    assert page.words.count(training) == page.words.count(found) == 1 + len(LABELS)


def test_page_needs_no_network(page):
    tags = page.tags
    assert not any("src" in attrs or tag == "link" for tag, attrs in tags)
    policy = next(a["content"] for _, a in tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_best_trial_is_what_to_use_before_a_verdict(many, direction):
    trials, run = many
    name = {"minimize": "cross_entropy", "maximize": "accuracy"}[direction]
    objective = run["metrics"][name]
    if name == "accuracy":
        last = trials["val_accuracy"].map(lambda curve: curve[-1] if curve else float("nan"))
        trials = trials.assign(value=last.where(trials["state"] == "complete"))
    finished = trials[trials["state"] == "complete"]
    each = finished.groupby("family")["value"].agg("min" if direction == "minimize" else "max")
    first = each.sort_values(ascending=direction == "minimize").index[0]
    said = answer(trials, {**run, "objective": objective})
    assert said.use.startswith(f"Use {first}: peak ")
    gain = dict(said.lines)["Gain"]
    assert gain.startswith(f"not measured; validation {name.replace('cross_', 'cross-')} ")


def test_hostile_names_are_shown_as_text(many, tmp_path):
    trials, run = many
    task = {**run["task"], "name": EVIL, "data": EVIL, "model": EVIL, "loss": EVIL}
    objective = {**run["objective"], "name": EVIL, "unit": EVIL}
    run = {**run, "study": EVIL + "\ud800", "device": EVIL, "command": EVIL, "task": task}
    run |= {"objective": objective, "metrics": {EVIL: objective, **run["metrics"]}}
    run["range_test"] = {**run["range_test"], "message": EVIL}
    trials = trials.assign(reason=EVIL, **{f"val_{EVIL}": trials["val_cross_entropy"]})
    trials["family"] = trials["family"].replace("linear", EVIL)
    html = report.write(tmp_path / "evil.html", trials, run).read_text(encoding="utf-8")
    page = Page(html)
    assert page.ids == SECTIONS
    assert [tag for tag, _ in page.tags].count("script") == SHOWN["many"] + 2  # plotly, and ours
    assert "alert(1)" in page.words and "مرحبا 🎉" in page.words
    for figure in page.data:
        shown = json.dumps(figure, ensure_ascii=False)
        assert "<script" not in shown and "$x$" not in shown
    assert "&lt;script&gt;" in json.dumps(page.data)


def test_long_searches_stay_small(many):
    trials, run = many
    grown = pd.concat([trials] * 6, ignore_index=True).assign(number=range(6 * len(trials)))
    plotly = len(report.get_plotlyjs().encode())
    assert len(report.render(trials, run).encode()) - plotly < MEGABYTE / 2
    assert len(report.render(grown, run).encode()) - plotly < MEGABYTE


def test_all_trials_names_the_file_with_the_rest(many, page):
    assert f"The best 50 of {len(many[0])}; all are in trials.parquet" in page.words


def test_write_is_atomic(many, tmp_path, monkeypatch):
    trials, run = many
    path = report.write(tmp_path / "new" / "report.html", trials, run)
    before = path.read_bytes()

    def fails(*names):
        raise OSError("disk full")

    monkeypatch.setattr("lrtune.files.os.replace", fails)
    with pytest.raises(OSError, match="disk full"):
        report.write(path, trials.iloc[:5], run)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_survives_parquet(many, tmp_path):
    trials, run = many
    trials.to_parquet(tmp_path / "trials.parquet")
    again = pd.read_parquet(tmp_path / "trials.parquet")
    assert report.render(again, run) == report.render(trials, run)


def test_missing_metrics_and_curves(many):
    trials, run = many
    bare = trials.drop(columns=["val_accuracy", "val_cross_entropy"])
    words = Page(report.render(bare, run)).words
    assert re.search(r"not measured; validation cross-entropy 0\.\d+\s?nats", words)


def test_without_a_complete_trial_the_best_forecast_leads_and_that_is_said(many):
    trials, run = many
    partial = trials[trials["state"].isin(["pruned", "plateaued"])]
    evidence = [json.dumps({"final": 0.5, "low": 0.4, "high": 0.7})] * len(partial)
    evidence[3] = json.dumps({"final": 0.31, "low": 0.3, "high": 0.33})
    partial = partial.assign(evidence=evidence)
    leader = partial.iloc[3]
    page = Page(report.render(partial, run))
    assert page.ids == SECTIONS
    assert f"Use {leader['family']}: peak " in page.words
    forecast = r"not measured; forecast of validation cross-entropy: 0\.3100\s?nats"
    assert re.search(forecast, page.words)
    assert f"Trial {leader['number']}, by its forecast" in page.words


def test_the_record_says_how_trials_are_stopped(many):
    trials, run = many
    rules = {"pruner": "none", "epsilon": 0.2, "patience": 4, "min_delta": 0.01, "audit": 0.0}
    run = {**run, "stopping": rules, "validations": 20}
    assert "no pruner; a trial plateaus after 4 of 20" in Page(report.render(trials, run)).words


LONG = "<i>ß</i>" + "W" * 10_000


def test_very_long_names_are_cut(many):
    trials, run = many
    objective = {**run["objective"], "name": LONG, "unit": LONG}
    task = {**run["task"], "name": LONG, "notes": [LONG], "loss": LONG}
    run = {**run, "study": LONG, "task": task, "objective": objective}
    run["metrics"] = {LONG: objective}
    columns = {"val_cross_entropy": f"val_{LONG}"}
    page = Page(report.render(trials.assign(reason=LONG).rename(columns=columns), run))
    assert page.ids == SECTIONS
    assert "W" * (LONGEST + 1) not in page.words and f"({len(LONG):,} characters)" in page.words
    for figure in page.data:
        assert "W" * LABEL not in json.dumps(figure) and "<i>" not in json.dumps(figure)


def test_one_family_is_shown_at_a_time_the_best_first(many, page):
    trials, run = many
    order = by_family(trials, run["objective"]["direction"])["family"].tolist()
    choices = [attrs["value"] for tag, attrs in page.tags if tag == "option"]
    parts = {
        a["id"]: "hidden" in a for t, a in page.tags if t == "div" and "inside" in a.get("id", "")
    }
    assert choices == list(parts) == [f"inside-{place}" for place in range(len(order))]
    assert [name for name, hidden in parts.items() if not hidden] == ["inside-0"]


def test_what_mattered_is_said_or_why_not(many):
    said = shown(inside(*many))
    finished = many[0][many[0]["family"] == "wsd"]["state"].eq("complete").sum()
    assert f"Not known for this family: {finished} finished, and at least 15" in said
    grown = search(["cosine"], 60)
    said = shown(inside(grown, many[1]))
    assert "Functional analysis of variance" in said and "parameterexplains by itself (%)" in said


def test_engines_that_were_timed_are_in_the_record(page):
    assert (
        "µs an update of a trial: fused 27 at once compiled 51, serial 1 thread 1,172" in page.words
    )
