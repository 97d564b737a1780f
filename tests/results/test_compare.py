import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lrtune.errors import InputError
from lrtune.results import compare, ranks
from lrtune.results.verdict import Finalist, Plan, verdict
from lrtune.schedule import Schedule

EVIL = "<script>alert(1)</script> \"q' &amp; | مرحبا 🎉 </title><!-- \ud800\x1b"
COLUMNS = "task horizon source study seed metric unit direction split family place mean low high sd"
COLUMNS += " seeds gap gap_low gap_high p_best rank peak_lr warmup schedule"


def made(name="digits", metric="accuracy", seed=0, horizon=718, lost=(), **scores):
    """A verdict as JSON holds it; of each family how much worse than the best: 0 are at the top."""
    direction = "minimize" if metric == "cross_entropy" else "maximize"
    sign = 1 if direction == "minimize" else -1
    scores = scores or {"cosine": 0.0, "linear": 0.02, "constant": 0.05}
    top = [family for family, gap in scores.items() if gap == 0 and family not in lost]

    def place(family):
        if family in lost:
            return "lost"
        return "behind" if scores[family] else "winner" if len(top) == 1 else "tied"

    def row(family):
        gap = None if family in lost else scores[family]
        mean = 0.9 + sign * scores[family]
        found = {"family": family, "place": place(family), "seeds": 20, "lost": family in lost}
        found |= {"mean": mean, "low": mean - 0.01, "high": mean + 0.01, "sd": 0.02, "gap": gap}
        ends = (None, None) if gap is None else (gap - 0.001, gap + 0.001)
        found |= {"gap_low": ends[0], "gap_high": ends[1], "best": 0.5, "p": None}
        return found | {"schedule": Schedule("cosine", peak_lr=0.1).to_dict()}

    return {
        "format": 1,
        "study": f"{name}-mlp-sgd-{horizon}",
        "task": {"name": name, "model": "mlp", "fingerprint": f"of seed {seed}"},
        "objective": {"name": metric, "direction": direction, "unit": ""},
        "seed": seed,
        "horizon": horizon,
        "split": "test",
        "answer": {"place": {0: "none", 1: "winner"}.get(len(top), "tie"), "families": top},
        "families": [row(family) for family in sorted(scores, key=scores.get)],
    }


def tabled(*verdicts):
    return compare.table([(f"runs/{number}", found) for number, found in enumerate(verdicts)])


def put(folder, verdict=None, name="verdict.json"):
    folder.mkdir(parents=True, exist_ok=True)
    if verdict is not None:
        (folder / name).write_text(json.dumps(verdict))
    return folder


def judged(shifts, direction="minimize", lost=()):
    """What `verdict` itself says of made-up finals."""
    random = np.random.default_rng(0)
    seeds, objective = list(range(20)), {"name": "loss", "direction": direction, "unit": "nats"}
    shared = random.normal(0, 0.01, len(seeds))
    finalists, finals = [], []
    for number, (family, shift) in enumerate(shifts.items()):
        schedule = Schedule(family, peak_lr=0.1 + number / 10)
        finalists.append(Finalist(family, schedule, number, 0.3, "racing"))
        for seed in seeds:
            score = 0.3 + shift + shared[seed] + random.normal(0, 0.002)
            bad = family in lost and seed == 1
            final = {"family": family, "schedule": schedule.to_json(), "seed": seed}
            final |= {"state": "diverged" if bad else "complete", "reason": "", "split": "test"}
            final |= {"horizon": 100, "step": [100], "val_loss": [score]}
            finals.append(final | {"final_loss": float("nan") if bad else score})
    run = {
        "study": "s",
        "task": {"name": "t", "model": "m", "test": 10},
        "unit": "updates",
        "seed": 3,
    }
    run |= {"objective": objective, "metrics": {"loss": objective}, "optimizer": {}, "versions": {}}
    run |= {"horizon": 100, "peak_lr": [0.01, 1.0], "range_test": None}
    trials = pd.DataFrame({"family": list(shifts), "state": "complete", "evidence": ""})
    trials = trials.assign(value=0.3, peak_lr=0.1, number=range(len(shifts)))
    return verdict(trials, pd.DataFrame(finals), finalists, run, seeds, Plan())


