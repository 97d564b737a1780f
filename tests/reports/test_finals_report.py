"""The report of a search that has a verdict, on made-up finals."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from lrtune.reports import page as report
from lrtune.reports.figures import finals_curves, gains
from lrtune.reports.plot_style import GREEN, GREY
from lrtune.schedule import Schedule
from lrtune.verdict.recommendation import of_verdict, recommendation
from lrtune.verdict.summary import Finalist, best_of_each
from lrtune.verdict.tables import finalists as table_of
from lrtune.verdict.verdict import Absent, Plan, standing, verdict
from tests.documents import changed
from tests.reports.conftest import HORIZON, STEPS
from tests.reports.test_report import EVIL, MEGABYTE, SECTIONS, Page

SEEDS = list(range(40, 60))
WITH_FINALS = [*SECTIONS[:2], "finals", *SECTIONS[2:]]
# Families and how well they score; NaN: lost on the third seed.
KINDS = {
    "winner": {"wsd": 0.3, "constant": 0.4, "linear": 0.5, "plateau": 0.6},
    "tie": {"wsd": 0.3, "cosine": 0.3005, "constant": 0.4, "spline": 2.0},
    "unfinished": {"wsd": 0.3, "cosine": 0.302, "constant": 0.4},
    "lost": {"wsd": 0.3, "cosine": math.nan, "constant": 0.4, "linear": 0.35},
    "none": {"wsd": math.nan, "cosine": math.nan},
    "one family": {"cosine": 0.3},
    "one seed": {"wsd": 0.3, "cosine": 0.31, "constant": 0.4},
    "no test split": {"wsd": 0.3, "constant": 0.4},
}
SEEDED = {"unfinished": 3, "one seed": 1}  # seeds that there are, where not 20
PLACES = {
    **dict.fromkeys(KINDS, "winner"),
    "tie": "tie",
    "one seed": "tie",
    "unfinished": "unfinished",
    "none": "none",
}


def final(finalist, seed, level, split, lost):
    random = np.random.default_rng([SEEDS.index(seed), len(finalist.family)])
    score = level + 0.002 * random.standard_normal()
    loss = score + 1.9 * np.exp(-np.arange(1, 21) / 4)
    if lost:
        loss = loss[:3]
    return {
        "family": finalist.family,
        "schedule": finalist.schedule.to_json(),
        "peak_lr": finalist.schedule.peak_lr,
        "seed": seed,
        "horizon": HORIZON,
        "state": "diverged" if lost else "complete",
        "reason": f"loss is nan {EVIL}" if lost else "reached the horizon",
        "split": split,
        "updates": STEPS[len(loss) - 1],
        "judged_at": math.nan if lost else HORIZON,
        "seconds": 4.0,
        "step": STEPS[: len(loss)],
        "rate": [0.1] * len(loss),
        "final_cross_entropy": math.nan if lost else score,
        "final_accuracy": math.nan if lost else 100 * math.exp(-score),
        "val_cross_entropy": loss.tolist(),
        "val_accuracy": (100 * np.exp(-loss)).tolist(),
    }


def make(kind, trials, run, objective="cross_entropy"):
    """(trials, run, verdict, finals) of one kind of verdict."""
    run = changed(run, objective=run.metrics[objective])
    if kind == "no test split":
        run = changed(run, task={"test": 0})
    top = best_of_each(trials, "minimize").set_index("family")
    finalists, rows = [], []
    for family, level in KINDS[kind].items():
        row = top.loc[family]
        schedule = Schedule.from_json(row["schedule"])
        role = "baseline" if family == "constant" else "leader"
        one = Finalist(
            family=family,
            schedule=schedule,
            trial=int(row["number"]),
            searched=float(row["value"]),
            role=role,
        )
        finalists.append(one)
        split = "val" if kind == "no test split" else "test"
        for seed in SEEDS[: SEEDED.get(kind, 20)]:
            lost = math.isnan(level) and seed == SEEDS[2]
            rows.append(final(one, seed, 0.3 if math.isnan(level) else level, split, lost))
    made, plan = pd.DataFrame(rows), Plan(trainings=28)
    asked = standing(made, finalists, run.objective, SEEDS, plan, over=True)
    used = [made[made["family"] == f].head(one.seeds) for f, one in asked.standings.items()]
    finals, over = pd.concat(used, ignore_index=True), kind != "unfinished"
    return trials, run, verdict(trials, finals, finalists, run, SEEDS, plan, over), finals


@pytest.fixture(scope="module", params=KINDS)
def case(request, few):
    """(kind, trials, run, verdict, finals, page)."""
    trials, run, found, finals = make(request.param, *few)
    return request.param, trials, run, found, finals, report.render(trials, run, found, finals)


def words(html):
    return Page(html).words


def test_every_section_of_every_kind_of_verdict(case):
    kind, trials, run, found, finals, html = case
    assert found.answer.place == PLACES[kind]
    page = Page(html)
    assert page.ids == WITH_FINALS
    compared = found.decided and kind != "one family"
    assert len(page.data) == 4 + compared and all(figure["data"] for figure in page.data)
    for _, line in recommendation(trials, run, found).lines:
        assert words(line) in page.words
    assert "None" not in page.words
    assert "nan" not in page.words.replace("loss is nan", "").lower().split()
    assert len(html.encode()) - len(report.get_plotlyjs().encode()) < MEGABYTE / 2
    assert report.render(trials, run, found, _with_another_horizon(finals)) == html


def _with_another_horizon(finals):
    return pd.concat([finals, finals.assign(horizon=2 * HORIZON, cross_entropy=9.0)])


SAYS = {
    "winner": ["judged on the test split", "validation, finals", "Not compared: "],
    "tie": ["recommended of those that cannot be told apart", "How far the peak may be off"],
    "lost": ["lost1 of 3 seeds", "the scores are of the other seeds: cosine: loss is nan"],
    "unfinished": ["still in", "no: each trial ran once, on one seed"],
    "none": ["not measured; validation cross-entropy", "no winner"],
    "one family": ["not measured: there is no baseline beside it"],
    "one seed": ["One seed says nothing"],
    "no test split": ["judged on the validation split"],
}
SAYS_NOT = {
    "winner": ["recommended of those", "each trial ran once", "still in", "gone on since"],
    "none": ["still in"],
    "no test split": ["validation, finals"],
}


def test_it_says_what_is_known_of_each(case):
    kind, trials, _, found, _, html = case
    page = Page(html)
    assert all(text in page.words for text in SAYS[kind])
    assert not any(text in page.words for text in SAYS_NOT.get(kind, ()))
    use, *lines = of_verdict(found)
    assert use in page.words
    if found.decided:
        assert all(line.partition(": ")[2] in page.words for line in lines)
        best = found.recommended
        assert f"{best.family}, trial {best.trial}" in page.words
        assert best.schedule.to_json() in page.words
    else:
        assert best_of_each(trials, "minimize").iloc[0]["schedule"] in page.words
    for row in found.lr_sensitivity:
        assert row.family in page.words and row.why in page.words


def test_a_search_that_went_on_says_so(few):
    trials, run, found, finals = make("winner", *few)
    older = changed(found, trials=len(trials) - 3)
    assert "gone on since, by 3 trials" in words(report.render(trials, run, older, finals))


def test_without_finalists_there_is_no_section_of_finals(few):
    trials, run, found, finals = make("none", *few)
    html = report.render(trials, run, changed(found, families=[]), finals)
    assert Page(html).ids == SECTIONS


def test_columns_are_as_exact_as_their_intervals(few):
    found = make("winner", *few)[2]
    row, cell = found.families[0], table_of(found).cells[0][2]
    digits = 1 - math.floor(math.log10((row.high - row.low) / 2))
    assert cell.text == f"{row.mean:.{digits}f} ({row.low:.{digits}f} to {row.high:.{digits}f})"


@pytest.mark.parametrize("objective", ["cross_entropy", "accuracy"])
def test_gains_over_every_other_finalist(few, objective):
    found = make("tie", *few, objective)[2]
    figure, rows = gains(found), found.families
    assert [row.place for row in rows] == ["tied", "tied", "behind", "behind"]
    assert [trace.x[0] for trace in figure.data] == pytest.approx([r.gap for r in rows[1:]], 1e-4)
    colours = [GREEN if row.place == "behind" else GREY for row in rows[1:]]
    assert [trace.marker.color for trace in figure.data] == colours
    assert len(figure.layout.shapes) == 2  # what does not matter, and zero
    low, high = figure.layout.xaxis.range
    assert low < 0 and rows[2].gap_high < high < rows[3].gap  # the last one's is said
    assert f"{rows[3].gap:.3g}" in figure.layout.annotations[-1].text
    assert "over a tuned constant: +" in figure.layout.annotations[1].text
    once = gains(make("one seed", *few)[2])
    assert len(once.data) == 2 and all(trace.error_x.array is None for trace in once.data)
    assert not gains(make("one family", *few)[2]).data


def test_curves_of_the_finals(few):
    _, _, found, finals = make("winner", *few)
    figure = finals_curves(found, finals)
    assert len(figure.data) == 3 * 4
    for family in KINDS["winner"]:
        own = finals[finals["family"] == family]
        _, band, mean = (trace for trace in figure.data if trace.name == family)
        curves = np.stack(own["val_cross_entropy"])
        assert np.allclose(mean.y, curves.mean(0), rtol=1e-3) and list(mean.x) == STEPS
        quarter, most = np.quantile(curves, [0.25, 0.75], axis=0)
        assert np.allclose(band.y[:20], quarter, rtol=1e-3)
        assert np.allclose(band.y[20:], most[::-1], rtol=1e-3) and band.fill == "toself"
    _, _, found, finals = make("lost", *few)
    assert {trace.name for trace in finals_curves(found, finals).data} == set(KINDS["lost"])
    assert not finals_curves(found, finals.assign(state="diverged")).data
    assert len(finals_curves(*make("one seed", *few)[2:]).data) == 2 * 3  # one seed has no band


def test_hostile_names_in_a_verdict_are_shown_as_text(few):
    trials, run, found, finals = make("tie", *few)
    first, *others = (changed(row, family=EVIL) for row in found.families)
    gains = [changed(gain, over=EVIL, what=EVIL) for gain in found.answer.gains]
    found = changed(
        found,
        families=[changed(first, reasons=[EVIL], lost=1), *others],
        lr_sensitivity=[changed(row, family=EVIL) for row in found.lr_sensitivity],
        answer={"recommended": EVIL, "gains": gains},
        objective={"name": EVIL, "unit": EVIL},
        absent=[Absent(family=EVIL, why="diverged")],
    )
    finals = finals.rename(
        columns={"final_cross_entropy": f"final_{EVIL}", "val_cross_entropy": f"val_{EVIL}"}
    )
    page = Page(report.render(trials, changed(run, study=EVIL), found, finals))
    assert page.ids == WITH_FINALS
    assert [tag for tag, _ in page.tags].count("script") == 5 + 2
    assert "alert(1)" in page.words and "مرحبا 🎉" in page.words
    for figure in page.data:
        shown = json.dumps(figure, ensure_ascii=False)
        assert "<script" not in shown and "$x$" not in shown
