"""What a command shows while it works: a bar with the time left, and what is compared below it."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from importlib import import_module
from math import isfinite, nan
from statistics import fmean
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from lrtune.cli.console import harmless, named, say
from lrtune.format import aligned, duration, number, plural, setting, words
from lrtune.reports.plot_style import look
from lrtune.run.confirm import ConfirmationState, FinalistScores, Listener
from lrtune.run.folder import Run
from lrtune.schedule import Schedule
from lrtune.search import SearchState
from lrtune.tasks import Task

LINE_SECONDS = 10.0  # between two lines where nothing can be drawn in place
DRAWN_SECONDS = 0.25  # between two drawings
STEP = 1e-3  # share of the run between two samples of its speed: rich keeps 1000 of them
OTHERS = 12  # lines of a terminal that are not families: the bar, and what was said before
FEWEST = 3  # families shown on the lowest terminal
# Columns after the name, and from how many columns of the terminal on they are shown. The second
# metric comes before the settings.
COLUMNS = {"value": 0, "count": 0, "behind": 0, "peak": 55, "now": 65, "other": 90, "settings": 110}
TEXTS = ("now", "settings")  # columns of words
NONE = "–"  # in a cell that has nothing to show
MARKS = {"circle": "●", "diamond": "◆", "square": "■"}

Row = dict[str, str]  # a line of the table: the family, and its cells by COLUMNS


class RunProgress(Progress):
    """The bar of a run, its speed, and what stands below the bar.

    In a terminal it is drawn by ``refresh``, from ``start`` to ``stop``; a notebook displays it.
    """

    def __init__(self, console: Console, get_time: Callable[[], float] | None = None) -> None:
        self.below: Sequence[RenderableType] = ()
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("left at most", style="dim"),
            console=console,
            transient=True,
            auto_refresh=False,  # a second thread would draw over what is printed meanwhile
            speed_estimate_period=math.inf,
            get_time=get_time,
        )

    def reach(self, share: float, stage: str) -> None:
        """So much of the run is done, 0 ... 1, and this is what it does now."""
        if not self.tasks:
            self.add_task(stage, total=1.0)
        (task,) = self.tasks
        due = share - task.completed >= STEP
        self.update(task.id, completed=share if due else None, description=stage)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the whole budget is spent, at the speed so far; None before the second."""
        return self.tasks[0].time_remaining if self.tasks else None

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar, and what stands below it."""
        return ["", *super().get_renderables(), *self.below]


class Quiet(Listener):
    """Prints the result, and nothing before it."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def finished(self, run: Run, total: int | None) -> None:
        """Print the result."""
        from lrtune.cli.result import print_result, print_verdict

        verdict = run.verdict(total)
        if total is None or verdict is None:
            print_result(run, self._console)
        else:
            print_verdict(verdict, self._console, len(run.trials()))


