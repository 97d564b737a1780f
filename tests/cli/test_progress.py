"""Progress: rows of the search and of the confirmation, on terminals of all sizes and elsewhere."""

import io
import math
import re
from datetime import datetime
from types import SimpleNamespace

import pytest
from rich.cells import cell_len
from rich.console import Console

from lrtune import load_task
from lrtune.cli.console import fitted
from lrtune.cli.progress import (
    LINE_SECONDS,
    RunProgress,
    Screen,
    family_table,
    finalist_table,
    on_hosts,
)
from lrtune.engine.spread import Loss
from lrtune.format import Table
from lrtune.run.confirm import ConfirmationState, FinalistScores
from lrtune.schedule import FAMILIES, Schedule
from lrtune.search import Limits, Record, SearchState
from lrtune.search.storage import Curves

SEARCHED = [name for name, family in FAMILIES.items() if family.searchable]


def record(number: int, family: str, value: float | None, state: str = "complete") -> Record:
    schedule = Schedule(family, peak_lr=0.1 + number / 100)
    metrics = {} if value is None else {"loss": [9.0, value], "accuracy": [0.1, 0.9]}
    at = None if value is None else 10
    curves = Curves(step=[5, 10], metrics=metrics)
    return Record(
        number, number, schedule, {}, state, "", value, curves, {}, 10, 1.0, 0, judged_at=at
    )


def state(*records: Record, minimize: bool = True, budget: Limits | None = None) -> SearchState:
    found = SearchState(budget or Limits(trials=10), minimize)
    for one in records:
        found.add(one)
    return found


def shown(table: Table) -> list[dict[str, object]]:
    return [
        dict(zip(table.heads, (cell.shown for cell in row), strict=True)) for row in table.cells
    ]


def test_families_are_in_the_order_of_their_best() -> None:
    seen = [record(0, "wsd", 0.3), record(1, "cosine", 0.2), record(2, "wsd", 0.25)]
    seen += [record(3, "cosine", None, "pruned"), record(4, "step", None, "diverged")]
    rows = shown(family_table(state(*seen), "accuracy"))
    assert [row["family"] for row in rows] == ["cosine", "wsd", "step"]
    assert [row["trials"] for row in rows] == [2, 2, 1]
    assert [row["best"] for row in rows] == ["0.200", "0.250", "–"]
    assert [row["behind"] for row in rows] == ["–", "0.050", "–"]
    assert rows[0]["accuracy"] == "0.900" and rows[1]["peak"] == "0.12"
    now = state(record(0, "wsd", 0.3), record(1, "cosine", 0.2), minimize=False)
    rows = shown(family_table(now, ""))
    assert [(row["family"], row["behind"]) for row in rows] == [("wsd", "–"), ("cosine", "0.10")]


def test_the_state_knows_what_is_spent_and_the_first_of_equals() -> None:
    now = state(record(1, "wsd", 0.3), record(0, "cosine", 0.3), record(2, "step", math.nan))
    assert now.best is not None and now.best.number == 0
    assert now.spent[:2] == (3, 30) and now.share == 0.3
    assert now.ended == {"complete": 3} and now.families["step"].ended["complete"] == 1
    assert [row["family"] for row in shown(family_table(now, ""))] == ["cosine", "wsd", "step"]


def finalists(scores: dict[str, dict[int, float]], ended: tuple[str, ...] = ()):
    several = [FinalistScores(Schedule(f, 0.1), s, f not in ended) for f, s in scores.items()]
    return ConfirmationState(0.5, 5.5, 8, several)


def test_finalists_are_compared_on_common_seeds() -> None:
    scores = {"wsd": {1: 0.2, 2: 0.4}, "cosine": {1: 0.3, 2: 0.5, 3: 9.0}, "step": {1: 0.1}}
    scores |= {"constant": {1: math.nan, 2: 0.1}}
    rows = shown(finalist_table(finalists(scores, ended=("step", "constant")), minimize=True))
    assert [row["family"] for row in rows] == ["step", "wsd", "cosine", "constant"]
    assert [row["mean"] for row in rows] == ["0.100", "0.300", "0.400", "0.100"]
    assert [row["seeds"] for row in rows] == [1, 2, 3, 2]
    assert [row["now"] for row in rows] == ["no more seeds", "", "", "1 lost"]
    (row,) = shown(finalist_table(finalists({"wsd": {}}), minimize=True))
    assert row["mean"] == row["seeds"] == "–"
    assert finalist_table(finalists({}), minimize=True).rows == []


@pytest.mark.parametrize("minimize", [True, False])
def test_who_is_behind_is_so_by_a_positive_gap(minimize: bool) -> None:
    scores = {"wsd": {1: 0.2, 2: 0.4}, "cosine": {1: 0.3, 2: 0.5}}
    rows = shown(finalist_table(finalists(scores), minimize))
    assert [row["family"] for row in rows] == (["wsd", "cosine"] if minimize else ["cosine", "wsd"])
    assert [row["behind"] for row in rows] == ["–", "0.10"]


