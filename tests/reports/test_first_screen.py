"""The first screen of the report: its curves, its gains, its code."""

import numpy as np
import pytest

from lrtune.export import EXPORTERS, TABLES
from lrtune.reports.figures import gains, of_run
from lrtune.reports.first_screen import LABELS, answer, exports
from lrtune.reports.plot_style import GREEN, GREY, RED, look
from lrtune.schedule import Schedule
from lrtune.verdict.best import BestSchedule
from lrtune.verdict.verdict import Gain
from tests.documents import changed
from tests.reports.conftest import HORIZON
from tests.reports.test_finals_report import make


def gain(*values):
    return Gain(**dict(zip(Gain.model_fields, values, strict=True)))


def names(figure):
    return [trace.name for trace in figure.data]


def test_the_rates_of_the_recommended_beside_the_baselines(many):
    trials, run, verdict, finals = make("winner", *many)
    figure = of_run(trials, run, verdict, finals)["rates"]
    assert names(figure) == ["wsd (recommended)", "a tuned constant", "a tuned linear"]
    assert figure.data[0].line.color == look("wsd").colour != figure.data[1].line.color
    rows = [row for row in verdict.families if row.family in ("wsd", "constant", "linear")]
    for trace, row in zip(figure.data, rows, strict=True):
        rates = row.schedule.rates(HORIZON)
        read = np.interp(np.arange(HORIZON), trace.x, trace.y)
        assert np.abs(read - rates).max() < 0.03 * rates.max()


def test_yours_is_drawn_in_place_of_tuned_baselines(many):
    trials, run, verdict, finals = make("winner", *many)
    rows = [
        changed(row, family="yours", role="yours") if row.family == "linear" else row
        for row in verdict.families
    ]
    mine = gain("yours", "your linear", 0.2, 0.1, 0.3, 0.01, True)
    others = [one for one in verdict.answer.gains if one.over != "linear"]
    verdict = changed(verdict, families=rows, answer={"gains": [*others, mine]})
    assert names(of_run(trials, run, verdict, finals)["rates"])[1:] == ["your linear"]
    verdict = changed(verdict, answer={"recommended": "yours"})
    assert names(of_run(trials, run, verdict, finals)["rates"])[0].startswith("your linear")
    own = changed(run, baselines=[Schedule("step", peak_lr=1e-4)])
    figure = of_run(trials, own, None, None)["rates"]
    assert names(figure)[1:] == ["your step"] and figure.layout.yaxis.type == "log"
    assert len(of_run(trials, run, None, None)["rates"].data) == 1


def test_the_rates_of_a_closed_loop_are_those_that_were_recorded(many):
    trials, run, verdict, finals = make("winner", *many)
    verdict = changed(verdict, answer={"recommended": "plateau"})
    assert of_run(trials, run, verdict, finals)["rates"].data[0].line.shape == "vh"
    unknown = trials[trials["family"] != "plateau"]
    gone = finals[finals["family"] != "plateau"]
    assert not of_run(unknown, run, verdict, gone)["rates"].data


@pytest.mark.parametrize(
    ("gap", "ends", "p", "colour", "said"),
    [
        (2.0, (1.0, 3.0), 0.001, GREEN, "over a tuned constant: +2 nats, better"),
        (-1.0, (-3.0, 1.0), 0.4, GREY, "over a tuned constant: -1 nats, may be chance"),
        (-2.0, (-3.0, -1.0), 0.01, RED, "over a tuned constant: -2 nats, worse"),
        (2.0, (np.nan, np.nan), np.nan, GREY, "over a tuned constant: +2 nats, may be chance"),
    ],
)
def test_gains_and_how_sure_they_are(many, gap, ends, p, colour, said):
    verdict = make("winner", *many)[2]
    first, other, *_ = verdict.families
    other = changed(other, gap=gap, gap_low=ends[0], gap_high=ends[1], p=p)
    figure = gains(changed(verdict, families=[first, other]))
    (trace,), (note,) = figure.data, figure.layout.annotations
    assert (trace.x[0], trace.marker.color, note.text) == (gap, colour, said)
    assert (trace.error_x.array is None) == np.isnan(p)
    assert not gains(changed(verdict, answer={"place": "unfinished"})).data


def test_a_baseline_is_in_the_picture_however_far_behind(many):
    verdict = make("winner", *many)[2]
    first, baseline, *others = verdict.families
    near = [changed(row, gap=0.01, gap_low=-0.01, gap_high=0.03) for row in others]
    far = changed(baseline, gap=9.0, gap_low=8.0, gap_high=10.0)
    low, high = gains(changed(verdict, families=[first, *near, far])).layout.xaxis.range
    assert low < -0.01 and high > 10


def test_without_a_winner_there_is_nothing_to_draw_or_to_copy(many):
    trials, run = many
    lost = trials.assign(state="diverged", value=np.nan)
    assert answer(lost, run).use.startswith("No winner.")
    assert BestSchedule.of(lost, run, None) is None
    assert not of_run(lost, run, None, None)["rates"].data


def test_every_framework_has_code_or_a_reason(many):
    found = BestSchedule.of(*many, None)
    assert {*LABELS} == EXPORTERS.keys() - set(TABLES)
    for family in ("cosine", "plateau", "greedy"):
        best = changed(found, schedule=Schedule(family, peak_lr=0.1))
        for one in exports(best):
            assert bool(one.source) != bool(one.why)
            if one.source:
                assert one.source.startswith(best.comments)
                compile(one.source, one.target, "exec")
    assert "momentum 0.9" in found.comments and "batch 128" in found.comments
