"""tune: what is left where it ends early."""

import math
import re
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from listeners import Told
from rich.jupyter import JupyterMixin

import lrtune
from lrtune import Budget, Engine, InputError
from lrtune.engine import SerialPool
from lrtune.engine.range_test import RangeTest, Suggestion
from lrtune.run import tune as tuning


def processes() -> set[psutil.Process]:
    return {p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE}


def test_processes_end_where_the_search_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        assert len(processes() - before) == 2
        raise InputError("no range")

    before = processes()
    monkeypatch.setattr(tuning, "range_test", fails)
    engine = Engine("serial", slots=2, device="cpu,cpu")
    with pytest.raises(InputError, match="no range"):
        lrtune.tune(lrtune.load_task("digits", epochs=1), engine=engine, out=tmp_path / "run")
    assert processes() == before


def test_two_processes_take_the_same_course_each_time(tmp_path: Path) -> None:
    task = lrtune.load_task("digits", batch_size=32, epochs=1)
    tables = []
    for number in range(2):
        how = {"peak_lr": (0.01, 0.5), "engine": Engine("serial", slots=4, device="cpu,cpu")}
        run = lrtune.tune(task, budget=Budget(trials=9), out=tmp_path / str(number), **how)
        tables.append(run.trials().drop(columns="seconds"))
    assert len(tables[0]) == 9 and tables[0]["loss"].map(np.isfinite).map(np.all).all()
    pd.testing.assert_frame_equal(*tables)


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
    told = Told()
    task = lrtune.load_task("digits", batch_size=32, epochs=0.2)
    options = {"families": ["constant"], "engine": Engine("serial", slots=1), "listener": told}
    run = lrtune.tune(task, budget=Budget(trials=1), out=tmp_path / "run", **options)
    assert run.settings.peak_lr == pytest.approx((low, high))
    kept = run.settings.range_test
    assert (kept.peak_lr, kept.doubt, kept.message) == (0.01, doubt, message)
    unsure = [line for line in told.lines if line.startswith("range test unsure")]
    assert unsure == (
        [f"range test unsure: no fall: peak rates from {low:.2g} to {high:.2g} are searched"]
        if message
        else []
    )


QUICK = {"epochs": 1, "families": ["cosine", "constant"], "peak_lr": (0.01, 0.2)}
QUICK |= {"engine": Engine("serial", slots=2)}


def test_progress_and_answer_are_printed_unless_somebody_watches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = lrtune.tune("digits", budget=12, out=tmp_path / "run", **QUICK)
    out, err = capsys.readouterr()
    progress, use, answer = out.partition("\nUse ")
    assert err == "" and "plan: about 12 trainings" in progress and use
    assert answer.rstrip().endswith(f"report: {tmp_path / 'run' / 'report.html'}")
    assert run.verdict() is not None  # a budget bounds the run, so it is confirmed
    asked = run.settings.asked
    assert (asked["task"], asked["epochs"]) == ("digits", 1) and "engine" not in asked
    told = Told()
    lrtune.tune("digits", budget=12, out=tmp_path / "run", listener=told, **QUICK)
    assert capsys.readouterr() == ("", "") and told.lines
    alone = lrtune.tune("digits", budget=12, plan=None, out=tmp_path / "alone", **QUICK)
    assert alone.verdict() is None and "Sure    no:" in capsys.readouterr().out