def drawn(width: int, height: int, **options: object) -> str:
    """A search of all families on a terminal of this size, before it is taken away."""
    out = io.StringIO()
    options = {"color_system": None, "force_terminal": True, **options}
    screen = Screen(Console(file=out, width=width, height=height, **options))
    screen.started(load_task("digits", batch_size=32, epochs=1), {})
    tried = [record(i, name, 0.1 + i / 100) for i, name in enumerate(SEARCHED)]
    screen.search(state(*tried, budget=Limits(trials=2 * len(tried))))
    shown = out.getvalue()
    screen.close()
    return shown


@pytest.mark.parametrize("height", [10, 24, 40])
@pytest.mark.parametrize("width", [50, 80, 140])
def test_it_fits(width: int, height: int) -> None:
    lines = drawn(width, height).splitlines()
    assert len(lines) <= height and max(map(cell_len, lines)) <= width
    assert "search" in lines[1] and "50%" in lines[1] and "left at most" in lines[1]


def test_the_leading_few_and_how_many_more() -> None:
    few, all_of_them = drawn(80, 24), drawn(140, 50)
    shown = [name for name in SEARCHED if re.search(rf"\b{name}  ", few)]
    assert shown == SEARCHED[:10] and f"and {len(SEARCHED) - 10} more" in few
    assert all(re.search(rf"\b{name}  ", all_of_them) for name in SEARCHED)
    assert " more" not in all_of_them


def test_a_wider_terminal_is_told_more() -> None:
    rows = [[name, "0.123", "12,345 (0.1 to 0.2)", 3] for name in SEARCHED]
    table = Table(["family", "best", "with an interval", "trials"], rows)
    for width, columns in ((30, 2), (50, 3), (70, 4)):
        assert len(fitted(Console(width=width), table).columns) == columns


def test_without_colours_no_colour_and_with_them_the_reports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "38;2;31;126;194" in drawn(80, 24, color_system="truecolor")  # cosine's blue
    monkeypatch.setenv("NO_COLOR", "1")
    shown = drawn(80, 24, color_system="truecolor")
    assert "cosine" in shown and not re.search(r"\x1b\[[\d;]*(3[0-9]|38)[;m]", shown)


def hosts(*lost: str) -> SimpleNamespace:
    """A pool over two hosts, and those that it has lost."""
    losses = [Loss(name, 1e9 + 60 * at, "killed", trials=3) for at, name in enumerate(lost)]
    return SimpleNamespace(slots=8, hosts=["gpu-1/0", "gpu-2/1"], losses=losses)


def test_hosts_and_the_last_that_was_lost() -> None:
    assert on_hosts(hosts()) == "2 hosts, 8 slots"
    clock = datetime.fromtimestamp(1e9).strftime("%H:%M")
    assert on_hosts(hosts("gpu-7/2")) == (
        f"2 hosts, 8 slots; host gpu-7/2 lost at {clock}, 3 trials went on elsewhere"
    )
    assert on_hosts(hosts("gpu-7/2", "gpu-8/3")).endswith("(1 loss before)")


@pytest.mark.parametrize("dumb", [False, True])
def test_elsewhere_a_line_now_and_then(dumb: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    out, now = io.StringIO(), [100.0]
    monkeypatch.setenv("TERM", "dumb" if dumb else "xterm")
    monkeypatch.setattr("lrtune.cli.progress.time.monotonic", lambda: now[0])
    screen = Screen(Console(file=out, width=160, force_terminal=dumb))
    screen.started(load_task("digits", batch_size=32, epochs=1), {})
    screen.hosts(hosts())
    running = state(record(0, "wsd", None, "pruned"))
    screen.search(running)
    running.add(record(1, "constant", 0.1))
    screen.search(running)
    now[0] += LINE_SECONDS
    screen.search(running)
    screen.close()
    said = " ".join(out.getvalue().split())  # a dumb terminal is narrow
    first, second = "10% search: 1 trial (1 pruned)", "20% search: 2 trials (1 complete, 1 pruned)"
    on = "; 2 hosts, 8 slots"
    left = "at most [0-9]+.s left"
    assert re.fullmatch(
        f"{re.escape(first)}, 0 running{on} {re.escape(second)}, 0 running{on}; {left}; "
        "best: constant 0.100",
        said,
    )


def test_time_left_is_that_of_the_whole_session(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    progress = RunProgress(Console(file=io.StringIO()), get_time=lambda: now[0])
    assert progress.seconds_left is None
    for share in range(500, 751):  # a session before has done the half
        progress.reach(share / 1000, "search")
        now[0] += 1
    assert progress.seconds_left == 250
    assert progress.tasks[0].description == "search"
