"""Trials under way: what is in a slot, and the queue of the trials that start next."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState, create_trial

from lrtune.engine import Pool, Progress
from lrtune.engine.checkpoint import Note
from lrtune.engine.optimizers import named_settings
from lrtune.engine.pool import SCHEDULE_FREE, SMOOTHING, Snapshot
from lrtune.schedule import Controller, Schedule
from lrtune.schedule.family import unknown
from lrtune.schedule.setting import changed, numbers_of
from lrtune.search.sampler import SurrogateSampler
from lrtune.search.space import SCHEDULE, Space, suggest_from
from lrtune.search.storage import (
    AUDIT,
    RECORD,
    START,
    Curves,
    Ending,
    Record,
    index_of,
    unique_trials,
    was_cut_short,
)
from lrtune.tasks import Task
from lrtune.tasks.metrics import smoothing_of

CLOCK = "clock"  # in START, of a trial that started in lockstep: when
TRIAL = "trial "  # what the keys of a search's trials begin with


@dataclass(slots=True, kw_only=True)
class Training:
    """One training in a slot."""

    key: str  # in a checkpoint: the same in every session
    name: str  # for a person
    schedule: Schedule
    seed: int  # of everything random that it meets
    rates: NDArray[np.float64]  # (horizon,) of all updates, those to come as planned now
    controller: Controller | None  # what changes them, of a closed loop
    untrained: Progress  # the validation before the first update
    curves: Curves = field(default_factory=Curves)  # what was seen since
    updates: int = 0  # done
    seconds: float = 0.0  # of training and validation
    hosts: list[str] = field(default_factory=list)  # that trained it, in order; see Pool.host
    best: Snapshot | None = None  # at its best validation, where that is to be evaluated on test

    @classmethod
    def start(cls, pool: Pool, slot: int, schedule: Schedule, seed: int, **own: Any) -> Self:
        """Put a new training in a free slot."""
        horizon = pool.task.horizon
        own["rates"], own["controller"] = rates_of(schedule, horizon)
        settings = tuned_on(pool.task, schedule)
        momenta = schedule.momenta(horizon)
        own["untrained"] = pool.start(slot, own["rates"], seed, momenta, settings)
        return cls(schedule=schedule, seed=seed, seconds=own["untrained"].seconds, **own)

    @classmethod
    def resume(cls, schedule: Schedule, snapshot: Snapshot, note: Note, **own: Any) -> Self:
        """A training as it was when it was noted down."""
        own["rates"], own["controller"] = rates_of(schedule, len(snapshot.rates))
        own |= {"updates": snapshot.update}
        own |= {name: note[name] for name in ("seconds", "hosts")}
        own |= {
            "untrained": Progress(0, 0, **note["untrained"]),
            "curves": Curves.from_json(note["curves"]),
        }
        training = cls(schedule=schedule, seed=snapshot.seed, **own)
        for update, loss in zip(training.curves.step, training.curves.loss, strict=True):
            training.observe(update, loss)
        return training

    def observe(self, update: int, loss: float) -> bool:
        """Let a closed loop see a validation; whether it is one."""
        if self.controller is None:
            return False
        self.controller.observe(update, loss)
        self.rates = self.controller.rates
        return True

    def trained_by(self, host: str) -> None:
        """A host has trained a segment of it."""
        if host and self.hosts[-1:] != [host]:
            self.hosts.append(host)

    def note(self) -> Note:
        """What a Snapshot does not know of it, as JSON can hold it."""
        untrained = {"loss": self.untrained.loss, "metrics": self.untrained.metrics}
        return {
            "schedule": self.schedule.to_json(),
            "seconds": self.seconds,
            "hosts": [*self.hosts],
            "untrained": untrained,
            "curves": self.curves.to_json(),
        }


def rates_of(schedule: Schedule, horizon: int) -> tuple[NDArray[np.float64], Controller | None]:
    """The rates that a training starts with, and what will change them in a closed loop."""
    if not schedule.closed_loop:
        return schedule.rates(horizon), None
    controller = schedule.controller(horizon, mode="min")
    return controller.rates, controller


def tuned_on(task: Task, schedule: Schedule) -> dict[str, Any]:
    """What was tuned with a schedule, as a pool takes it.

    Raises:
        InputError: the task does not have it.
    """
    free = {SCHEDULE_FREE: True} if schedule.schedule_free else {}
    if not schedule.settings:
        return free
    own = named_settings(task)
    known = [*numbers_of(own), *([SMOOTHING] if smoothing_of(task.loss) is not None else [])]
    for name in schedule.settings:
        if name not in known:
            raise unknown(f"{schedule.family}: setting of {task.optimizer_name}", name, known)
    return _in_torchs_terms(own, schedule.settings) | free


def tuned_names(task: Task, names: Iterable[str]) -> tuple[str, ...]:
    """What pools call the settings with these names."""
    return tuple(_in_torchs_terms(named_settings(task), dict.fromkeys(names, 0.0)))


def _in_torchs_terms(own: Mapping[str, Any], tuned: Mapping[str, float]) -> dict[str, Any]:
    smoothing = {name: value for name, value in tuned.items() if name == SMOOTHING}
    return changed(own, tuned) | smoothing


@dataclass(slots=True, kw_only=True)
class ActiveTrial(Training):
    """A trial of the search that is under way."""

    trial: optuna.Trial
    index: int  # which of the search's trials this is
    survived: int  # it went on at reports before this update, when it was trained before a kill
    audit: dict[str, Any] | None = None  # see Record

    def record(self, ending: Ending, objective: str, judged_at: int | None, ended: int) -> Record:
        """What is stored of a trial that is over, as the one after so many."""
        return Record(
            number=self.index,
            optuna_number=self.trial.number,
            schedule=self.schedule,
            params=self.trial.params,
            state=ending.state,
            reason=ending.reason,
            value=None if judged_at is None else self.curves.at(judged_at)[objective],
            curves=self.curves,
            resolved=self.schedule.resolve(len(self.rates)),
            updates=self.updates,
            seconds=self.seconds,
            seed=self.seed,
            judged_at=judged_at,
            ended=ended,
            hosts=self.hosts,
            evidence=ending.evidence,
            audit=self.audit,
        )


def trial_key(index: int) -> str:
    """The key of a trial in a checkpoint."""
    return f"{TRIAL}{index}"


class TrialQueue:
    """Asks Optuna for the trials of one run, those first that a session before left unfinished.

    Every trial of an unbroken search in lockstep starts at a known segment. The repeated ones start
    at the same distance from each other, and nothing new starts before the segment at which the
    search stopped: so it asks the same questions with the same answers known. Where groups of slots
    are served as they come, that course cannot be repeated: whatever is there starts at once.

    Attributes:
        timed: whether all sessions so far trained in lockstep, this one too.
        clocks: of each slot, segments since the start of a search that is timed, over all sessions.
    """

    def __init__(self, study: optuna.Study, space: Space, pool: Pool, owner: str) -> None:
        self._study = study
        self._space = space
        self._slots = pool.slots
        self._owner = owner
        self.timed = pool.in_order
        self.clocks = [0] * pool.slots
        self._stopped = 0  # the clock at which an earlier session stopped
        self._next_index = 0
        self._queue: list[optuna.Trial] = []  # to be repeated, in the order of their index
        self._due: dict[int, int] = {}  # index -> clock at which it goes on

    @property
    def repeated(self) -> set[int]:
        """The indices of the trials that are still to be repeated."""
        return {_start(trial)["index"] for trial in self._queue}

    @property
    def waits(self) -> bool:
        """Whether there are trials, repeated or new, whose time is yet to come."""
        return self.timed and (bool(self._queue) or min(self.clocks) < self._stopped)

    def tick(self, slots: range) -> None:
        """These slots have trained a segment."""
        for slot in slots if self.timed else ():
            self.clocks[slot] += 1

    def take_up(self) -> None:
        """Queue what was cut short."""
        trials = unique_trials(self._study)
        self._next_index = 1 + max(map(index_of, trials), default=-1)
        self.timed = self.timed and all(CLOCK in t.user_attrs.get(START, {CLOCK}) for t in trials)
        self._repeat_what_was_cut_short()
        waiting = self._waiting()
        self._queue = [self._ask(slot=index % self._slots) for index in range(len(waiting))]
        self._queue.sort(key=lambda trial: _start(trial)["index"])
        for trial in self._queue:
            suggest_from(self._space, trial)  # from here on its parameters are its own

    def wind(self, kept: Mapping[int, int]) -> None:
        """Set the clocks to where the first of the repeated trials goes on.

        Those with a checkpoint (``kept``: index -> clock) go on from the segment at which it was
        made, so that all that comes after comes as it would have.
        """
        if not self.timed:
            return
        self._due = {_start(trial)["index"]: _start(trial)[CLOCK] for trial in self._queue}
        self._due |= kept
        self._stopped = max(map(_end_of, unique_trials(self._study)), default=0)
        self.clocks = [min([*self._due.values(), self._stopped])] * self._slots

    def next(self, slot: int, may_start: Callable[[int], bool]) -> optuna.Trial | None:
        """The trial for a free slot: one to be repeated that is due, or a new one.

        ``may_start`` says whether the budget has room for one more and so many queued ones.
        """
        own = (t for t in self._queue if not self.timed or _start(t)["slot"] % self._slots == slot)
        if trial := next(own, None):
            if self.timed and self._due[_start(trial)["index"]] > self.clocks[slot]:
                return None
            if not may_start(0):
                return None
            self._queue.remove(trial)
            return trial
        if self.clocks[slot] < self._stopped or not may_start(len(self._queue)):
            return None
        return self._ask(slot)

    def close(self, under_way: Iterable[optuna.Trial]) -> None:
        """Leave in the storage what is to be repeated: these trials, and the queue."""
        for trial in (*under_way, *self._queue):
            self._study.tell(trial, state=TrialState.FAIL)
        self._repeat_what_was_cut_short()

    def _repeat_what_was_cut_short(self) -> None:
        """Queue again what this run left unfinished, whichever moment it was killed at."""
        unique = unique_trials(self._study)
        latest = {trial.number for trial in unique}
        ended = {(_start(trial)["slot"], _end_of(trial)) for trial in unique if _end_of(trial)}
        params: dict[int, dict[str, Any]] = {}  # by index: a repetition may have died without all
        for trial in self._study.get_trials(deepcopy=False):
            start = trial.user_attrs.get(START, {})
            running = trial.state == TrialState.RUNNING
            if start.get("owner") != self._owner or not (running or was_cut_short(trial)):
                continue
            own = params.setdefault(start["index"], {})
            own |= trial.params
            if trial.number in latest:
                kept: dict[str, Any] = {START: {**start, "survived": _survived(trial, ended)}}
                if not self.timed:
                    kept[START].pop(CLOCK, None)
                if AUDIT in trial.user_attrs:
                    kept[AUDIT] = trial.user_attrs[AUDIT]
                self._study.enqueue_trial(own, user_attrs=kept)
            if running:
                self._study.tell(trial.number, state=TrialState.FAIL)

    def _ask(self, slot: int) -> optuna.Trial:
        """A trial from Optuna that says from its first moment on which one it is."""
        start: dict[str, Any] = {"index": self._next_index, "slot": slot, "owner": self._owner}
        if self.timed:
            start[CLOCK] = self.clocks[slot]
        if not self._waiting():
            self._add(start)
        trial = self._study.ask()
        known = trial.user_attrs.get(START, start)  # not if queued from the dashboard, say
        if START not in trial.user_attrs or (CLOCK in known and not self.timed):
            trial.set_user_attr(START, {n: v for n, v in known.items() if self.timed or n != CLOCK})
        self._next_index = max(self._next_index, 1 + _start(trial)["index"])
        return trial

    def _add(self, start: dict[str, Any]) -> None:
        """A new trial, in a single entry of the storage where the sampler is ours."""
        sampler = self._study.sampler
        if not isinstance(sampler, SurrogateSampler):
            self._study.enqueue_trial({}, user_attrs={START: start})
            return
        params, distributions = sampler.draw(self._study, start["index"])
        carried = {START: start, SCHEDULE: self._space.schedule(params).to_json()}
        new: dict[str, Any] = {"params": params, "distributions": distributions}
        new |= {"state": TrialState.WAITING, "user_attrs": carried}
        self._study.add_trial(create_trial(**new))

    def _waiting(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))


def _start(trial: optuna.Trial | FrozenTrial) -> dict[str, Any]:
    return dict(trial.user_attrs[START])


def _survived(trial: FrozenTrial, ended: set[tuple[int, int]]) -> int:
    """A trial that was cut short was not to be pruned at reports before this update.

    Nor at the last one, if a trial in a later slot ended in that segment, or any in a later one:
    then slots had been looked at up to there. If none did, no more is known than was then, and the
    answer is the same. Without clocks, what is known now may answer otherwise.
    """
    start, last = _start(trial), trial.last_step or 0
    clock = start.get(CLOCK, math.inf) + len(trial.intermediate_values)
    decided = any((end, slot) > (clock, start["slot"]) for slot, end in ended)
    return int(max(last + decided, start.get("survived", 0)))  # a repetition comes less far


def _end_of(trial: FrozenTrial) -> int:
    """The segment at which a trial ended, from the start of the search; 0 if none is known."""
    if RECORD not in trial.user_attrs or CLOCK not in trial.user_attrs.get(START, ()):
        return 0
    segments = len(trial.user_attrs[RECORD]["curves"]["step"])
    return int(_start(trial)[CLOCK]) + segments
