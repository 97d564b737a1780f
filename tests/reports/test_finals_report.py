"""The report of a search that has a verdict, on made-up finals."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from lrtune.reports import report
from lrtune.reports.blocks import Section
from lrtune.reports.figures import paired, paired_differences
from lrtune.reports.finals import standings
from lrtune.reports.learning_curves import finals_curves
from lrtune.reports.palette import LOOKS
from lrtune.reports.tables import responses, target
from lrtune.schedule import Schedule
from lrtune.verdict.finalists import Finalist
from lrtune.verdict.recommendation import of_verdict, recommendation
from lrtune.verdict.settings import Objective
from lrtune.verdict.summary import best_of_each
from lrtune.verdict.verdict import Absent, Plan, standing, verdict
from tests.documents import changed
from tests.reports.conftest import HORIZON, STEPS
from tests.reports.test_report import EVIL, MEGABYTE, SECTIONS, SHOWN, Page, shown

SEEDS = list(range(40, 60))
WITH_FINALS = [*SECTIONS[:2], "finals", "target", *SECTIONS[2:]]
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
    "no target": {"wsd": 0.3, "linear": 0.4},
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
    run = {**run, "objective": run["metrics"][objective]}
    if kind == "no test split":
        run["task"] = {**run["task"], "test": 0}
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
    asked = standing(made, finalists, Objective(**run["objective"]), SEEDS, plan, over=True)
    used = [made[made["family"] == f].head(one.seeds) for f, one in asked.standings.items()]
    finals, over = pd.concat(used, ignore_index=True), kind != "unfinished"
    return trials, run, verdict(trials, finals, finalists, run, SEEDS, plan, over), finals


@pytest.fixture(scope="module", params=KINDS)
def case(request, many):
    """(kind, trials, run, verdict, finals)."""
    return request.param, *make(request.param, *many)


def words(html):
    return Page(html).words


def test_every_section_of_every_kind_of_verdict(case):
    kind, trials, run, found, finals = case
    assert found.answer.place == PLACES[kind]
    html = report.render(trials, run, found, finals)
    page = Page(html)
    no_target = kind in ("none", "one family", "no target")
    assert page.ids == [name for name in WITH_FINALS if name != "target" or not no_target]
    drawn = 1 if kind in ("one family", "none") else 2  # the curves, and the gaps to the best
    assert len(page.data) == SHOWN["many"] + drawn
    assert all(figure["data"] for figure in page.data)
    for _, line in recommendation(trials, run, found).lines:
        assert words(line) in page.words
    assert "not yet a verdict" not in page.words
    assert "has not been touched" not in page.words
    assert "None" not in page.words
    assert "nan" not in page.words.replace("loss is nan", "").lower().split()
    plotly = len(report.get_plotlyjs().encode())
    assert len(html.encode()) - plotly < MEGABYTE / 2


def test_without_a_verdict_there_is_nothing_of_one(many):
    page = Page(report.render(*many))
    assert page.ids == SECTIONS and len(page.data) == SHOWN["many"]
    assert "no: each trial ran once, on one seed" in page.words
    assert "How far the peak may be off" not in page.words


@pytest.mark.parametrize("kind", ["winner", "tie"])
def test_a_decision_replaces_the_ranking(many, kind):
    trials, run, found, finals = make(kind, *many)
    page = Page(report.render(trials, run, found, finals))
    said = page.words
    use, gain, sure = of_verdict(found)
    assert use in said and gain.removeprefix("Gain: ") in said
    assert sure.removeprefix("Sure: ") in said and "each trial ran once" not in said
    best = found.recommended
    assert f"{best.family}, trial {best.trial}" in said
    assert ("recommended of those that cannot be told apart" in said) == (kind == "tie")
    assert best.schedule.to_json() in said


@pytest.mark.parametrize("kind", ["unfinished", "none"])
def test_without_a_decision_the_ranking_stays(many, kind):
    trials, run, found, finals = make(kind, *many)
    said = Page(report.render(trials, run, found, finals)).words
    assert of_verdict(found)[0] in said
    assert "no: each trial ran once, on one seed" in said
    assert "not measured; validation cross-entropy" in said
    winner = best_of_each(trials, "minimize").iloc[0]
    assert winner["schedule"] in said
    assert ("still in" in said) == (kind == "unfinished")


def test_a_search_that_went_on_says_so(many):
    trials, run, found, finals = make("winner", *many)
    assert "gone on since" not in words(report.render(trials, run, found, finals))
    older = changed(found, trials=len(trials) - 3)
    said = words(report.render(trials, run, older, finals))
    assert "The search has gone on since, by 3 trials" in said


def test_the_table_says_what_is_known_of_each(many):
    _, run, found, finals = make("lost", *many)
    said = shown(standings(found, finals, run))
    assert f"{len(finals)} trainings of up to 3,600 updates in " in said
    assert "constantbaseline" in said and "lost1 of 3 seeds" in said
    assert "the scores are of the other seeds: cosine: loss is nan" in said
    assert "Baseline: unlikely to be the best" in said and "Not compared: " in said
    assert "validation, finals" in said and "judged on the test split" in said
    assert "validation, finals" not in shown(standings(*_of("no test split", many)))
    assert "judged on the validation split" in shown(standings(*_of("no test split", many)))
    assert "One seed says nothing" in shown(standings(*_of("one seed", many)))
    assert "There is no second finalist" in shown(standings(*_of("one family", many)))
    assert standings(changed(found, families=[]), finals, run) is None


def _of(kind, many):
    _, run, found, finals = make(kind, *many)
    return found, finals, run


def test_columns_are_as_exact_as_their_intervals(many):
    _, run, found, finals = make("winner", *many)
    row = found.families[0]
    digits = 1 - math.floor(math.log10((row.high - row.low) / 2))
    written = f"{row.mean:.{digits}f}{row.low:.{digits}f} to {row.high:.{digits}f}"
    assert written in shown(standings(found, finals, run))


def test_fewest_updates(many):
    _, _, found, _ = make("tie", *many)
    said = shown(target(found))
    assert said.startswith("Fewest updates To cross-entropy")
    least = min(row.seeds for row in found.families)
    assert "Fewest updates to cross-entropy" in said
    assert f"spline–0 of {least}––" in said and f"wsdtied{least} of {least}" in said


def test_responses_of_the_search(many):
    _, _, found, _ = make("tie", *many)
    said = shown(Section("peak", "", "", responses(found)))
    assert "How far the peak may be off" in said
    for row in found.lr_sensitivity:
        assert row.family in said and row.why in said
    assert responses(changed(found, minimum_effect=math.nan)) == []


@pytest.mark.parametrize("objective", ["cross_entropy", "accuracy"])
def test_gaps(many, objective):
    _, _, found, finals = make("tie", *many, objective)
    figure = paired_differences(found, finals)
    rows = found.families
    assert [row.place for row in rows] == ["tied", "tied", "behind", "behind"]
    assert len(figure.data) == 2 * len(rows) - 1  # the best is not its own rival
    assert all(
        trace.marker.color == LOOKS[trace.name].colour for trace in figure.data if trace.name
    )
    for row in rows[1:]:
        pair = paired(found, finals, row, rows[0])
        assert len(pair) == row.seeds and pair.mean() == pytest.approx(row.gap)
    shapes = figure.layout.shapes
    assert len(shapes) == 3  # what does not matter, zero, and the end of the tie
    low, high = figure.layout.xaxis.range
    assert low < -found.answer.margin and rows[2].gap_high < high < rows[3].gap
    assert [note.text for note in figure.layout.annotations] == [f"{rows[3].gap:.3g} →"]
    assert objective.replace("cross_", "cross-") in figure.layout.xaxis.title.text


def test_gaps_without_intervals_or_rivals(many):
    _, _, found, finals = make("one seed", *many)
    figure = paired_differences(found, finals)
    assert len(figure.data) == 2 * len(found.families) - 1
    assert len(figure.layout.shapes) == 1  # nothing is known not to matter, and all are tied
    for kind in ("one family", "none"):
        _, _, found, finals = make(kind, *many)
        assert not paired_differences(found, finals).data
    _, _, found, finals = make("winner", *many)
    bare = paired_differences(found, finals.iloc[:0].drop(columns="final_cross_entropy"))
    assert sum(trace.error_x.array is not None for trace in bare.data) == 3


def test_curves_of_the_finals(many):
    _, _, found, finals = make("winner", *many)
    figure = finals_curves(found, finals)
    assert len(figure.data) == 3 * 4
    for family in KINDS["winner"]:
        own = finals[finals["family"] == family]
        _, band, mean = (trace for trace in figure.data if trace.name == family)
        curves = np.stack(own["val_cross_entropy"])
        assert np.allclose(mean.y, curves.mean(0), rtol=1e-3) and list(mean.x) == STEPS
        quarter, most = np.quantile(curves, [0.25, 0.75], axis=0)
        assert np.allclose(band.y[:20], quarter, rtol=1e-3)
        assert np.allclose(band.y[20:], most[::-1], rtol=1e-3)
        assert band.fill == "toself" and len(band.x) == 40
    _, _, found, finals = make("lost", *many)
    assert {trace.name for trace in finals_curves(found, finals).data} == set(KINDS["lost"])
    single = make("one seed", *many)
    assert len(finals_curves(*single[2:]).data) == 2 * 3  # one seed has no band
    assert not finals_curves(found, finals.assign(state="diverged")).data


def test_finals_of_other_horizons_are_left_out(many):
    trials, run, found, finals = make("winner", *many)
    both = pd.concat([finals, finals.assign(horizon=2 * HORIZON, cross_entropy=9.0)])
    assert report.render(trials, run, found, both) == report.render(trials, run, found, finals)


def test_hostile_names_in_a_verdict_are_shown_as_text(many):
    trials, run, found, finals = make("tie", *many)
    first, *others = (changed(row, family=EVIL) for row in found.families)
    times = [changed(row, family=EVIL) for row in found.time_to_target.families]
    gains = [changed(gain, over=EVIL, what=EVIL) for gain in found.answer.gains]
    found = changed(
        found,
        families=[changed(first, reasons=[EVIL], lost=1), *others],
        lr_sensitivity=[changed(row, family=EVIL) for row in found.lr_sensitivity],
        time_to_target={"families": times},
        answer={"recommended": EVIL, "gains": gains},
        objective={"name": EVIL, "unit": EVIL},
        absent=[Absent(family=EVIL, why="diverged")],
    )
    finals = finals.rename(
        columns={"final_cross_entropy": f"final_{EVIL}", "val_cross_entropy": f"val_{EVIL}"}
    )
    page = Page(report.render(trials, {**run, "study": EVIL}, found, finals))
    assert page.ids == WITH_FINALS
    assert [tag for tag, _ in page.tags].count("script") == SHOWN["many"] + 2 + 2
    assert "alert(1)" in page.words and "مرحبا 🎉" in page.words
    for figure in page.data:
        shown = json.dumps(figure, ensure_ascii=False)
        assert "<script" not in shown and "$x$" not in shown
