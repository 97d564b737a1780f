"""Events: one line of JSON each, for scripts and logs."""

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, redirect_stdout
from datetime import UTC, datetime
from typing import Any, TextIO

from lrtune.cli.console import console_of, say, unread
from lrtune.cli.progress import Quiet, RunProgress, Screen
from lrtune.engine.spread import SpreadPool
from lrtune.errors import InputError
from lrtune.files import plain, shown
from lrtune.format import command_without_secrets
from lrtune.run.confirm import ConfirmationState, Listener
from lrtune.run.folder import Run
from lrtune.run.run_json import loss_facts
from lrtune.search import Record, SearchState
from lrtune.search.confirmation import Final
from lrtune.tasks import Task
from lrtune.verdict.recommendation import of_verdict, recommendation, since
from lrtune.verdict.summary import by_end

PROGRESS_SECONDS = 1.0  # between two events of progress

# What each event holds beside "event" and "time" (ISO 8601, UTC). A number that is not finite, or
# not known, is null.
FIELDS = {
    "started": "command task samples model optimizer lr_ratios objective horizon seed families "
    "budget",
    "progress": "stage share done seconds_left per_minute running ends still_in best slots hosts",
    "lost": "host at why trials",
    "trial": "number family state reason value metrics schedule updates seconds hosts",
    "final": "family seed state reason split metrics schedule updates seconds hosts",
    "verdict": "place families lines standings",
    "finished": "run horizon trials answer winner files",
}
FILES = ("best.json", "verdict.json", "report.html", "trials.parquet", "journal.log", "run.json")


@contextmanager
def listening(quiet: bool, as_json: bool) -> Iterator[Listener]:
    """Who is told, until the end; beside JSON, a task of the user's own prints to stderr.

    Raises:
        InputError: both are asked for.
    """
    if quiet and as_json:
        raise InputError("--quiet and --json: one of the two")
    person = Quiet if quiet else Screen
    listener: Listener = Events(sys.stdout) if as_json else person(console_of())
    with closing(listener), redirect_stdout(sys.stderr) if as_json else nullcontext():
        yield listener


class Events(Listener):
    """Writes events; what is for a person goes to stderr."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._console = console_of(stderr=True)
        self._progress = RunProgress(self._console)  # measures, and is never shown
        self._earlier: int | None = None  # trials of sessions before
        self._told: Record | None = None
        self._last = -math.inf
        self._pool: SpreadPool | None = None
        self._lost = 0  # hosts that were told

    def started(self, task: Task, facts: Mapping[str, Any]) -> None:
        """Say what is trained, and what for."""
        objective = task.objective
        self._emit(
            "started",
            task=task.name,
            samples={"train": task.train.samples, "val": task.val.samples}
            | {"test": None if task.test is None else task.test.samples},
            model=task.model_name,
            optimizer=task.optimizer_name,
            objective={"name": objective.name, "direction": objective.direction},
            horizon=task.horizon,
            **{**facts, "command": command_without_secrets(facts["command"])},
        )

    def tell(self, line: str) -> None:
        """Say it to the person."""
        say(self._console, line)

    def hosts(self, pool: SpreadPool) -> None:
        """Remember whose hosts to tell of."""
        self._pool, self._lost = pool, 0

    def search(self, state: SearchState) -> None:
        """Say which trial ended, and now and then how it goes."""
        if state.last is not None and state.last is not self._told:
            self._told = state.last
            self._trial(state.last)
        if self._earlier is None:
            self._earlier = state.trials
        best = state.best
        self._progressed(
            "search",
            state.share,
            done=state.trials,
            ended=state.trials - self._earlier,
            running=len(state.running),
            ends=dict(state.ended),
            best=best
            and {"family": best.schedule.family, "trial": best.number, "value": best.value},
        )

    def confirmation(self, state: ConfirmationState) -> None:
        """Say which trainings ended, and now and then how it goes."""
        for final in state.ended:
            self._final(final)
        still_in = [f.schedule.family for f in state.finalists if f.goes_on]
        self._progressed("finals", state.share, done=int(state.done), still_in=still_in)

    def finished(self, run: Run, total: int | None) -> None:
        """Say the verdict, if there is one, and where everything is."""
        horizon = run.settings.horizon if total is None else total
        verdict, trials, winner = run.verdict(horizon), run.trials(), None
        if verdict is not None:
            lines = [*of_verdict(verdict), since(verdict, len(trials))]
            winner = verdict.recommended.schedule.to_dict() if verdict.decided else None
            names = ("family", "place", "mean", "low", "high", "gap", "p", "seeds", "lost")
            rows = [{name: getattr(row, name) for name in names} for row in verdict.families]
            answered = {name: getattr(verdict.answer, name) for name in ("place", "families")}
            self._emit("verdict", **answered, lines=[*filter(None, lines)], standings=rows)
        answer = None if total else recommendation(trials, run.public_settings, verdict)
        files = [*FILES, run.verdict_path(horizon).name]
        self._emit(
            "finished",
            run=shown(run.folder),
            horizon=horizon,
            trials={row["end"]: row["trials"] for row in by_end(trials).to_dict("records")},
            answer=answer and answer.to_json(),
            winner=winner,
            files={n: shown(run.folder / n) for n in files if (run.folder / n).exists()},
        )

    def _trial(self, record: Record) -> None:
        curves = record.curves
        at = record.judged_at or (curves.step[-1] if curves.step else None)
        metrics = {} if at is None else curves.at(at)
        self._emit(
            "trial",
            **{name: getattr(record, name) for name in ("number", "state", "reason", "value")},
            family=record.schedule.family,
            metrics=metrics,
            schedule=record.schedule.to_dict(),
            updates=record.updates,
            seconds=record.seconds,
            hosts=record.hosts,
        )

    def _final(self, final: Final) -> None:
        names = ("seed", "state", "reason", "split", "metrics", "updates", "seconds", "hosts")
        self._emit(
            "final",
            family=final.schedule.family,
            schedule=final.schedule.to_dict(),
            **{name: getattr(final, name) for name in names},
        )

    def _progressed(self, stage: str, share: float, ended: int = 0, **known: Any) -> None:
        """Say how it goes, unless it was said a moment ago; what is not known is null."""
        if self._pool is not None:
            for loss in self._pool.losses[self._lost :]:
                self._emit("lost", **loss_facts(loss).to_json())
            self._lost = len(self._pool.losses)
        self._progress.reach(share, stage)
        elapsed = self._progress.tasks[0].elapsed
        known["per_minute"] = 60 * ended / elapsed if ended and elapsed else None
        now = time.monotonic()
        if now - self._last >= PROGRESS_SECONDS:
            self._last = now
            if self._pool is not None:
                known |= {"slots": self._pool.slots, "hosts": len(self._pool.hosts)}
            known |= {"stage": stage, "share": share, "seconds_left": self._progress.seconds_left}
            self._emit("progress", **dict.fromkeys(FIELDS["progress"].split()) | known)

    def _emit(self, event: str, **fields: Any) -> None:
        """One line: the fields of this event, in their order."""
        names = FIELDS[event].split()
        assert fields.keys() == set(names), fields.keys() ^ set(names)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        ordered = {name: fields[name] for name in names}
        line = json.dumps(plain({"event": event, "time": now, **ordered}), allow_nan=False)
        try:
            self._out.write(f"{line}\n")
            self._out.flush()
        except BrokenPipeError:
            unread(self._out)