def test_a_verdict_as_it_is_made():
    found = judged({"cosine": 0.0, "linear": 0.03, "step": 0.05, "constant": 0.0}, lost=["step"])
    table = compare.table([("runs/t", json.loads(json.dumps(found, allow_nan=False)))])
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
    assert lost["family"] == "step" and np.isnan(lost["gap"]) and lost["seeds"] == 20
    assert Schedule.from_json(lost["schedule"]) == Schedule("step", peak_lr=lost["peak_lr"])


def test_nobody_left_to_win():
    found = judged({"cosine": 0.0, "step": 0.0}, lost=["cosine", "step"])
    table = compare.table([("runs/t", found)])
    assert table["rank"].tolist() == [1.5, 1.5] and set(table["place"]) == {"lost"}
    assert compare.sentences(table)[0] == "Nobody won: on every task, all families lost seeds."
    assert "none: all lost seeds" in compare.markdown(table, compare.wins(table))


def test_equal_gaps_and_lost_ones_share_ranks():
    gaps = {"cosine": 0.0, "linear": 0.1 + 0.2, "wsd": 0.3, "step": 0.5, "spline": 0.0}
    table = tabled(made(**gaps, lost=["step", "spline"])).set_index("family")["rank"]
    assert table.to_dict() == {"cosine": 1, "linear": 2.5, "wsd": 2.5, "step": 4.5, "spline": 4.5}


def test_who_is_behind_ranks_below_the_top_whatever_its_gap():
    found = made(cosine=0.0, linear=0.02)
    found["families"][1]["gap"] = -0.01  # on the few seeds before it was left behind
    assert tabled(found)["rank"].tolist() == [1, 2]


# Critical values of Demšar (2006), table 5, two-tailed, at 0.05; his example has 4 and 14.
@pytest.mark.parametrize(("families", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (10, 3.164)])
def test_critical_difference(families, q):
    expected = q * np.sqrt(families * (families + 1) / (6 * 14))
    assert ranks.critical_difference(families, 14) == pytest.approx(expected, rel=3e-4)
    assert round(ranks.critical_difference(4, 14), 2) == 1.25


def test_friedman_is_of_the_shared_families():
    scores = np.random.default_rng(1).uniform(0.01, 1, (7, 4)) + np.array([0, 0, 0.2, 0.6])
    names = ["cosine", "wsd", "linear", "constant"]
    verdicts = [
        made(f"task {n}", **dict(zip(names, row - row.min(), strict=True)), **{f"own{n}": 0.5})
        for n, row in enumerate(scores)
    ]
    found = compare.table([(str(n), v) for n, v in enumerate(verdicts)])
    ranking = ranks.ranking(found)
    assert ranking.p == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue)
    means = dict(zip(names, stats.rankdata(scores, axis=1).mean(0), strict=True))
    assert ranking.means == pytest.approx(means)
    assert ranking.difference == pytest.approx(ranks.critical_difference(4, 7))
    wins = compare.wins(found).set_index("family")
    far = {name: means[name] - min(means.values()) > ranking.difference for name in names}
    assert any(far.values()) and not all(far.values())
    assert {name: not wins.loc[name, "within"] for name in names} == far
    own = wins.loc["own3"]
    assert (own["tasks"], own["losses"]) == (1, 1)
    assert np.isnan(own["mean_rank"]) and pd.isna(own["within"])
    assert "finalists: own0, own1, own2 and 4 more." in compare.sentences(found)[-1]


def test_all_equal_is_no_difference():
    ties = {"cosine": 0.0, "linear": 0.0, "wsd": 0.0}
    found = ranks.ranking(tabled(made("a", **ties), made("b", **ties)))
    assert found.p == 1 and set(found.means.values()) == {2} and found.behind == []


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
        == "y, mlp over 718 updates was judged 3 times and counts once."
    )
    assert "| y, mlp, seed 1 |" in compare.markdown(table, compare.wins(table))


def test_another_horizon_is_another_task():
    table = tabled(made(), made(horizon=1436))
    assert compare.wins(table)["tasks"].tolist() == [2, 2, 2]
    assert "| digits, mlp, 1,436 updates |" in compare.markdown(table, compare.wins(table))


def test_different_metrics_are_an_error_on_one_task_alone():
    with pytest.raises(InputError) as error:
        tabled(made(), made(metric="cross_entropy", seed=1))
    assert str(error.value) == (
        "runs/0 and runs/1: the same task, digits, mlp over 718 updates, judged by accuracy and "
        "by cross_entropy: leave one out"
    )
    table = tabled(made(), made("wine", "cross_entropy"))
    shown = compare.markdown(table, compare.wins(table)).replace("\N{NO-BREAK SPACE}", " ")
    assert "| accuracy ↑ |" in shown and "| cross-entropy ↓ |" in shown


