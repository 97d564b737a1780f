"""The loop: ask, train a segment, report, tell."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import optuna
from optuna.trial import TrialState

from lrtune.engine import Pool, Progress
from lrtune.engine.checkpoint import Note
from lrtune.engine.pool import Snapshot
from lrtune.schedule import Schedule
from lrtune.search.board import Board, Budget
from lrtune.search.interrupt import Interrupts
from lrtune.search.keeper import Keeper
from lrtune.search.lineup import Lineup
from lrtune.search.record import End, Ending, Judge
from lrtune.search.referee import NEVER, Referee, Rules
from lrtune.search.running import Running, note_of, rates_of, taken_up
from lrtune.search.space import SCHEDULE, Space, suggest_from
from lrtune.search.stopping import DIVERGENCE_FACTOR
from lrtune.search.store import START, records, save_record

DIVERGED = "diverged"  # name of the Optuna constraint: positive where a trial diverged
FAILURES = 3  # this many failed trials running: the fault is not the schedule's


class Search:
    """One search: a study, a space, a pool; ``run`` goes on where the study stopped.

    Args:
        study: of Optuna, with the sampler and the pruner to use.
        space: families and ranges.
        pool: what trains.
        budget: when to stop.
        rules: when a trial ends early, beside the study's pruner.
        judge: which weights of a trial give its value.
        seed: of every trial's weights and batches: one for all, so that they are compared in pairs.
        owner: marks this run's trials in a storage that others may share.
        checkpoint: a file to keep trials under way in, so that those that a kill cuts short go on
            from there; from scratch where None.
        watch: called after each segment and each trial's end.
        tell: called with a line where a checkpoint is of no use.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        pool: Pool,
        budget: Budget,
        *,
        rules: Rules = NEVER,
        judge: Judge = "last",
        seed: int = 0,
        owner: str = "",
        checkpoint: Path | None = None,
        watch: Callable[[Board], None] = lambda board: None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._study = study
        self._space = space
        self._pool = pool
        self._judge = judge
        self._seed = seed
        self._owner = owner
        self._watch = watch
        self._objective = pool.task.objective
        self._minimize = self._objective.direction == "minimize"
        self._referee = Referee(study, pool.task, rules, judge, seed)
        self._failures = 0
        self._lineup = Lineup(study, space, pool.slots, owner)
        self._keeper = Keeper(checkpoint, tell)
        self.board = Board(budget, self._minimize)

    def run(self) -> Board:
        """Search until the budget is spent.

        Raises:
            KeyboardInterrupt: after Ctrl-C or SIGTERM; trials under way are queued to be repeated.
            RuntimeError: when trial after trial fails.
        """
        for record in records(self._study):
            self.board.add(record)
            self._referee.remember(record)
        lineup, running = self._lineup, self.board.running
        with Interrupts() as interrupts:
            lineup.take_up()
            self._keeper.load(self._number_of)
            lineup.wind({index: note["clock"] for index, (_, note) in self._keeper.kept.items()})
            try:
                while self._fill(interrupts):
                    with interrupts.heard():
                        reached = self._pool.advance()
                    lineup.clock += 1
                    for progress in reached:
                        self._take(progress)
                    self._watch(self.board)
                    with interrupts.heard():
                        self._keeper.save_if_due(self._pool, self._notes)
                if not lineup.repeated:
                    self._keeper.remove()
                return self.board
            finally:
                lineup.close(under_way.trial for under_way in running.values())

    def _number_of(self, index: int, _: Snapshot, note: Note) -> int | None:
        """Of a trial in the checkpoint: its index, if it is ours and is to go on."""
        return index if index in self._lineup.repeated and note["owner"] == self._owner else None

    def _notes(self) -> dict[int, tuple[int, Note]]:
        """What is under way, for the checkpoint: by slot, its index and a note."""
        place = {"owner": self._owner, "clock": self._lineup.clock}
        return {
            slot: (running.index, {**place, **note_of(running)})
            for slot, running in self.board.running.items()
        }

    def _fill(self, interrupts: Interrupts) -> bool:
        """Start a trial in each free slot: is there anything to go on with?"""
        started = False
        for slot in range(self._pool.slots):
            with interrupts.heard():
                pass
            if slot in self.board.running:
                continue
            trial = self._lineup.next(slot, self.board.may_start)
            if trial is not None:
                self._start(slot, trial)
                started = True
        waits = self._lineup.waits and self.board.may_start(queued=0)
        return started or bool(self.board.running) or waits

    def _start(self, slot: int, trial: optuna.Trial) -> None:
        schedule = suggest_from(self._space, trial)
        if SCHEDULE not in trial.user_attrs:
            trial.set_user_attr(SCHEDULE, schedule.to_json())
        index, as_it_was = trial.user_attrs[START]["index"], partial(taken_up, trial, schedule)
        kept = self._keeper.take(index, f"trial {index}", self._pool, slot, as_it_was)
        running = kept or self._from_scratch(slot, trial, schedule)
        self.board.running[slot] = running
        if running.untrained.error is not None:
            failed = Ending("failed", running.untrained.error)
            return self._end(running, failed, running.untrained)
        return self._referee.take_up(running)

    def _from_scratch(self, slot: int, trial: optuna.Trial, schedule: Schedule) -> Running:
        horizon = self._pool.task.horizon
        rates, controller = rates_of(schedule, horizon)
        untrained = self._pool.admit(slot, rates, self._seed, schedule.momenta(horizon))
        return Running(trial, schedule, rates, controller, untrained, untrained.seconds)

    def _take(self, progress: Progress) -> None:
        """A slot has reached a validation: report it, and end the trial if it is to end."""
        running = self.board.running[progress.slot]
        running.seconds += progress.seconds
        running.updates = progress.update
        if progress.error is not None:
            return self._end(running, Ending("failed", progress.error), progress)
        running.curves.add(progress, running.rates)
        ending = self._referee.ending(running, progress)
        if ending is not None:
            return self._end(running, ending, progress)
        if running.observe(progress.update, progress.loss):
            self._pool.revise(progress.slot, running.rates)
        return None

    def _end(self, running: Running, ending: Ending, progress: Progress) -> None:
        """Store the record, tell Optuna, free the slot."""
        trial, state = running.trial, ending.state
        name = self._objective.name
        whole = state == "complete"
        at = running.curves.judged(name, self._minimize, self._judge) if whole else None
        record = running.record(ending, name, at, self._seed)
        save_record(trial, record)
        trial.set_user_attr("ended", f"{state}: {ending.reason}")
        if state == "diverged":
            # Optuna ranks infeasible trials by this: the later, the less bad.
            trial.set_constraint(DIVERGED, 2 - running.updates / len(running.rates))
            trial.report(self._worst(running.untrained), progress.update)
        if record.value is not None:
            self._study.tell(trial, record.value)
        else:
            told = TrialState.FAIL if state == "failed" else TrialState.PRUNED
            self._study.tell(trial, state=told)
        del self.board.running[progress.slot]
        self._pool.release(progress.slot)
        self.board.add(record)
        self.board.last = record
        self._referee.remember(record)
        self._watch(self.board)
        self._stop_if_nothing_works(state, progress)

    def _worst(self, untrained: Progress) -> float:
        """A finite stand-in for the value of a trial that has none, no better than untrained."""
        value = untrained.metrics.get(self._objective.name, math.nan)
        if not math.isfinite(value):
            return 0.0
        return DIVERGENCE_FACTOR * value if self._minimize and value > 0 else value

    def _stop_if_nothing_works(self, state: End, progress: Progress) -> None:
        self._failures = self._failures + 1 if state == "failed" else 0
        if self._failures == FAILURES:
            raise RuntimeError(
                f"{FAILURES} trials running failed, the last with {progress.error}\n"
                f"{progress.traceback}"
            )
