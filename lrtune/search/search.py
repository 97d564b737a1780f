"""Search: the trials of an Optuna study, as work for the loop: ask, report, tell."""

import math
from collections.abc import Callable

import optuna
from optuna.trial import TrialState

from lrtune.engine import Pool, Progress
from lrtune.engine.checkpoint import Note
from lrtune.engine.pool import Snapshot
from lrtune.search.board import Board
from lrtune.search.budget import Budget, Clock
from lrtune.search.keeper import Keeper
from lrtune.search.lineup import Lineup
from lrtune.search.record import End, Ending, Judge
from lrtune.search.referee import NEVER, Referee, Rules
from lrtune.search.sampler import SurrogateSampler
from lrtune.search.space import SCHEDULE, Space, suggest_from
from lrtune.search.stopping import DIVERGENCE_FACTOR
from lrtune.search.store import START, records, save_record
from lrtune.search.training import TRIAL, ActiveTrial, as_it_was, from_scratch, trial_key

DIVERGED = "diverged"  # name of the Optuna constraint: positive where a trial diverged
HANDED_OVER = "handed_over"  # user attribute of the study: the gain that was too small
WORTH = 0.03  # standard deviations of noise that the next trial must be expected to gain
LEAST = 0.5  # share of the search's own budget before that is asked
FAILURES = 3  # this many failed trials running: the fault is not the schedule's


class Search:
    """One search: a study, a space, a pool; it goes on where the study stopped.

    Args:
        study: of Optuna, with the sampler and the pruner to use.
        space: families and ranges.
        pool: what trains.
        budget: when to stop.
        rules: when a trial ends early, beside the study's pruner.
        judge: which weights of a trial give its value.
        seed: of every trial's weights and batches: one for all, so that they are compared in pairs.
        owner: marks this run's trials in a storage that others may share.
        clock: of the run, for a budget in seconds; from now on where None.
        kept: share of the whole budget that is kept for the confirmation: no trial cuts into it.
        pace: seconds that an update of a trial takes beside the others, as it was measured.
        limits: the whole budget, of which ``budget`` is the search's; that one where None.
        swept: updates that the range test took.
        watch: called after each segment and each trial's end.
        tell: called with a line where the search ends before its budget.
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
        clock: Clock | None = None,
        kept: float = 0.0,
        pace: float = 0.0,
        limits: Budget | None = None,
        swept: int = 0,
        watch: Callable[[Board], None] = lambda board: None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._tell = tell
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
        self._handed_over = HANDED_OVER in study.user_attrs and kept > 0
        self._asked = -1  # trials that were over when the gain was last looked at
        self._lineup = Lineup(study, space, pool.slots, owner)
        whole = pool.task.horizon if kept else 0
        self.board = Board(
            budget,
            self._minimize,
            clock or Clock(),
            kept,
            whole,
            pace,
            limits or budget,
            swept,
        )

    @property
    def over(self) -> bool:
        """Whether nothing of it is trained, nor will be."""
        return not self.board.running and not self._may_start(queued=0)

    @property
    def waits(self) -> bool:
        """Whether a trial is yet to start, for which the budget has room."""
        return self._lineup.waits and self._may_start(queued=0)

    def begin(self, keeper: Keeper) -> None:
        """Count what is over, and queue what was cut short."""
        for record in records(self._study):
            self.board.add(record)
            self._referee.remember(record)
        self._lineup.take_up()
        repeated = {trial_key(index): index for index in self._lineup.repeated}
        keeper.forget(
            lambda key, note: (
                key.startswith(TRIAL) and (key not in repeated or note["owner"] != self._owner)
            )
        )
        kept = keeper.kept.keys() & repeated.keys()
        self._lineup.wind({repeated[key]: keeper.kept[key][1]["clock"] for key in kept})

    def next(self, slot: int, keeper: Keeper) -> ActiveTrial | None:
        """Start the trial that is due in this slot."""
        self._hand_over()
        trial = self._lineup.next(slot, self._may_start)
        if trial is None:
            return None
        schedule = suggest_from(self._space, trial)
        if SCHEDULE not in trial.user_attrs:
            trial.set_user_attr(SCHEDULE, schedule.to_json())
        index = trial.user_attrs[START]["index"]

        def kept(snapshot: Snapshot, note: Note) -> ActiveTrial:
            return ActiveTrial(trial=trial, **as_it_was(schedule, snapshot, note))

        running = keeper.take(trial_key(index), self._pool, slot, kept)
        if running is None:
            fields = from_scratch(self._pool, slot, schedule, self._seed)
            running = ActiveTrial(trial=trial, **fields)
        self.board.running[slot] = running
        if running.untrained.error is None:
            self._referee.take_up(running)
        return running

    def _may_start(self, queued: int) -> bool:
        """Whether there is room for one more, and more is to be searched."""
        over = self._handed_over and not self._lineup.repeated
        return not over and self.board.may_start(queued)

    def _hand_over(self) -> None:
        """End the search where more of it is expected to gain less than certainty is worth."""
        board, sampler = self.board, self._study.sampler
        if not isinstance(sampler, SurrogateSampler) or not board.kept:
            return
        if self._handed_over or self._asked == board.trials:
            return
        self._asked = board.trials
        if board.searched < LEAST:
            return
        gain = sampler.expected_gain(self._study, board.trials)
        if gain < WORTH:
            self._handed_over = True
            self._study.set_user_attr(HANDED_OVER, gain)
            self._tell("the next trial is expected to gain little: on to the confirmation")

    def ending(self, running: ActiveTrial, progress: Progress) -> Ending | None:
        """As the referee says."""
        return self._referee.ending(running, progress)

    def ended(self, running: ActiveTrial, ending: Ending, progress: Progress) -> None:
        """Store the record, and tell Optuna."""
        trial, state = running.trial, ending.state
        name = self._objective.name
        whole = state == "complete"
        at = running.curves.judged(name, self._minimize, self._judge) if whole else None
        record = running.record(ending, name, at)
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
        self.board.add(record)
        self.board.last = record
        self._referee.remember(record)
        self._watch(self.board)
        self._stop_if_nothing_works(state, progress)

    def turned(self) -> None:
        """A segment is over."""
        self._lineup.clock += 1
        if self.board.running:
            self._watch(self.board)

    def note(self, running: ActiveTrial) -> Note:
        """Whose it is, and when it is to go on."""
        place = {"owner": self._owner, "clock": self._lineup.clock}
        return {**place, **running.note()}

    def close(self) -> None:
        """Trials under way are queued to be repeated."""
        self._lineup.close(under_way.trial for under_way in self.board.running.values())

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