FEW = "there is one task only"


@pytest.mark.parametrize(
    ("verdicts", "why"),
    [
        ([made()], FEW),
        ([made(), made(seed=1)], FEW),
        (
            [made("a", cosine=0.0, linear=0.1), made("b", wsd=0.0, linear=0.1)],
            "the tasks share 1 family, linear",
        ),
        (
            [made("a", cosine=0.0, linear=0.1), made("b", wsd=0.0, step=0.1)],
            "the tasks share 0 families",
        ),
    ],
)
def test_too_little_for_mean_ranks(verdicts, why):
    table = tabled(*verdicts)
    assert compare.sentences(table)[1] == f"No mean ranks: {why}."
    wins = compare.wins(table)
    assert wins["mean_rank"].isna().all() and wins["within"].isna().all()
    assert "nan" not in compare.markdown(table, wins).lower()


def said(*verdicts):
    return compare.sentences(tabled(*verdicts))


def test_sentences():
    a, b = {"cosine": 0.0, "linear": 0.1, "wsd": 0.2}, {"cosine": 0.0, "linear": 0.0, "wsd": 0.2}
    few = said(made("x", **a), made("y", **b))
    assert few == [
        "cosine won 1 of 2 tasks alone, more than any other family, and shared the top of 1 more; "
        "1 ended in a tie.",
        "By mean rank among the 3 families that all 2 tasks share, cosine comes first (1.25).",
        "2 tasks tell apart only mean ranks further apart than 2.3 (Nemenyi, 95 %), which those of "
        "3 families cannot be: too few tasks.",
    ]
    many = said(*(made(str(n), **a) for n in range(9)))
    assert many[0] == "cosine won 9 of 9 tasks alone, more than any other family."
    assert many[2] == (
        "9 tasks tell apart only mean ranks further apart than 1.1 (Nemenyi, 95 %): wsd is behind, "
        "the others not shown to be. Friedman's test of all at once: p = 0.00012."
    )
    swapped = {"cosine": 0.1, "linear": 0.0}
    both = said(made("x", cosine=0.0, linear=0.1), made("y", **swapped))
    assert both[0].startswith("cosine and linear each won 1 of 2 tasks alone")
    assert "cosine and linear come first (1.50)" in both[1]
    tied = said(made("x", **b), made("y", **b))
    assert tied[0] == (
        "cosine and linear each shared the top of 2 of 2 tasks, more than any other family; nobody "
        "won one alone."
    )


def test_two_families_are_told_apart_by_the_difference_alone():
    verdicts = [made(str(n), cosine=0.0, linear=0.1) for n in range(5)]
    found = ranks.ranking(tabled(*verdicts))
    assert found.p is None and found.behind == ["linear"]
    assert said(*verdicts)[2].endswith("linear is behind, the others not shown to be.")


def test_markdown():
    tie = {"cosine": 0.0, "wsd": 0.0, "linear": 0.02, "step": 0.04}
    table = tabled(made(), made("wine|*", "cross_entropy", **tie, lost=["step"]))
    shown = compare.markdown(table, compare.wins(table)).replace("\N{NO-BREAK SPACE}", " ")
    first, second = shown.splitlines()[2:4]
    assert first == (
        "| digits, mlp | accuracy ↑ | test | 718 | 20 | cosine | 0.9000 (0.8900 to 0.9100) "
        "| linear | 0.02 (0.019 to 0.021) |"
    )
    assert second.startswith(
        r"| wine\|\*, mlp | cross-entropy ↓ | test | 718 | 20 | cosine, wsd (tie) |"
    )
    assert "| cosine | 2 | 1 | 1 | 0 | 1.00 | first |" in shown
    assert "| wsd | 1 | 0 | 1 | 0 | – | – |" in shown
    assert "| step | 1 | 0 | 0 | 1 | – | – |" in shown


def test_one_seed_has_no_interval():
    found = made()
    for row in found["families"]:
        row |= dict.fromkeys(("low", "high", "sd", "gap_low", "gap_high", "best"))
    table = tabled(found)
    assert "| cosine | 0.9000 | linear | 0.02 |" in compare.markdown(table, compare.wins(table))
    compare.render(table, compare.wins(table), compare.sentences(table))


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

    monkeypatch.setattr(compare.os, "replace", fails)
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
