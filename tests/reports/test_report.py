"""The report of a search, on made-up trials."""

import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from lrtune.format import LONGEST
from lrtune.reports import page as report
from lrtune.reports.first_screen import LABELS, answer
from lrtune.reports.plot_style import LABEL
from lrtune.verdict.settings import LossFacts, StoppingFacts
from tests.documents import changed

SECTIONS = ["answer", "settings", "families", "curves", "peak", "stopping", "trials", "record"]
EVIL = "<script>alert(1)</script> \"q' &amp; مرحبا 🎉 </title><!-- $x$"
MEGABYTE = 1_000_000
SHOWN = {"many": 3, "one family": 3, "none complete": 0, "no trials": 0}  # figures


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


@pytest.fixture(scope="module")
def page(many):
    return Page(report.render(*many))


def test_every_section_of_every_kind_of_search(kind):
    name, trials, run = kind
    html = report.render(trials, run)
    page = Page(html)
    assert page.ids == SECTIONS
    assert len(html.encode()) < 8 * MEGABYTE
    assert len(page.data) == SHOWN[name] and all(figure["data"] for figure in page.data)
    assert "nan" not in page.words.lower().split()
    if name in ("many", "one family"):
        assert "not measured; validation cross-entropy" in page.words
        assert "no: each trial ran once, on one seed" in page.words
    else:
        assert "No winner." in page.words


def test_code_that_is_copied_names_the_training_of_its_peak(many, page):
    training = "# The peak rate holds for sgd, momentum 0.9, nesterov, weight decay 0.0005, batch "
    study, task = many[1].study, many[1].task
    found = f" of {study}: {task.name}, model {task.model}, by lrtune "
    # With lrtune, and each framework.
    assert page.words.count(training) == page.words.count(found) == 1 + len(LABELS)


def test_page_needs_no_network(page):
    assert not any("src" in attrs or tag == "link" for tag, attrs in page.tags)
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_best_trial_is_what_to_use_before_a_verdict(many, direction):
    trials, run = many
    name = {"minimize": "cross_entropy", "maximize": "accuracy"}[direction]
    if name == "accuracy":
        last = trials["val_accuracy"].map(lambda curve: curve[-1] if curve else float("nan"))
        trials = trials.assign(value=last.where(trials["state"] == "complete"))
    finished = trials[trials["state"] == "complete"]
    each = finished.groupby("family")["value"].agg("min" if direction == "minimize" else "max")
    first = each.sort_values(ascending=direction == "minimize").index[0]
    found = answer(trials, changed(run, objective=run.metrics[name]))
    assert found.use.startswith(f"Use {first}: peak ")
    gain = dict(found.lines)["Gain"]
    assert gain.startswith(f"not measured; validation {name.replace('cross_', 'cross-')} ")


def test_hostile_and_very_long_names_are_shown_as_text(many, tmp_path):
    trials, run = many
    long = "<i>ß</i>" + "W" * 10_000
    objective = changed(run.objective, name=EVIL, unit=long)
    run = changed(
        run,
        study=EVIL + "\ud800",
        device=EVIL,
        command=EVIL,
        task={"name": EVIL, "data": EVIL, "model": EVIL, "loss": EVIL, "notes": [long]},
        objective=objective,
        metrics={EVIL: objective, **run.metrics},
    )
    trials = trials.assign(reason=long, **{f"val_{EVIL}": trials["val_cross_entropy"]})
    trials["family"] = trials["family"].replace("linear", EVIL)
    page = Page(report.write(tmp_path / "evil.html", trials, run).read_text(encoding="utf-8"))
    assert page.ids == SECTIONS
    assert [tag for tag, _ in page.tags].count("script") == SHOWN["many"] + 2  # plotly, and ours
    assert "alert(1)" in page.words and "مرحبا 🎉" in page.words
    assert "W" * (LONGEST + 1) not in page.words and f"({len(long):,} characters)" in page.words
    for figure in page.data:
        shown = json.dumps(figure, ensure_ascii=False)
        assert not any(part in shown for part in ("<script", "$x$", "W" * LABEL, "<i>"))
    assert "&lt;script&gt;" in json.dumps(page.data)


def test_long_searches_stay_small_and_name_the_file_with_the_rest(few):
    trials, run = few
    grown = pd.concat([trials] * 20, ignore_index=True).assign(number=range(20 * len(trials)))
    html = report.render(grown, run)
    assert len(html.encode()) - len(report.get_plotlyjs().encode()) < MEGABYTE
    assert f"The best 50 of {len(grown)}; all are in trials.parquet" in Page(html).words


def test_write_is_atomic(few, tmp_path, monkeypatch):
    trials, run = few
    path = report.write(tmp_path / "new" / "report.html", trials, run)
    before = path.read_bytes()

    def fails(*names):
        raise OSError("disk full")

    monkeypatch.setattr("lrtune.files.os.replace", fails)
    with pytest.raises(OSError, match="disk full"):
        report.write(path, trials.iloc[:5], run)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_missing_metrics_and_curves(few):
    trials, run = few
    bare = trials.drop(columns=["val_accuracy", "val_cross_entropy"])
    words = Page(report.render(bare, run)).words
    assert re.search(r"not measured; validation cross-entropy 0\.\d+\s?nats", words)


def test_without_a_complete_trial_the_best_forecast_leads_and_that_is_said(few):
    trials, run = few
    partial = trials[trials["state"].isin(["pruned", "plateaued"])]
    evidence = [json.dumps({"final": 0.5, "low": 0.4, "high": 0.7})] * len(partial)
    evidence[3] = json.dumps({"final": 0.31, "low": 0.3, "high": 0.33})
    leader = partial.iloc[3]
    page = Page(report.render(partial.assign(evidence=evidence), run))
    assert page.ids == SECTIONS
    assert f"Use {leader['family']}: peak " in page.words
    forecast = r"not measured; forecast of validation cross-entropy: 0\.3100\s?nats"
    assert re.search(forecast, page.words)
    assert f"trial {leader['number']}, by its forecast" in page.words


def test_hosts_what_they_trained_and_which_were_lost(few):
    trials, run = few
    kept = {"host": "gpu-7/2", "at": "2026-12-01T14:02:11+00:00", "why": "killed <b>", "trials": 3}
    run = changed(run, hosts=["gpu-1/0", "gpu-7/2"], losses=[LossFacts(**kept)])
    ran = [["gpu-1/0"], ["gpu-7/2"], ["gpu-7/2", "gpu-1/0"], []]
    page = Page(report.render(trials.iloc[:4].assign(hosts=ran), run))
    assert page.ids == [*SECTIONS[:-1], "hosts", "record"]
    assert "2 hosts; host gpu-7/2 lost at 14:02, 3 trials went on elsewhere" in page.words
    assert "2026-12-01 14:02" in page.words
    assert "went on elsewhere: killed <b>" in page.words


def test_the_record_says_how_to_run_it_again(few):
    rules = StoppingFacts(pruner="none", epsilon=None, patience=4, min_delta=0.01, audit=0.0)
    words = Page(report.render(few[0], changed(few[1], stopping=rules))).words
    assert "patience 4, min_delta 0.01" in words and few[1].command in words
