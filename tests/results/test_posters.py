import pandas as pd

from lrtune.results.posters import posters


def test_figures_are_small_however_many_trials(many) -> None:
    trials, run = many
    drawn = posters(pd.concat([trials] * 5, ignore_index=True), run, None, pd.DataFrame())
    assert len(drawn) == 3
    assert sum(len(figure.to_json()) for figure in drawn.values()) < 60_000
    for figure in drawn.values():
        assert all(len(trace.x) <= 60 for trace in figure.data)
