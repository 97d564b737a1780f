import re
from itertools import pairwise

import numpy as np
import pytest

from lrtune.errors import InputError
from lrtune.results import figures
from lrtune.results.canvas import thin
from lrtune.results.palette import LOOKS, look
from lrtune.schedule import FAMILIES, Schedule
from tests.results.conftest import search


def every(trials, run):
    objective, test = run["objective"], run["range_test"]
    return {
        "wins": figures.wins(trials, objective),
        "curves": figures.curves(trials, objective, run["horizon"]),
        "against_peak": figures.against_peak(trials, objective, (0.004, 0.5)),
        "range_test": figures.range_test(test),
        "preview": figures.preview([Schedule("cosine", peak_lr=0.1)], 1000),
        "slices": figures.slices(trials, "wsd", objective),
        "landscape": figures.landscape(trials, "wsd", objective),
        "timeline": figures.timeline(trials, objective),
    }


@pytest.fixture(scope="module")
def drawn(many):
    return every(*many)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_every_family_has_a_look_of_its_own():
    assert set(LOOKS) == set(FAMILIES)
    assert len(set(LOOKS.values())) == len(LOOKS)


@pytest.mark.parametrize("name", LOOKS)
def test_looks_stand_out_in_light_and_dark(name):
    own = luminance(look(name).colour)
    assert 1.05 / (own + 0.05) >= 2.9
    assert (own + 0.05) / (luminance("#15171a") + 0.05) >= 3


def test_axes_say_what_they_show(drawn):
    for name, figure in drawn.items():
        shown = figure.to_dict()["layout"]
        titles = [axis.get("title", {}).get("text") for key, axis in shown.items() if "axis" in key]
        assert sum(bool(title) for title in titles) >= 1 + (name != "wins"), name


def test_a_family_keeps_its_colour(drawn):
    for figure in drawn.values():
        for trace in figure.data:
            if trace.name in LOOKS:
                assert LOOKS[trace.name].colour in (trace.line.color, trace.marker.color)


def test_curves_show_the_leaders_and_keep_the_rest_in_the_legend(many):
    trials, run = many
    figure = figures.curves(trials, run["objective"], run["horizon"])
    shown = {t.name for t in figure.data if t.visible is True}
    waiting = {t.name for t in figure.data if t.visible == "legendonly"}
    assert len(shown) == figures.SHOWN
    assert shown | waiting == set(trials["family"])
    for trace in figure.data:
        assert len(trace.x) == len(trace.y) <= 402
        assert max(trace.x) <= run["horizon"]


def test_figures_with_nothing_to_draw_have_no_traces(many):
    trials, run = many
    none = trials[trials["state"] == "diverged"]
    figures_of = every(none, run)
    empty = ("wins", "curves", "against_peak", "slices", "landscape")
    assert not any(figures_of[name].data for name in empty)
    assert not figures.timeline(trials.iloc[:0], run["objective"]).data


@pytest.mark.parametrize("family", [n for n, f in FAMILIES.items() if f.searchable])
def test_thinned_curves_look_the_same(family):
    schedule = Schedule(family, peak_lr=0.1)
    table = np.full(9000, 0.1) if schedule.closed_loop else schedule.rates(9000)
    at = thin(table)
    assert at.size <= 402 and at[0] == 0 and at[-1] == 8999
    joined = np.interp(np.arange(9000), at, table[at])
    off = np.abs(joined - table) > 0.01 * table.max()
    assert off.mean() < 0.002


def test_preview_tells_twins_apart():
    twins = [Schedule("cosine", peak_lr=peak) for peak in (0.1, 0.2, 0.3)]
    figure = figures.preview(twins, 500)
    assert [t.name for t in figure.data] == ["cosine", "cosine 2", "cosine 3"]
    dashes = [t.line.dash for t in figure.data]
    assert all(a != b for a, b in pairwise(dashes))
    assert len(figures.preview(twins[0], 500).data) == 1


def test_html_stands_alone(drawn, tmp_path):
    page = figures.save(drawn["preview"], tmp_path / "f.html").read_text(encoding="utf-8")
    assert '"modeBarButtonsToRemove": ["sendChartToCloud"]' in page
    assert not re.search(r'<(script|link)[^>]+(src|href)="?http', page)


@pytest.mark.parametrize("suffix", [".svg", ".png", ""])
def test_other_files_are_refused(drawn, tmp_path, suffix):
    with pytest.raises(InputError, match=r"saved as \.html"):
        figures.save(drawn["wins"], tmp_path / f"figure{suffix}")


