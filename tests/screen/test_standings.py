"""Rows of the search and of the finals."""

import io
import math

from rich.console import Console

from lrtune import load_task
from lrtune.schedule import Schedule
from lrtune.screen.listener import Screen
from lrtune.screen.pace import Pace
from lrtune.screen.standings import families, finals
from lrtune.search import Board, Budget, Record
from lrtune.search.record import Curves
from lrtune.tally import Contender, Tally


def record(number: int, family: str, value: float | None, state: str = "complete") -> Record:
    schedule = Schedule(family, peak_lr=0.1 + number / 100)
    metrics = {} if value is None else {"loss": [9.0, value], "accuracy": [0.1, 0.9]}
    at = None if value is None else 10
    curves = Curves(step=[5, 10], metrics=metrics)
    return Record(
        number, number, schedule, {}, state, "", value, curves, {}, 10, 1.0, 0, judged_at=at
    )


def board(*records: Record, minimize: bool = True) -> Board:
    found = Board(Budget(trials=10), minimize)
    for one in records:
        found.add(one)
    return found


def test_families_are_in_the_order_of_their_best() -> None:
    seen = [record(0, "wsd", 0.3), record(1, "cosine", 0.2), record(2, "wsd", 0.25)]
    seen += [record(3, "cosine", None, "pruned"), record(4, "step", None, "diverged")]
    now = board(*seen)
    rows = families(now, "loss")
    assert [row.family for row in rows] == ["cosine", "wsd", "step"]
    assert [row.count for row in rows] == [2, 2, 1] and not any(row.out for row in rows)
    assert rows[1].value == 0.25 and math.isclose(rows[1].gap, 0.05)
    assert rows[0].gap == 0 and rows[0].more["pruned"] == "1" and rows[0].more["accuracy"] == "0.9"
    assert math.isnan(rows[2].value) and now.best is seen[1]


def test_a_line_names_the_best() -> None:
    out = io.StringIO()
    screen = Screen(Console(file=out, width=160))
    screen.started(load_task("digits", epochs=1), {})
    screen.search(board(record(0, "wsd", 0.3), record(1, "constant", 0.1)))
    assert out.getvalue().rstrip().endswith("; best: constant, cross-entropy 0.1")


def test_higher_may_be_better() -> None:
    rows = families(board(record(0, "wsd", 0.3), record(1, "cosine", 0.2), minimize=False), "loss")
    assert [row.family for row in rows[:2]] == ["wsd", "cosine"]
    assert math.isclose(rows[1].gap, 0.1)


def test_the_board_knows_what_is_spent_and_the_first_of_equals() -> None:
    now = board(record(1, "wsd", 0.3), record(0, "cosine", 0.3), record(2, "step", math.nan))
    assert now.best is not None and now.best.number == 0
    assert now.spent[:2] == (3, 30) and now.share == 0.3
    assert now.ended == {"complete": 3} and now.by_family["step"]["complete"] == 1


def test_finals_are_compared_on_common_seeds() -> None:
    scores = {"wsd": {1: 0.2, 2: 0.4}, "cosine": {1: 0.3, 2: 0.5, 3: 9.0}, "step": {1: 0.1}}
    contenders = [Contender(Schedule(f, peak_lr=0.1), s, f != "step") for f, s in scores.items()]
    lost = Contender(Schedule("constant", peak_lr=0.1), {1: math.nan, 2: 0.1}, True)
    rows = finals(Tally(0.5, 5.5, 8, [*contenders, lost]), minimize=True)
    by = {row.family: row for row in rows}
    assert math.isclose(by["wsd"].value, 0.3) and math.isclose(by["cosine"].value, 0.4)
    assert by["cosine"].count == 3
    assert by["step"].now == "no more seeds" and by["step"].out
    assert by["constant"].now == "1 lost" and by["constant"].out
    nothing = finals(Tally(0.5, 0.0, 8, [Contender(lost.schedule, {}, True)]), minimize=True)
    assert math.isnan(nothing[0].value) and math.isnan(nothing[0].gap)
    assert finals(Tally(0.5, 0.0, 8), minimize=True) == []


def test_time_left_is_not_guessed_too_early() -> None:
    pace = Pace(share=0.5, trials=10)
    pace.began -= 60
    assert pace.left(0.51) is None
    assert math.isclose(pace.left(0.75), 60, rel_tol=0.01)
    assert math.isclose(pace.per_minute(40), 30, rel_tol=0.01) and pace.per_minute(10) is None
