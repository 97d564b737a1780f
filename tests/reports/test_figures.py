"""The figures: their looks, what they show, and what they leave out."""

import re

import numpy as np
import pytest

from lrtune.reports import figures, plot_style
from lrtune.reports.plot_style import LOOKS, look, thin
from lrtune.schedule import FAMILIES, Schedule


def every(trials, run):
    objective = run.objective
    return {
        "curves": figures.curves(trials, objective, run.horizon),
        "against_peak": figures.against_peak(trials, objective, (0.004, 0.5)),
        "range_test": figures.range_test(run.range_test),
    }


@pytest.fixture(scope="module")
def drawn(many):
    return every(*many)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_every_family_has_a_look_of_its_own_that_stands_out_in_light_and_dark():
    assert set(LOOKS) == set(FAMILIES) and len(set(LOOKS.values())) == len(LOOKS)
    for name in LOOKS:
        own = luminance(look(name).colour)
        assert 1.05 / (own + 0.05) >= 2.9
        assert (own + 0.05) / (luminance("#15171a") + 0.05) >= 3


def test_axes_have_titles_and_a_family_keeps_its_colour(drawn):
    for name, figure in drawn.items():
        shown = figure.to_dict()["layout"]
        titles = [axis.get("title", {}).get("text") for key, axis in shown.items() if "axis" in key]
        assert sum(bool(title) for title in titles) >= 2, name
        for trace in figure.data:
            if trace.name in LOOKS:
                assert LOOKS[trace.name].colour in (trace.line.color, trace.marker.color)


def test_figures_with_nothing_to_draw_have_no_traces(many):
    trials, run = many
    empty = every(trials[trials["state"] == "diverged"], run)
    assert not any(empty[name].data for name in ("curves", "against_peak"))


def test_curves_show_the_leaders_and_keep_the_rest_in_the_legend(many, drawn):
    trials, run = many
    figure = drawn["curves"]
    shown = {t.name for t in figure.data if t.visible is True}
    waiting = {t.name for t in figure.data if t.visible == "legendonly"}
    assert len(shown) == figures.SHOWN and shown | waiting == set(trials["family"])
    for trace in figure.data:
        assert len(trace.x) == len(trace.y) <= 402 and max(trace.x) <= run.horizon


def test_a_hover_reads_off_both_panels_of_the_curves(drawn):
    figure = drawn["curves"]
    assert figure.layout.hovermode == "x unified" and figure.layout.hoversubplots == "axis"
    rates = {trace.name: trace for trace in figure.data if trace.yaxis != "y2"}
    for trace in (trace for trace in figure.data if trace.yaxis == "y2"):
        above = rates[trace.name]
        read = np.interp(np.array(trace.x) - 1, above.x, above.y)
        if above.line.shape == "linear":
            assert np.allclose(trace.customdata, read, rtol=0.01)
        assert len(trace.customdata) == len(trace.x)


def test_rates_are_on_a_linear_axis_unless_their_peaks_are_far_apart():
    def kind(*peaks):
        several = [("cosine", Schedule("cosine", peak_lr=peak)) for peak in peaks]
        return figures.compared_rates(several, 500, ()).layout.yaxis.type

    assert (kind(0.1), kind(0.1, 0.4), kind(0.1, 0.001)) == (None, None, "log")


@pytest.mark.parametrize("family", [n for n, f in FAMILIES.items() if f.searchable])
def test_thinned_curves_look_the_same(family):
    schedule = Schedule(family, peak_lr=0.1)
    table = np.full(9000, 0.1) if schedule.closed_loop else schedule.rates(9000)
    at = thin(table)
    assert at.size <= 402 and at[0] == 0 and at[-1] == 8999
    joined = np.interp(np.arange(9000), at, table[at])
    assert (np.abs(joined - table) > 0.01 * table.max()).mean() < 0.002


def test_a_saved_figure_needs_no_network(drawn, tmp_path):
    plot_style.save(drawn["curves"], tmp_path / "f.html")
    page = (tmp_path / "f.html").read_text(encoding="utf-8")
    assert '"modeBarButtonsToRemove": ["sendChartToCloud"]' in page
    assert not re.search(r'<(script|link)[^>]+(src|href)="?http', page)
