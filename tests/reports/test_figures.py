import re
from itertools import pairwise

import numpy as np
import pytest

from lrtune.errors import InputError
from lrtune.reports import figures, learning_curves, parameters, plot_style, rates
from lrtune.reports.palette import LOOKS, look
from lrtune.reports.plot_style import thin
from lrtune.schedule import FAMILIES, Schedule
from tests.documents import changed


def every(trials, run):
    objective, test = run.objective, run.range_test
    return {
        "wins": figures.wins(trials, objective),
        "curves": learning_curves.curves(trials, objective, run.horizon),
        "against_peak": figures.against_peak(trials, objective, (0.004, 0.5)),
        "range_test": rates.range_test(test),
        "preview": rates.preview([Schedule("cosine", peak_lr=0.1)], 1000),
        "slices": parameters.slices(trials, "wsd", objective),
        "rank": parameters.rank(trials, "wsd", objective),
        "history": figures.optimization_history(trials, objective),
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
    figure = learning_curves.curves(trials, run.objective, run.horizon)
    shown = {t.name for t in figure.data if t.visible is True}
    waiting = {t.name for t in figure.data if t.visible == "legendonly"}
    assert len(shown) == learning_curves.SHOWN
    assert shown | waiting == set(trials["family"])
    for trace in figure.data:
        assert len(trace.x) == len(trace.y) <= 402
        assert max(trace.x) <= run.horizon


def test_figures_with_nothing_to_draw_have_no_traces(many):
    trials, run = many
    none = trials[trials["state"] == "diverged"]
    figures_of = every(none, run)
    empty = ("wins", "curves", "against_peak", "slices", "rank", "history")
    assert not any(figures_of[name].data for name in empty)


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
    figure = rates.preview(twins, 500)
    assert [t.name for t in figure.data] == ["cosine", "cosine 2", "cosine 3"]
    dashes = [t.line.dash for t in figure.data]
    assert all(a != b for a, b in pairwise(dashes))
    assert len(rates.preview(twins[0], 500).data) == 1


def test_html_stands_alone(drawn, tmp_path):
    page = plot_style.save(drawn["preview"], tmp_path / "f.html").read_text(encoding="utf-8")
    assert '"modeBarButtonsToRemove": ["sendChartToCloud"]' in page
    assert not re.search(r'<(script|link)[^>]+(src|href)="?http', page)


@pytest.mark.parametrize("suffix", [".svg", ".png", ""])
def test_other_files_are_refused(drawn, tmp_path, suffix):
    with pytest.raises(InputError, match=r"saved as \.html"):
        plot_style.save(drawn["wins"], tmp_path / f"figure{suffix}")


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


def test_the_history_has_every_value_and_the_best_so_far(many):
    trials, run = many
    finished = trials[trials["state"] == "complete"]
    for direction, best in (("minimize", "cummin"), ("maximize", "cummax")):
        objective = changed(run.objective, direction=direction)
        scores, line = figures.optimization_history(trials, objective).data
        assert list(scores.x) == list(line.x) == finished["number"].tolist()
        assert np.allclose(scores.y, finished["value"], rtol=1e-4)
        assert np.allclose(line.y, getattr(finished["value"], best)(), rtol=1e-4)
