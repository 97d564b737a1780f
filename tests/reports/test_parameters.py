"""Which parameters of a family matter, and the figure of scores against each."""

import numpy as np
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution

from lrtune.reports.parameters import FEWEST, importances, scored, slices, space_of, study_of
from lrtune.reports.plot_style import look
from tests.documents import LOSS, changed
from tests.reports.conftest import search

SCORE = changed(LOSS, direction="maximize")


def made(values, **columns):
    """Finished trials of a family that nobody knows."""
    rows = {f"own.{name}": column for name, column in columns.items()}
    own = pd.DataFrame({**rows, "value": values, "finished": True, "state": "complete"})
    return own.assign(number=range(len(own)), family="own")


def draw(count, seed=0):
    return np.random.default_rng(seed).uniform(size=(3, count))


@pytest.fixture(scope="module")
def cosine():
    return scored(search(["cosine"], 80), "cosine")


def test_shares_of_a_sum_are_those_of_its_parts():
    a, b, c = draw(300)
    found, why = importances(made(3 * a + b, a=a, b=b, c=c), "own", SCORE)
    assert not why and list(found) == ["a", "b", "c"]
    assert list(found.values()) == pytest.approx([0.9, 0.1, 0.0], abs=0.06)


def test_a_log_scale_counts_by_decades():
    """On the scale of the numbers themselves, nine tenths of the peaks would be one decade."""
    decades, other, _ = draw(300)
    own = made(decades + other, b=other).assign(peak_lr=10 ** (4 * decades - 4))
    found, _ = importances(own, "own", SCORE)
    assert found["peak_lr"] == pytest.approx(found["b"], abs=0.12)


def test_the_parameter_that_decides_is_found(cosine):
    found, _ = importances(cosine, "cosine", LOSS)
    assert next(iter(found)) == "peak_lr" and found["peak_lr"] > 0.5
    assert set(found) == {"peak_lr", "warmup", "T_max", "eta_min"}


def test_where_nothing_is_known_it_says_why(cosine):
    few = cosine[cosine["finished"]].head(FEWEST - 1)
    assert importances(few, "cosine", LOSS)[1] == "14 finished, and at least 15 are needed"
    same = cosine.assign(**{name: 0.5 for name in cosine if "." in name}, peak_lr=0.1)
    assert "fewer than two parameters differ" in importances(same, "cosine", LOSS)[1]
    a, b, _ = draw(60)
    noise = np.random.default_rng(1).normal(size=60)
    assert "do not tell good" in importances(made(noise, a=a, b=b), "own", LOSS)[1]


def test_parameters_lie_on_the_scale_on_which_they_were_searched():
    own = scored(search(["wsd"], 30), "wsd")
    own = own.assign(**{"wsd.peak_lr": own["peak_lr"]})  # as the search keeps it beside
    space = space_of(own, "wsd")
    assert "wsd.peak_lr" not in space
    assert space["peak_lr"].log and not space["warmup"].log
    assert isinstance(space["wsd.decay_shape"], CategoricalDistribution)
    assert next(iter(space_of(own.assign(family="stranger"), "stranger"))) == "peak_lr"
    study = study_of(own, space, own["value"], "minimize")
    assert [trial.value for trial in study.trials] == own["value"].tolist()
    assert [t.params["peak_lr"] for t in study.trials] == own["peak_lr"].tolist()


def test_slices_show_every_parameter_that_was_tried(many):
    trials, run = many
    figure = slices(trials, "wsd", run.objective)
    own = trials[(trials["family"] == "wsd") & np.isfinite(trials["value"])].set_index("number")
    panels = {trace.name: trace for trace in figure.data}
    assert set(panels) == {"peak_lr", "warmup", "decay", "decay_shape", "end_factor"}
    for trace in figure.data:
        numbers = list(trace.customdata)
        assert len(numbers) == len(own) and np.allclose(trace.y, own["value"][numbers], rtol=1e-4)
    peaks = panels["peak_lr"]
    assert np.allclose(peaks.x, own["peak_lr"][list(peaks.customdata)], 1e-4)
    assert set(panels["decay_shape"].x) == set(own["wsd.decay_shape"])
    sizes = dict(zip(peaks.customdata, peaks.marker.size, strict=True))
    assert max(sizes, key=sizes.get) == own["value"].idxmin()
    places = [figure.layout[f"xaxis{n}"].domain for n in ("", 2, 3, 4, 5)]
    assert len(set(places)) == 2


def test_stopped_trials_are_drawn_open_at_their_forecast(many):
    trials, run = many
    pruned = trials["state"] == "pruned"
    trials = trials.assign(evidence=np.where(pruned, '{"final": 0.5}', "{}"))
    family = trials.loc[pruned, "family"].iloc[0]
    trace = slices(trials, family, run.objective).data[0]
    shown = dict(zip(trace.customdata, zip(trace.y, trace.marker.symbol, strict=True), strict=True))
    for row in trials[trials["family"] == family].itertuples():
        if row.state == "pruned":
            assert shown[row.number] == (0.5, f"{look(family).symbol}-open")
        elif row.state == "complete":
            assert shown[row.number][1] == look(family).symbol
