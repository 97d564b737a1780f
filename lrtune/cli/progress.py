"""What a command shows while it works: a bar with the time left, and what is compared below it."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from math import isfinite, isnan
from typing import Any

import pandas as pd
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from lrtune.cli.console import fitted, harmless, say
from lrtune.engine.spread import SpreadPool
from lrtune.format import Cell, Table, aligned, duration, number, plural, words
from lrtune.run.confirm import ConfirmationState, Listener
from lrtune.run.folder import Run
from lrtune.run.run_json import loss_facts
from lrtune.search import SearchState
from lrtune.tasks import Task
from lrtune.verdict.summary import last_loss

LINE_SECONDS = 10.0  # between two lines where nothing can be drawn in place
DRAWN_SECONDS = 0.25  # between two drawings
STEP = 1e-3  # share of the run between two samples of its speed: rich keeps 1000 of them
OTHERS = 14  # lines of a terminal that are not families: the bar, and what was said before
FEWEST = 3  # families shown on the lowest terminal
NONE = "–"  # in a cell that has nothing to show


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
        self._pool: SpreadPool | None = None

    def started(self, task: Task, facts: Mapping[str, Any]) -> None:
        """Remember what is compared."""
        names = [metric.name for metric in task.metrics if metric is not task.objective]
        self._value, self._other = words(task.objective.name), names[0] if names else ""
        self._minimize = task.objective.direction == "minimize"
        self._judged = "test" if task.test is not None else "validation"

    def tell(self, line: str) -> None:
        """Print it above what is drawn."""
        say(self._console, line)

    def hosts(self, pool: SpreadPool) -> None:
        """Remember whose hosts to show."""
        self._pool = pool

    def search(self, state: SearchState) -> None:
        """Show how the families stand."""
        self._progress.reach(state.share, "search")
        if not self._due():
            return
        ended = ", ".join(f"{count} {end}" for end, count in sorted(state.ended.items()))
        trials = plural(state.trials, "trial", "trials") + (f" ({ended})" if ended else "")
        what = f"best validation {self._value} of each family, one seed"
        table = family_table(state, self._other)
        self._show(f"{trials}, {len(state.running)} running", what, table)

    def confirmation(self, state: ConfirmationState) -> None:
        """Show how the finalists stand."""
        self._progress.reach(state.share, "confirmation")
        if not self._due():
            return
        trainings = plural(state.jobs, "training", "trainings")
        done = f"this round: {trainings}, {state.done / state.jobs:.0%} done"
        what = f"{self._judged} {self._value} so far, mean over fresh seeds"
        self._show(done, what, finalist_table(state, self._minimize))

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

    def _show(self, done: str, what: str, table: Table) -> None:
        """Draw the counts and the table below the bar, or print the counts and the first."""
        progress, hosts = self._progress, "" if self._pool is None else on_hosts(self._pool)
        if not self._in_place:
            (task,), left = progress.tasks, progress.seconds_left
            parts = [f"{task.completed:4.0%}  {task.description}: {done}", *filter(None, [hosts])]
            parts += [] if left is None else [f"at most {duration(left)} left"]
            if table.rows and table.cells[0][1].shown != NONE:
                first, value, *_ = table.cells[0]
                parts.append(f"best: {first.shown} {value.shown}")
            self.tell("; ".join(parts))
            return
        better = "lower is better" if self._minimize else "higher is better"
        most = max(FEWEST, self._console.size.height - OTHERS)
        progress.below = [
            Text(harmless(done)),
            *([Text(harmless(hosts))] if hosts else []),
            Text(harmless(f"{what}; {better}"), style="dim"),
            fitted(self._console, table, most),
        ]
        if self._notebook and self._output is None:
            self._output = import_module("IPython.display").display(progress, display_id=True)
        elif self._notebook:
            self._output.update(progress)
        elif progress.live.is_started:
            progress.refresh()
        else:
            progress.start()


def on_hosts(pool: SpreadPool) -> str:
    """How many hosts train how many slots, and which were lost, the last one first."""
    hosts = f"{plural(len(pool.hosts), 'host', 'hosts')}, {plural(pool.slots, 'slot', 'slots')}"
    return "; ".join([hosts, *last_loss([*map(loss_facts, pool.losses)])])


def family_table(state: SearchState, other: str) -> Table:
    """The families that were tried: the best first, then those without a value yet."""
    shares: dict[str, list[float]] = {family: [] for family in state.families}
    for trial in state.running.values():
        shares.setdefault(trial.schedule.family, []).append(trial.updates / len(trial.rates))
    rows, first = [], state.best
    bests = {record.schedule.family: record for record in state.bests}
    under_way = sorted(shares, key=lambda family: not shares[family])
    for family in dict.fromkeys([*bests, *under_way]):
        trials = state.families[family].ended.total() if family in state.families else 0
        now = ", ".join(f"{share:.0%}" for share in sorted(shares[family], reverse=True))
        value = behind = peak = beside = NONE
        record = bests.get(family)
        if record is not None and first is not None:
            metrics = {} if record.judged_at is None else record.curves.at(record.judged_at)
            gap = 0.0 if record is first else state.loss_of(record) - state.loss_of(first)
            value = NONE if record.value is None else aligned(record.value, 3)
            behind, peak = aligned(gap, 2) if gap else NONE, number(record.schedule.peak_lr, 3)
            beside = aligned(metrics[other], 3) if other in metrics else NONE
        shown = (value, trials or NONE, behind, peak, now, *([beside] if other else []))
        rows.append((Cell(family, family=family), *shown))
    heads = [
        "family",
        "best",
        "trials",
        "behind",
        "peak",
        "now",
        *([words(other)] if other else []),
    ]
    return Table(heads, rows)


def finalist_table(state: ConfirmationState, minimize: bool) -> Table:
    """The finalists, the best mean first, on seeds that all who go on have scores of."""
    everyone, sign = state.finalists, 1 if minimize else -1
    scores = pd.DataFrame({n: pd.Series(f.scores, dtype=float) for n, f in enumerate(everyone)})
    lost = [sum(not isfinite(score) for score in one.scores.values()) for one in everyone]
    going = [n for n, f in enumerate(everyone) if f.goes_on and scores[n].notna().any()]
    common = scores.dropna(subset=going)
    means, rows = common.mean(), []
    order = sorted(
        range(len(everyone)), key=lambda n: (isnan(means[n]), lost[n] > 0, sign * means[n])
    )
    for n in order:
        gap = sign * (common[n] - common[order[0]]).mean()
        now = f"{lost[n]} lost" if lost[n] else "" if everyone[n].goes_on else "no more seeds"
        schedule = everyone[n].schedule
        row = (
            Cell(schedule.family, family=schedule.family),
            aligned(means[n], 3),
            len(everyone[n].scores) or NONE,
            aligned(gap, 2) if n != order[0] else NONE,
            number(schedule.peak_lr, 3),
            now,
        )
        rows.append(row)
    return Table(["family", "mean", "seeds", "behind", "peak", "now"], rows)