def test_a_hover_reads_off_both_panels_of_the_curves(drawn):
    figure = drawn["curves"]
    assert figure.layout.hovermode == "x unified" and figure.layout.hoversubplots == "axis"
    assert {trace.xaxis for trace in figure.data} <= {None, "x"}
    rates = {trace.name: trace for trace in figure.data if trace.yaxis != "y2"}
    for trace in (trace for trace in figure.data if trace.yaxis == "y2"):
        above = rates[trace.name]
        read = np.interp(np.array(trace.x) - 1, above.x, above.y)
        if above.line.shape == "linear":
            assert np.allclose(trace.customdata, read, rtol=0.01)
        assert len(trace.customdata) == len(trace.x)


def test_slices_show_every_knob_that_was_tried(many):
    trials, run = many
    figure = figures.slices(trials, "wsd", run["objective"])
    own = trials[(trials["family"] == "wsd") & np.isfinite(trials["value"])]
    assert [t.name for t in figure.data] == [
        "peak_lr",
        "warmup",
        "decay",
        "decay_shape",
        "end_factor",
    ]
    for trace in figure.data:
        assert list(trace.customdata) == own["number"].tolist()
        assert np.allclose(trace.y, own["value"], rtol=1e-4)
    assert np.allclose(figure.data[0].x, own["peak_lr"], rtol=1e-4)
    assert figure.layout.xaxis4.type == "category"
    best = trials.loc[own["value"].idxmin(), "number"]
    sizes = dict(zip(figure.data[0].customdata, figure.data[0].marker.size, strict=True))
    assert max(sizes, key=sizes.get) == best
    places = [figure.layout[f"xaxis{n}"].domain for n in ("", 2, 3, 4, 5)]
    narrow = figure.layout.meta["narrow"]
    assert (
        len(set(places)) == 3 and len({str(narrow[f"xaxis{n}"]["domain"]) for n in ("", 2, 3)}) == 2
    )


def test_pruned_trials_are_drawn_open_where_they_were_forecast(many):
    trials, run = many
    pruned = trials["state"] == "pruned"
    trials = trials.assign(evidence=np.where(pruned, '{"final": 0.5}', "{}"))
    family = trials.loc[pruned, "family"].iloc[0]
    trace = figures.slices(trials, family, run["objective"]).data[0]
    shown = dict(zip(trace.customdata, zip(trace.y, trace.marker.symbol, strict=True), strict=True))
    for number in trials.loc[pruned & (trials["family"] == family), "number"]:
        assert shown[number] == (0.5, f"{look(family).symbol}-open")
    finished = (trials["state"] == "complete") & (trials["family"] == family)
    assert all(shown[n][1] == look(family).symbol for n in trials.loc[finished, "number"])


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_landscape_is_shaded_only_among_enough_trials(many, direction):
    objective = {**many[1]["objective"], "direction": direction}
    few = figures.landscape(many[0], "wsd", objective)
    assert [trace.type for trace in few.data] == ["scatter"]
    trials = search(["wsd"], 80)
    figure = figures.landscape(trials, "wsd", objective)
    shade, points = figure.data
    assert shade.type == "contour"
    known = np.isfinite(shade.z)
    assert known.any() and not known.all()
    ends = points.marker.cmin, points.marker.cmax
    assert shade.z[known].min() >= ends[0] - 1e-6 and shade.z[known].max() <= ends[1] + 1e-6
    strong = points.marker.colorscale[0 if direction == "minimize" else -1][1]
    assert strong.endswith("0.95)")  # the best in the family's full colour
    ticks = points.marker.colorbar.ticktext
    assert ticks[-1 if direction == "minimize" else 0].endswith("or worse")


def test_the_timeline_accounts_for_every_update(many):
    trials, run = many
    figure = figures.timeline(trials, run["objective"])
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert np.allclose(sum(np.array(bar.y) for bar in bars), 100, atol=0.5)
    width = trials["updates"].sum() / len(bars[0].x)
    for bar in bars:
        spent = trials.loc[trials["state"] == bar.name, "updates"].sum()
        assert sum(bar.y) / 100 * width == pytest.approx(spent, rel=0.01)
    best = next(trace for trace in figure.data if trace.name == "best so far")
    values = trials.loc[trials["state"] == "complete", "value"]
    assert np.all(np.diff(best.y) <= 0) and best.y[-1] == pytest.approx(values.min(), rel=1e-4)
    rising = figures.timeline(trials, {**run["objective"], "direction": "maximize"})
    best = next(trace for trace in rising.data if trace.name == "best so far")
    assert best.y[-1] == pytest.approx(values.max(), rel=1e-4)
