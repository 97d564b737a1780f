"""tune: what is left where it ends early."""

import math
from pathlib import Path

import numpy as np
import pytest

import lrtune
from lrtune import InputError, tuning
from lrtune.engine import Choice
from lrtune.engine.devices import SpreadPool
from lrtune.engine.range_test import RangeTest, Suggestion


class Closing(SpreadPool):
    """Notes that its processes were ended."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def test_processes_end_where_the_search_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        assert not pool.closed
        raise InputError("no range")

    pool = Closing()
    monkeypatch.setattr(tuning, "choose_pool", lambda *_: (pool, Choice("serial", 2)))
    monkeypatch.setattr(tuning, "range_test", fails)
    with pytest.raises(InputError, match="no range"):
        lrtune.tune(lrtune.load_task("digits", epochs=1), trials=1, out=tmp_path / "run")
    assert pool.closed


@pytest.mark.parametrize(
    ("doubt", "message", "low", "high"),
    [
        (0.5, "", 0.01 / math.exp(1.25), 0.01 * math.exp(1.25)),
        (2.5, "no fall", 0.01 / math.exp(6.25), 1.0),
    ],
)
def test_the_more_doubt_the_wider_the_peaks(
    doubt: float,
    message: str,
    low: float,
    high: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suggestion = Suggestion(1e-3, 1e-2, 1e-2, 0.1, peak_lr=0.01, doubt=doubt)
    rates, losses = np.geomspace(1e-4, 0.1, 10), np.ones((1, 10))
    test = RangeTest(rates, losses, losses, suggestion, message)
    monkeypatch.setattr(tuning, "range_test", lambda *_, **__: test)
    told: list[str] = []
    task = lrtune.load_task("digits", epochs=0.2)
    options = {"families": ["constant"], "engine": "serial", "slots": 1}
    run = lrtune.tune(task, trials=1, out=tmp_path / "run", tell=told.append, **options)
    assert run.settings["peak_lr"] == pytest.approx([low, high])
    kept = run.settings["range_test"]
    assert (kept["peak_lr"], kept["doubt"], kept["message"]) == (0.01, doubt, message)
    unsure = [line for line in told if line.startswith("range test unsure")]
    assert unsure == (
        [f"range test unsure: no fall: peak rates from {low:.2g} to {high:.2g} are searched"]
        if message
        else []
    )


# Of a training of 900 updates, a seed of the range test has 240.
@pytest.mark.parametrize(
    ("total", "seeds"), [(900, 1), (6 * 900, 1), (12 * 900, 2), (40 * 900, 3), (math.inf, 3)]
)
def test_the_range_test_has_a_twentieth_of_the_search(total: float, seeds: int) -> None:
    task = lrtune.load_task("digits", epochs=25, batch_size=32)
    assert tuning.sweep(task, total) == (240, seeds)
