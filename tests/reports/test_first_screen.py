"""The first screen of the report: its curves, its gains, its code."""

import re

import numpy as np
import pytest

from lrtune.export import EXPORTERS, TABLES
from lrtune.reports.first_screen import HEIGHT, LABELS, WIDTH, exports, first_screen, found_with
from lrtune.reports.plot_style import look
from lrtune.schedule import Schedule
from lrtune.verdict.verdict import Gain
from tests.documents import changed
from tests.reports.conftest import HORIZON
from tests.reports.test_finals_report import make

NUMBER = r"-?[\d.]+"


def points(path):
    """The corners of an SVG path."""
    assert re.fullmatch(rf"M{NUMBER} {NUMBER}((L{NUMBER} {NUMBER})|(V{NUMBER}H{NUMBER}))*", path)
    x, y, corners = 0.0, 0.0, []
    for kind, value, second in re.findall(rf"([MLVH])({NUMBER})(?: ({NUMBER}))?", path):
        if kind in "ML":
            x, y = float(value), float(second)
        else:
            x, y = (float(value), y) if kind == "H" else (x, float(value))
        corners.append((x, y))
    return np.array(corners)


def gain(*values):
    return Gain(**dict(zip(Gain.model_fields, values, strict=True)))


def test_the_sketch_shows_the_rates_of_the_recommended_beside_the_baseline(many):
    trials, run, verdict, finals = make("winner", *many)
    sketch = first_screen(trials, run, verdict, finals).sketch
    assert [curve.label for curve in sketch.curves] == ["wsd", "a tuned constant"]
    assert [curve.colour for curve in sketch.curves] == [look("wsd").colour, ""]
    rates = [
        row.schedule.rates(HORIZON) for row in verdict.families if row.family in ("wsd", "constant")
    ]
    top = max(curve.max() for curve in rates)
    assert sketch.scale == "" and float(sketch.top) == pytest.approx(top, rel=0.01)
    for curve, known in zip(sketch.curves, rates, strict=True):
        x, y = points(curve.path).T
        assert x.min() >= 0 and x.max() <= WIDTH and y.min() >= 0 and y.max() <= HEIGHT
        read = np.interp(x / WIDTH * HORIZON, np.arange(HORIZON), known)
        assert np.abs(1 - y / HEIGHT - read / top).max() < 0.03


def test_yours_is_drawn_in_place_of_tuned_baselines(many):
    trials, run, verdict, finals = make("winner", *many)
    rows = [
        changed(row, family="yours", role="yours") if row.family == "linear" else row
        for row in verdict.families
    ]
    mine = gain("yours", "your linear", 0.2, 0.1, 0.3, 0.01, True)
    verdict = changed(verdict, families=rows, answer={"gains": [*verdict.answer.gains, mine]})
    sketch = first_screen(trials, run, verdict, finals).sketch
    assert [curve.label for curve in sketch.curves] == ["wsd", "your linear"]
    verdict = changed(verdict, answer={"recommended": "yours"})
    sketch = first_screen(trials, run, verdict, finals).sketch
    assert sketch.curves[0].label == "your linear"


def test_before_a_verdict_yours_is_beside_the_best_trial(many):
    trials, run = many
    mine = Schedule("step", peak_lr=1e-4)
    screen = first_screen(trials, changed(run, baselines=[mine]), None, None)
    assert [curve.label for curve in screen.sketch.curves] == ["wsd", "your step"]
    assert screen.sketch.scale == ", log scale" and float(screen.sketch.bottom) > 0
    assert len(screen.gains) == 0
    assert len(first_screen(trials, run, None, None).sketch.curves) == 1


def test_the_rates_of_a_closed_loop_are_those_that_were_recorded(many):
    trials, run, verdict, finals = make("winner", *many)
    verdict = changed(verdict, answer={"recommended": "plateau"})
    screen = first_screen(trials, run, verdict, finals)
    assert "H" in screen.sketch.curves[0].path
    unknown = trials[trials["family"] != "plateau"]
    gone = finals[finals["family"] != "plateau"]
    assert first_screen(unknown, run, verdict, gone).sketch is None


def test_gains_lie_on_one_axis(many):
    trials, run, verdict, finals = make("winner", *many)
    rows = [
        gain("constant", "a tuned constant", 2.0, 1.0, 3.0, 0.001, True),
        gain("linear", "your linear", -1.0, -3.0, 1.0, 0.4, False),
        gain("constant", "a tuned constant", -2.0, -3.0, 3.0, 0.01, False),
    ]

    def gains_of(rows):
        found = changed(verdict, answer={"gains": rows})
        screen = first_screen(trials, run, found, finals)
        return screen.gains, screen.zero

    gains, zero = gains_of(rows)
    assert [row.sure for row in gains] == ["better", "may be chance", "worse"]
    assert gains[0].amount == "+2 nats" and gains[1].amount == "-1 nats"
    first, second, _ = gains
    assert 0 < second.low < second.at < zero < first.low == second.high < first.at < 100
    assert zero == pytest.approx(50, abs=0.1)
    once = gain("constant", "a tuned constant", 2.0, None, None, None, False)
    ((row,), _) = gains_of([once])
    assert row.sure == "may be chance" and row.reach == "" and row.low == row.at == row.high
    assert gains_of([])[0] == []


def test_without_a_winner_there_is_nothing_to_draw_or_to_copy(many):
    trials, run = many
    lost = trials.assign(state="diverged", value=np.nan)
    screen = first_screen(lost, run, None, None)
    assert screen.answer.use.startswith("No winner.")
    assert screen.sketch is None and not screen.gains and not screen.exports


def test_every_framework_has_code_or_a_reason(many):
    _, run = many
    assert {*LABELS} == EXPORTERS.keys() - set(TABLES)
    for family in ("cosine", "plateau", "greedy"):
        for one in exports(Schedule(family, peak_lr=0.1), run):
            assert bool(one.source) != bool(one.why)
            if one.source:
                assert one.source.startswith(found_with(run))
                compile(one.source, one.target, "exec")
    assert "momentum 0.9" in found_with(run) and "batch 128" in found_with(run)
