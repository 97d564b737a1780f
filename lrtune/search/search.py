"""Search: the trials of an Optuna study, as work for the loop: ask, report, tell."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from lrtune.engine import Pool, Progress
from lrtune.engine.checkpoint import Note
from lrtune.errors import InputError
from lrtune.search.budget import Clock, Limits
from lrtune.search.early_stopping import DIVERGENCE_FACTOR, NEVER, EarlyStopping, Stopping
from lrtune.search.loop import Checkpointer, Work
from lrtune.search.sampler import SurrogateSampler
from lrtune.search.space import SCHEDULE, Space, suggest_from
from lrtune.search.storage import START, End, Ending, Judge, Record, records, save_record
from lrtune.search.trials import CLOCK, TRIAL, ActiveTrial, TrialQueue, trial_key

FAIL, PRUNED = TrialState.FAIL, TrialState.PRUNED
DIVERGED = "diverged"  # name of the Optuna constraint: positive where a trial diverged
HANDED_OVER = "handed_over"  # user attribute of the study: the gain that was too small
WORTH = 0.03  # standard deviations of noise that the next trial must be expected to gain
LEAST = 0.5  # share of the search's own budget before that is asked
FAILURES = 3  # this many failed trials running: the fault is not the schedule's


@dataclass
class FamilyState:
    """How the search of one family stands."""

    ended: Counter[str] = field(default_factory=Counter)  # trials by how they ended
    best: Record | None = None  # the best trial that has a value


@dataclass
class SearchState:
    """How a search stands, for whoever watches."""

    budget: Limits  # of the search, over all sessions
    minimize: bool = True
    clock: Clock = field(default_factory=Clock)  # of the run
    kept: float = 0.0  # share of the whole budget for the confirmation: no trial cuts into it
    pace: float = 0.0  # seconds per update of all slots together, as it was measured before
    slots: int = 1
    began: float | None = None  # the clock when the search did, where time is kept by its pace
    limits: Limits | None = None  # of the whole run; those of the search where None
    swept: int = 0  # updates that the range test took
    running: dict[int, ActiveTrial] = field(default_factory=dict)  # by slot, see ``see``
    families: dict[str, FamilyState] = field(default_factory=dict)  # with a trial that is over
    last: Record | None = None  # the trial that ended last, in this session
    trials: int = 0  # that are over
    updates: int = 0  # of these
    trained: float = 0.0  # seconds that they took
    # Of trials under way, their updates and seconds: by slot, and the sums, for there may be
    # thousands, and each report asks.
    _seen: dict[int, tuple[int, float]] = field(default_factory=dict, init=False)
    _updates: int = field(default=0, init=False)
    _seconds: float = field(default=0.0, init=False)

    def see(self, slot: int, active: ActiveTrial) -> None:
        """Take in how far a trial has come that is under way in a slot."""
        updates, seconds = self._seen.get(slot, (0, 0.0))
        self.running[slot], self._seen[slot] = active, (active.updates, active.seconds)
        self._updates += active.updates - updates
        self._seconds += active.seconds - seconds

    def leave(self, slot: int) -> None:
        """The trial in a slot is no longer under way."""
        del self.running[slot]
        updates, seconds = self._seen.pop(slot)
        self._updates -= updates
        self._seconds = self._seconds - seconds if self.running else 0.0  # rounding adds up

    def add(self, record: Record) -> None:
        """Count a trial that is over."""
        family = self.families.setdefault(record.schedule.family, FamilyState())
        family.ended[record.state] += 1
        self.trials += 1
        self.updates += record.updates
        self.trained += record.seconds
        if record.value is None or not math.isfinite(record.value):
            return
        if family.best is None or self.loss_of(record) < self.loss_of(family.best):
            family.best = record

    def loss_of(self, record: Record) -> float:
        """The value of a trial that has one, the lower the better."""
        assert record.value is not None
        return record.value if self.minimize else -record.value

    @property
    def ended(self) -> Counter[str]:
        """Trials by how they ended."""
        return sum((family.ended for family in self.families.values()), Counter[str]())

    @property
    def bests(self) -> list[Record]:
        """The best trial of each family that has a value, the best family first."""
        bests = [family.best for family in self.families.values() if family.best is not None]
        return sorted(bests, key=lambda record: (self.loss_of(record), record.number))

    @property
    def best(self) -> Record | None:
        """The best trial; the first of equals."""
        return next(iter(self.bests), None)

    @property
    def spent(self) -> tuple[float, float, float]:
        """Trials and updates so far, of trials under way in part; seconds of the run."""
        horizon = next((len(active.rates) for active in self.running.values()), 1)
        trials = self.trials + self._updates / horizon
        return trials, self.updates + self._updates, self.clock.seconds

    @property
    def share(self) -> float:
        """How much of the whole run's budget is spent, 0 ... 1: it grows evenly with the work."""
        limits = self.limits or self.budget
        trials, updates, seconds = self.spent
        after = 0.0
        if self.kept and limits.updates is limits.seconds is None:
            after = self.kept  # trials alone say how long the search is
        elif self.kept:
            limits = replace(limits, trials=None)  # what they leave is the confirmation's
        return (1 - after) * limits.share(trials, self.swept + updates, seconds)

    @property
    def searched(self) -> float:
        """How much of the search's own budget is spent, 0 ... 1."""
        return self.budget.share(*self.spent)

    def may_start(self, queued: int, horizon: int) -> bool:
        """Whether the budget has room for one more; those under way or queued count as whole.

        Where nothing is kept for a confirmation, the last trial may be cut short.
        """
        self._keep_what_suffices(horizon)
        whole = horizon if self.kept else 0
        trials = self.trials + len(self.running) + queued
        updates = self.updates + len(self.running) * horizon + max(0, whole - 1)
        end = self.clock.seconds
        if self.budget.seconds is not None:
            seen = [r for r in self.running.values() if r.updates and r.seconds]
            paces = [len(self.running) * r.seconds / r.updates for r in seen]
            end += whole * max(paces, default=self.slots * self.pace)
        return self.budget.share(trials, updates, end) < 1

    def _keep_what_suffices(self, horizon: int) -> None:
        """Keep time for the confirmation if, at the pace so far, it suffices for one.

        Asked again and again: what was measured before may be far from what a busy machine does.
        """
        if self.began is None or self.limits is None:
            return
        updates, seconds = self.updates + self._updates, self.trained + self._seconds
        pace = seconds / updates if updates >= horizon else self.pace
        self.kept = self.limits.kept(horizon, pace, self.began)
        self.budget = self.limits.of_search(self.swept, self.began, self.kept)