def test_a_deterministic_run_is_so_from_its_choice_to_its_confirmation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, advance = [], SerialPool.advance

    def noted(pool: SerialPool, *given: object) -> object:
        states.append(torch.are_deterministic_algorithms_enabled())
        return advance(pool, *given)

    monkeypatch.setattr(SerialPool, "advance", noted)
    given = {**QUICK, "engine": Engine("serial", 2, "cpu", deterministic=True), "listener": Told()}
    run = lrtune.tune("digits", budget=Budget(trials=2), plan=None, out=tmp_path, **given)
    searched = len(states)
    task = lrtune.load_task("digits", epochs=1)
    lrtune.confirm(run, task, trainings=4, engine=Engine(device="cpu"), listener=Told())
    assert run.choice.deterministic and all(states) and len(states) > searched > 0
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("given", "budget"),
    [
        ({}, Budget()),
        ({"budget": 2.5}, Budget(trainings=2.5)),
        ({"budget": "10m"}, Budget(time="10m")),
        ({"budget": 20, "time": "1h"}, Budget(trainings=20, time="1h")),
        ({"budget": Budget(trials=3)}, Budget(trials=3)),
    ],
)
def test_a_budget_in_its_simple_forms(
    given: dict, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}
    monkeypatch.setattr(tuning, "Tuning", lambda *_, **options: seen.update(options) or Fake())

    class Fake:
        def run(self) -> None:
            """Nothing."""

    lrtune.tune(lrtune.load_task("digits", batch_size=32, epochs=1), listener=Told(), **given)
    assert seen["budget"] == budget
    assert (seen["plan"] is None) == (budget == Budget(trials=3))


class Notebook(types.ModuleType):
    """Stands in for IPython.display: what is shown, in its order, and what replaced it."""

    def __init__(self) -> None:
        super().__init__("IPython.display")
        self.shown: list[list[str]] = []

    def display(self, content: JupyterMixin, display_id: bool) -> "Notebook":
        assert display_id
        self.shown.append([])
        self.update(content)
        return self

    def update(self, content: JupyterMixin) -> None:
        self.shown[-1].append(content._repr_mimebundle_((), ())["text/html"])


def test_a_notebook_shows_progress_in_place_and_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = Notebook()
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("lrtune.cli.progress.DRAWN_SECONDS", 0.0)
    lrtune.tune("digits", budget=Budget(trials=2), out=tmp_path / "run", **QUICK)
    (drawn,) = notebook.shown
    assert len(drawn) > 1 and "cosine" in drawn[0] and 'style="color:' in drawn[0].replace(" ", "")
    assert "search" in drawn[0] and re.sub(r"<.*?>", "", drawn[-1]).strip() == ""
    said = capsys.readouterr().out
    assert "plan: at most 2 trials" in said and "Use c" in said and "report.html" in said


# Of a training of 900 updates, a seed of the range test has 240.
@pytest.mark.parametrize(
    ("total", "updates", "seeds"),
    [
        (50, 20, 1),
        (900, 180, 1),
        (6 * 900, 240, 1),
        (12 * 900, 240, 2),
        (40 * 900, 240, 3),
        (math.inf, 240, 3),
    ],
)
def test_the_range_test_has_a_twentieth_of_the_search(
    total: float, updates: int, seeds: int
) -> None:
    task = lrtune.load_task("digits", epochs=25, batch_size=32)
    assert tuning.sweep(task, total) == (updates, seeds)


def test_a_budget_of_few_short_trainings_has_an_answer(tmp_path: Path) -> None:
    """Of 12 updates: five are what a range test of the usual length takes."""
    how = {"batch_size": 96, "epochs": 1, "engine": "serial", "out": tmp_path / "run"}
    run = lrtune.tune("digits", budget=10, families=["cosine", "constant"], **how)
    verdict = run.verdict()
    assert verdict is not None and verdict.decided


def test_schedule_free_is_a_rival_of_the_schedules(tmp_path: Path) -> None:
    how = {"batch_size": 96, "epochs": 2, "families": ["schedule_free"], "optimizer": "adamw"}
    rival = [lrtune.Schedule("cosine", peak_lr=0.01)]
    told = Told()
    run = lrtune.tune(
        "digits", budget=10, out=tmp_path / "run", baselines=rival, listener=told, **how
    )
    assert run.settings.engine.name == "serial"
    assert "engine: serial, since schedule_free trains one training at a time" in told.lines
    assert {row.family for row in run.verdict().families} == {"schedule_free", "yours"}
    with pytest.raises(InputError, match="schedule_free: radam has no schedule-free form: take"):
        lrtune.tune("digits", budget=10, out=tmp_path / "other", **how | {"optimizer": "radam"})
    with pytest.raises(InputError, match="engine fused: schedule_free trains one training at a"):
        lrtune.tune("digits", budget=10, out=tmp_path / "other", engine="fused", **how)