class Screen(Quiet):
    """Draws the progress in place where that is possible, else prints a line now and then."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._progress = RunProgress(console)
        self._notebook = Console().is_jupyter
        self._in_place = self._notebook or console.is_interactive
        self._output: Any = None  # of a notebook's cell
        self._last = -math.inf

    def started(self, task: Task, facts: Mapping[str, Any]) -> None:
        """Remember what is compared."""
        names = [metric.name for metric in task.metrics if metric is not task.objective]
        self._value, self._other = words(task.objective.name), names[0] if names else ""
        self._minimize = task.objective.direction == "minimize"
        self._judged = "test" if task.test is not None else "validation"

    def tell(self, line: str) -> None:
        """Print it above what is drawn."""
        say(self._console, line)

    def search(self, state: SearchState) -> None:
        """Show how the families stand."""
        self._progress.reach(state.share, "search")
        if not self._due():
            return
        ended = ", ".join(f"{count} {end}" for end, count in sorted(state.ended.items()))
        trials = plural(state.trials, "trial", "trials") + (f" ({ended})" if ended else "")
        what = f"best validation {self._value} of each family, one seed"
        rows, heads = family_rows(state, self._other), {"value": "best", "count": "trials"}
        self._show(f"{trials}, {len(state.running)} running", what, rows, heads)

    def confirmation(self, state: ConfirmationState) -> None:
        """Show how the finalists stand."""
        self._progress.reach(state.share, "confirmation")
        if not self._due():
            return
        trainings = plural(state.jobs, "training", "trainings")
        done = f"this round: {trainings}, {state.done / state.jobs:.0%} done"
        what = f"{self._judged} {self._value} so far, mean over fresh seeds"
        rows, heads = finalist_rows(state, self._minimize), {"value": "mean", "count": "seeds"}
        self._show(done, what, rows, heads)

    def finished(self, run: Run, total: int | None) -> None:
        """Put the result in the place of what was drawn."""
        self.close()
        super().finished(run, total)

    def close(self) -> None:
        """Take away what is drawn."""
        if self._progress.live.is_started:
            self._progress.stop()
        if self._output is not None:
            self._output.update(Text(""))

    def _due(self) -> bool:
        """Whether it is time for the next drawing, or the next line."""
        now = time.monotonic()
        due = now - self._last >= (DRAWN_SECONDS if self._in_place else LINE_SECONDS)
        self._last = now if due else self._last
        return due

    def _show(self, done: str, what: str, rows: Sequence[Row], heads: Mapping[str, str]) -> None:
        """Draw the counts and the table below the bar, or print the counts and the first."""
        progress = self._progress
        if not self._in_place:
            (task,), left = progress.tasks, progress.seconds_left
            parts = [f"{task.completed:4.0%}  {task.description}: {done}"]
            parts += [] if left is None else [f"at most {duration(left)} left"]
            if rows and rows[0]["value"] != NONE:
                parts.append(f"best: {rows[0]['family']} {rows[0]['value']}")
            self.tell("; ".join(parts))
            return
        better = "lower is better" if self._minimize else "higher is better"
        size = self._console.size
        most = max(FEWEST, size.height - OTHERS)
        heads = {"other": words(self._other), **heads}
        progress.below = [
            Text(harmless(done)),
            Text(harmless(f"{what}; {better}"), style="dim"),
            standings(rows[:most], heads, size.width, len(rows)),
        ]
        if self._notebook and self._output is None:
            self._output = import_module("IPython.display").display(progress, display_id=True)
        elif self._notebook:
            self._output.update(progress)
        elif progress.live.is_started:
            progress.refresh()
        else:
            progress.start()


def standings(rows: Sequence[Row], heads: Mapping[str, str], width: int, total: int) -> Table:
    """The rows, the best first, with the columns that a terminal of this width has room for."""
    shown = [name for name, least in COLUMNS.items() if width >= least]
    shown = [name for name in shown if any(row.get(name) for row in rows)]
    rest = total - len(rows)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.caption, table.caption_justify = f"and {rest} more" if rest > 0 else None, "left"
    table.add_column("family", no_wrap=True, overflow="ellipsis")
    for name in shown:
        justify: Any = "left" if name in TEXTS else "right"
        head = Text(named(heads.get(name, name), 20))
        table.add_column(head, justify=justify, no_wrap=True, overflow="ellipsis")
    for row in rows:
        style = look(row["family"])
        family = Text.assemble((f"{MARKS[style.symbol]} ", style.colour), named(row["family"], 24))
        cells = [Text(harmless(row.get(name, NONE))) for name in shown]
        table.add_row(family, *cells, style="bold" if row is rows[0] else row.get("style", ""))
    return table


def family_rows(state: SearchState, other: str) -> list[Row]:
    """The families that were tried: the best first, then those without a value yet."""
    shares: dict[str, list[float]] = {family: [] for family in state.families}
    for trial in state.running.values():
        family = trial.schedule.family
        shares.setdefault(family, []).append(trial.updates / len(trial.rates))
    rows, first = [], state.best
    bests = {record.schedule.family: record for record in state.bests}
    order = list(bests)
    order += sorted(shares, key=lambda family: not shares[family])  # those under way first
    for family in dict.fromkeys(order):
        trials = state.families[family].ended.total() if family in state.families else 0
        now = ", ".join(f"{share:.0%}" for share in sorted(shares[family], reverse=True))
        row = {"family": family, "value": NONE, "count": str(trials or NONE), "now": now}
        record = bests.get(family)
        if record is not None and first is not None:
            metrics = {} if record.judged_at is None else record.curves.at(record.judged_at)
            gap = state.loss_of(record) - state.loss_of(first)
            row |= _cells(record.schedule, record.value, 0 if record is first else gap)
            row["other"] = aligned(metrics[other], 3) if other in metrics else NONE
        rows.append(row)
    return rows


def finalist_rows(state: ConfirmationState, minimize: bool) -> list[Row]:
    """The finalists, the best mean first, on seeds that all who go on have been trained on."""
    sign = 1 if minimize else -1
    going = [f.scores.keys() for f in state.finalists if f.goes_on and f.scores]
    seeds = set(going[0]).intersection(*going[1:]) if going else set()

    def lost(finalist: FinalistScores) -> int:
        return sum(not isfinite(score) for score in finalist.scores.values())

    def rank(finalist: FinalistScores) -> tuple[bool, bool, float]:
        mean = _mean(finalist, seeds)
        return not isfinite(mean), lost(finalist) > 0, sign * mean

    rows, ranked = [], sorted(state.finalists, key=rank)
    for finalist in ranked:
        first, scores = ranked[0], finalist.scores
        both = {s for s in seeds if isfinite(scores.get(s, nan) + first.scores.get(s, nan))}
        gap = sign * (_mean(finalist, both) - _mean(first, both))
        row = _cells(finalist.schedule, _mean(finalist, seeds), 0 if finalist is first else gap)
        row |= {"family": finalist.schedule.family, "count": str(len(scores) or NONE)}
        row["now"] = "" if finalist.goes_on else "no more seeds"
        if lost(finalist):
            row["now"] = f"{lost(finalist)} lost"
        rows.append(row | {"style": "dim" if row["now"] else ""})
    return rows


def _mean(finalist: FinalistScores, seeds: AbstractSet[int]) -> float:
    """Of its scores on these seeds; NaN where it has none of them."""
    scores = [finalist.scores[seed] for seed in seeds if isfinite(finalist.scores.get(seed, nan))]
    return fmean(scores) if scores else nan


def _cells(schedule: Schedule, value: float | None, gap: float) -> Row:
    """Cells of a schedule and its value; gap is 0 for the first, positive for those behind."""
    settings = {"warmup": schedule.warmup, **schedule.to_dict()["knobs"]}
    return {
        "value": NONE if value is None else aligned(value, 3),
        "behind": aligned(gap, 2) if gap else NONE,
        "peak": number(schedule.peak_lr, 3),
        "settings": ", ".join(f"{name} {setting(knob, 3)}" for name, knob in settings.items()),
    }