class Search(Work[ActiveTrial]):
    """One search: a study, a space, a pool; it goes on where the study stopped.

    Args:
        study: of Optuna, with the sampler and the pruner to use.
        space: families and ranges.
        pool: what trains.
        state: with the budget; trials of earlier sessions are counted when the loop begins.
        stopping: when a trial ends early, beside the study's pruner.
        judge: which weights of a trial give its value.
        seed: of every trial's weights and batches: one for all, so that they are compared in pairs.
        owner: marks this run's trials in a storage that others may share.
        watch: called after each segment and each trial's end.
        tell: called with a line where the search ends before its budget.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        pool: Pool,
        state: SearchState,
        *,
        stopping: Stopping = NEVER,
        judge: Judge = "last",
        seed: int = 0,
        owner: str = "",
        watch: Callable[[SearchState], None] = lambda state: None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._study = study
        self._space = space
        self._pool = pool
        self._judge = judge
        self._seed = seed
        self._owner = owner
        self._watch = watch
        self._tell = tell
        self._objective = pool.task.objective
        self._minimize = self._objective.direction == "minimize"
        self._early_stopping = EarlyStopping(study, pool.task, stopping, judge, seed)
        self._failures = 0
        self._handed_over = HANDED_OVER in study.user_attrs and state.kept > 0
        self._asked = -1  # trials that were over when the gain was last looked at
        self._queue = TrialQueue(study, space, pool, owner)
        self.state = replace(state, minimize=self._minimize)

    @property
    def over(self) -> bool:
        """Whether nothing of it is trained, nor will be."""
        return not self.state.running and not self._may_start(queued=0)

    @property
    def waits(self) -> bool:
        """Whether a trial is yet to start, for which the budget has room."""
        return self._queue.waits and self._may_start(queued=0)

    def begin(self, checkpointer: Checkpointer) -> None:
        """Count what is over, and queue what was cut short."""
        for record in records(self._study):
            self.state.add(record)
            self._early_stopping.remember(record)
        self._queue.take_up()
        repeated = {trial_key(index): index for index in self._queue.repeated}
        checkpointer.forget(TRIAL, repeated, owner=self._owner)
        notes = {i: checkpointer.kept[k][1] for k, i in repeated.items() if k in checkpointer.kept}
        self._queue.wind({index: note[CLOCK] for index, note in notes.items() if CLOCK in note})

    def next(self, slot: int, checkpointer: Checkpointer) -> ActiveTrial | None:
        """Start the trial that is due in this slot."""
        self._hand_over()
        if (trial := self._queue.next(slot, self._may_start)) is None:
            return None
        schedule = suggest_from(self._space, trial)
        if SCHEDULE not in trial.user_attrs:
            trial.set_user_attr(SCHEDULE, schedule.to_json())
        begun = trial.user_attrs[START]
        index = begun["index"]
        own: dict[str, Any] = {"key": trial_key(index), "name": f"trial {index}", "trial": trial}
        own |= {"index": index, "survived": begun.get("survived", 0)}
        resume = partial(ActiveTrial.resume, schedule, **own)
        active = checkpointer.take(own["key"], self._pool, slot, resume)
        if active is None:
            active = ActiveTrial.start(self._pool, slot, schedule, self._seed, **own)
        self.state.see(slot, active)
        if active.untrained.error is None:
            self._early_stopping.take_up(active)
        return active

    def _may_start(self, queued: int) -> bool:
        """Whether there is room for one more, and more is to be searched."""
        over = self._handed_over and not self._queue.repeated
        return not over and self.state.may_start(queued, self._pool.task.horizon)

    def _hand_over(self) -> None:
        """End the search where more of it is expected to gain less than certainty is worth."""
        state, sampler = self.state, self._study.sampler
        if not isinstance(sampler, SurrogateSampler) or not state.kept or self._handed_over:
            return
        if self._asked == state.trials:
            return
        self._asked = state.trials
        if state.searched < LEAST:
            return
        gain = sampler.expected_gain(self._study, state.trials)
        if gain < WORTH:
            self._handed_over = True
            self._study.set_user_attr(HANDED_OVER, gain)
            self._tell("the next trial is expected to gain little: on to the confirmation")

    def ending(self, active: ActiveTrial, progress: Progress) -> Ending | None:
        """As early stopping decides; at once where somebody else has told Optuna of its end."""
        self.state.see(progress.slot, active)
        try:
            return self._early_stopping.ending(active, progress)
        except UpdateFinishedTrialError as error:
            return Ending("failed", str(error))

    def ended(self, active: ActiveTrial, ending: Ending, progress: Progress) -> None:
        """Store the record, and tell Optuna."""
        self.state.leave(progress.slot)
        try:
            record = self._told(active, ending, progress)
        except UpdateFinishedTrialError:
            self._tell(f"trial {active.index} was ended by somebody else: taken as it was told")
            return
        self.state.add(record)
        self.state.last = record
        self._early_stopping.remember(record)
        self._watch(self.state)
        self._stop_if_nothing_works(ending.state, progress)

    def _told(self, active: ActiveTrial, ending: Ending, progress: Progress) -> Record:
        trial, state, name = active.trial, ending.state, self._objective.name
        at = None
        if state == "complete":
            at = active.curves.judged(name, self._minimize, self._judge)
        record = active.record(ending, name, at, ended=self.state.trials)
        save_record(trial, record)
        trial.set_user_attr("ended", f"{state}: {ending.reason}")
        if state == "diverged":
            # Optuna ranks infeasible trials by this: the later, the less bad.
            trial.set_constraint(DIVERGED, 2 - active.updates / len(active.rates))
            trial.report(self._worst(active.untrained), progress.update)
        if record.value is not None:
            self._study.tell(trial, record.value)
        else:
            self._study.tell(trial, state=FAIL if state == "failed" else PRUNED)
        return record

    def segment_over(self, slots: range) -> None:
        """Move their clocks on."""
        self._queue.tick(slots)
        if self.state.running:
            self._watch(self.state)

    def note(self, slot: int, active: ActiveTrial) -> Note:
        """Whose it is, and when it is to go on."""
        when = {CLOCK: self._queue.clocks[slot]} if self._queue.timed else {}
        return {"owner": self._owner, **when, **active.note()}

    def close(self) -> None:
        """Trials under way are queued to be repeated."""
        self._queue.close(active.trial for active in self.state.running.values())

    def _worst(self, untrained: Progress) -> float:
        """A finite stand-in for the value of a trial that has none, no better than untrained."""
        value = untrained.metrics.get(self._objective.name, math.nan)
        if not math.isfinite(value):
            return 0.0
        return DIVERGENCE_FACTOR * value if self._minimize and value > 0 else value

    def _stop_if_nothing_works(self, state: End, progress: Progress) -> None:
        self._failures = self._failures + 1 if state == "failed" else 0
        if self._failures == FAILURES:
            raise InputError(
                f"{FAILURES} trials running failed, the last with {progress.error}: nothing that "
                "ran is lost, and the same command goes on once that is mended"
            )
