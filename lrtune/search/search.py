"""The loop: ask, train a segment, report, tell."""

import math
from collections.abc import Callable
from typing import Any

import optuna
from optuna.pruners import NopPruner
from optuna.trial import FrozenTrial, TrialState, create_trial

from lrtune.engine import Pool, Progress
from lrtune.search.board import Board, Budget, Running
from lrtune.search.interrupt import Interrupts
from lrtune.search.sampler import FamilySampler
from lrtune.search.space import Space, suggest_from
from lrtune.search.stopping import DIVERGENCE_FACTOR, diverged
from lrtune.search.store import (
    RECORD,
    SCHEDULE,
    START,
    End,
    Record,
    index_of,
    records,
    save_record,
    unique_trials,
)

DIVERGED = "diverged"  # name of the Optuna constraint: positive where a trial diverged
FAILURES = 3  # this many failed trials running: the fault is not the schedule's


class Search:
    """One search: a study, a space, a pool; ``run`` goes on where the study stopped.

    Args:
        study: of Optuna, with the sampler and the pruner to use.
        space: families and ranges.
        pool: what trains.
        budget: when to stop.
        seed: of every trial's weights and batches: one for all, so that they are compared in pairs.
        owner: marks this run's trials in a storage that others may share.
        watch: called after each segment and each trial's end.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        pool: Pool,
        budget: Budget,
        *,
        seed: int = 0,
        owner: str = "",
        watch: Callable[[Board], None] = lambda board: None,
    ) -> None:
        self._study = study
        self._space = space
        self._pool = pool
        self._seed = seed
        self._owner = owner
        self._watch = watch
        self._objective = pool.task.objective
        self._minimize = self._objective.direction == "minimize"
        # Asking a pruner that never prunes reads the storage again each time, for nothing.
        self._may_prune = not isinstance(study.pruner, NopPruner)
        self._failures = 0
        self._clock = 0  # segments since the start
        self._stopped = 0  # the clock at which an earlier session stopped
        self._queue: list[optuna.Trial] = []  # to be repeated, in the order of their index
        self.board = Board(budget)

    def run(self) -> Board:
        """Search until the budget is spent.

        Raises:
            KeyboardInterrupt: after Ctrl-C or SIGTERM; trials under way are queued to be repeated.
            RuntimeError: when trial after trial fails.
        """
        for record in records(self._study):
            self.board.add(record, self._minimize)
        with Interrupts() as interrupts:
            self._resume()
            try:
                while True:
                    started = 0
                    for slot in range(self._pool.slots):
                        with interrupts.heard():
                            pass
                        started += self._fill(slot)
                    later = self._queue or self._clock < self._stopped
                    waits = later and self.board.may_start(queued=0)
                    if not (started or self.board.running or waits):
                        return self.board
                    with interrupts.heard():
                        reached = self._pool.advance()
                    self._clock += 1
                    for progress in reached:
                        self._take(progress)
                    self._watch(self.board)
            finally:
                under_way = [r.trial for r in self.board.running.values()] + self._queue
                for trial in under_way:
                    self._study.tell(trial, state=TrialState.FAIL)
                self._repeat_what_was_cut_short()

    def _repeat_what_was_cut_short(self) -> None:
        """Queue again what this run left unfinished, whichever moment it was killed at."""
        latest = {trial.number for trial in unique_trials(self._study)}
        for trial in self._study.get_trials(deepcopy=False):
            start = trial.user_attrs.get(START, {})
            running = trial.state == TrialState.RUNNING
            lost = trial.state == TrialState.FAIL and RECORD not in trial.user_attrs
            if start.get("owner") != self._owner or not (running or lost):
                continue
            if trial.number in latest:
                self._study.enqueue_trial(trial.params, user_attrs={START: start})
            if running:
                self._study.tell(trial.number, state=TrialState.FAIL)

    def _resume(self) -> None:
        """Take up again what was cut short, to start when and where it did.

        Every trial of an unbroken search starts at a known segment. The repeated ones start at
        the same distance from each other, and nothing new starts before the segment at which the
        search stopped: so it asks the same questions with the same answers known.
        """
        self._repeat_what_was_cut_short()
        trials = unique_trials(self._study)
        self._next_index = 1 + max(map(index_of, trials), default=-1)
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        self._queue = [self._ask(slot=index % self._pool.slots) for index in range(len(waiting))]
        self._queue.sort(key=lambda trial: trial.user_attrs[START]["index"])
        for trial in self._queue:
            suggest_from(self._space, trial)  # from here on its parameters are its own
        self._stopped = max((_end_of(trial) for trial in trials), default=0)
        clocks = [trial.user_attrs[START]["clock"] for trial in self._queue]
        self._clock = min([*clocks, self._stopped])

    def _ask(self, slot: int) -> optuna.Trial:
        """A trial from Optuna that says from its first moment on which one it is."""
        start = {
            "index": self._next_index,
            "slot": slot,
            "clock": self._clock,
            "owner": self._owner,
        }
        if not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self._add(start)
        trial = self._study.ask()
        if START not in trial.user_attrs:  # queued by somebody else, from the dashboard say
            trial.set_user_attr(START, start)
        self._next_index = max(self._next_index, 1 + trial.user_attrs[START]["index"])
        return trial

    def _add(self, start: dict[str, Any]) -> None:
        """A new trial, in a single entry of the storage where the sampler is ours."""
        if not isinstance(self._study.sampler, FamilySampler):
            self._study.enqueue_trial({}, user_attrs={START: start})
            return
        params, distributions = self._study.sampler.draw(self._study, start["index"])
        self._study.add_trial(
            create_trial(
                state=TrialState.WAITING,
                params=params,
                distributions=distributions,
                user_attrs={START: start, SCHEDULE: self._space.schedule(params).to_json()},
            )
        )

    def _fill(self, slot: int) -> bool:
        """Start a trial in a free slot, one to be repeated that is due or a new one: was there?"""
        if slot in self.board.running:
            return False
        own = [t for t in self._queue if t.user_attrs[START]["slot"] % self._pool.slots == slot]
        if own:
            due = own[0].user_attrs[START]["clock"] <= self._clock
            if not (due and self.board.may_start(queued=0)):
                return False
            self._queue.remove(own[0])
            self._start(slot, own[0])
            return True
        if self._clock < self._stopped or not self.board.may_start(len(self._queue)):
            return False
        self._start(slot, self._ask(slot))
        return True

    def _start(self, slot: int, trial: optuna.Trial) -> None:
        schedule = suggest_from(self._space, trial)
        if SCHEDULE not in trial.user_attrs:
            trial.set_user_attr(SCHEDULE, schedule.to_json())
        horizon = self._pool.task.horizon
        controller = schedule.controller(horizon, mode="min") if schedule.closed_loop else None
        rates = schedule.rates(horizon) if controller is None else controller.rates
        untrained = self._pool.admit(slot, rates, self._seed)
        self.board.running[slot] = running = Running(
            trial, schedule, rates, controller, untrained, untrained.seconds
        )
        if untrained.error is not None:
            self._end(running, "failed", untrained.error, untrained)

    def _take(self, progress: Progress) -> None:
        """A slot has reached a validation: report it, and end the trial if it is to end."""
        running = self.board.running[progress.slot]
        running.seconds += progress.seconds
        running.updates = progress.update
        if progress.error is not None:
            return self._end(running, "failed", progress.error, progress)
        value = progress.metrics[self._objective.name]
        running.note(progress)
        why = diverged(running.curves.loss, running.untrained.loss)
        if why is None and not math.isfinite(value):
            why = f"{self._objective.name} is {value}"
        if why is not None:
            return self._end(running, "diverged", why, progress)
        running.trial.report(value, progress.update)
        if progress.update == len(running.rates):
            return self._end(running, "complete", "reached the horizon", progress)
        if self._may_prune and running.trial.should_prune():
            return self._end(running, "pruned", f"by {self._pruner_name}", progress)
        if running.controller is not None:
            running.controller.observe(progress.update, progress.loss)
            running.rates = running.controller.rates
            self._pool.revise(progress.slot, running.rates)
        return None

    def _end(self, running: Running, state: End, reason: str, progress: Progress) -> None:
        """Store the record, tell Optuna, free the slot."""
        trial = running.trial
        objective = progress.metrics.get(self._objective.name, math.nan)
        record = Record(
            number=trial.user_attrs[START]["index"],
            optuna_number=trial.number,
            schedule=running.schedule,
            params=trial.params,
            state=state,
            reason=reason,
            value=objective if state == "complete" else None,
            curves=running.curves,
            resolved=running.schedule.resolve(len(running.rates)),
            updates=running.updates,
            seconds=running.seconds,
            seed=self._seed,
        )
        save_record(trial, record)
        trial.set_user_attr("ended", f"{state}: {reason}")
        if state == "diverged":
            # Optuna ranks infeasible trials by this: the later, the less bad.
            trial.set_constraint(DIVERGED, 2 - running.updates / len(running.rates))
            trial.report(self._worst(running.untrained), progress.update)
        if state == "complete":
            self._study.tell(trial, objective)
        else:
            told = TrialState.FAIL if state == "failed" else TrialState.PRUNED
            self._study.tell(trial, state=told)
        del self.board.running[progress.slot]
        self._pool.release(progress.slot)
        self.board.add(record, self._minimize)
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

    @property
    def _pruner_name(self) -> str:
        return type(self._study.pruner).__name__


def _end_of(trial: FrozenTrial) -> int:
    """The segment at which a trial ended, counted from the start of the search; 0 if it did not."""
    if RECORD not in trial.user_attrs or START not in trial.user_attrs:
        return 0
    segments = len(trial.user_attrs[RECORD]["curves"]["step"])
    return int(trial.user_attrs[START]["clock"]) + segments
