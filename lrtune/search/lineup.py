"""Lineup: which trial starts next, in which slot and when; after a kill as if there was none."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from lrtune.search.sampler import SurrogateSampler
from lrtune.search.space import SCHEDULE, Space, suggest_from
from lrtune.search.store import AUDIT, RECORD, START, index_of, unique_trials, was_cut_short


class Lineup:
    """Asks Optuna for the trials of one run, those first that a session before left unfinished.

    Every trial of an unbroken search starts at a known segment. The repeated ones start at the
    same distance from each other, and nothing new starts before the segment at which the search
    stopped: so it asks the same questions with the same answers known.

    Attributes:
        clock: segments since the start of the search, over all sessions.
    """

    def __init__(self, study: optuna.Study, space: Space, slots: int, owner: str) -> None:
        """Look at nothing yet.

        Args:
            study: of Optuna.
            space: families and ranges.
            slots: trials side by side.
            owner: marks this run's trials in a storage that others may share.
        """
        self._study = study
        self._space = space
        self._slots = slots
        self._owner = owner
        self.clock = 0
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
        return bool(self._queue) or self.clock < self._stopped

    def take_up(self) -> None:
        """Queue what was cut short."""
        self._repeat_what_was_cut_short()
        self._next_index = 1 + max(map(index_of, unique_trials(self._study)), default=-1)
        waiting = self._waiting()
        self._queue = [self._ask(slot=index % self._slots) for index in range(len(waiting))]
        self._queue.sort(key=lambda trial: _start(trial)["index"])
        for trial in self._queue:
            suggest_from(self._space, trial)  # from here on its parameters are its own

    def wind(self, kept: Mapping[int, int]) -> None:
        """Set the clock to where the first of the repeated trials goes on.

        Args:
            kept: index -> clock, of the trials that go on from a checkpoint instead of from their
                start: at the segment at which that was made, so that all that comes after comes
                as it would have.
        """
        self._due = {_start(trial)["index"]: _start(trial)["clock"] for trial in self._queue}
        self._due |= kept
        self._stopped = max(map(_end_of, unique_trials(self._study)), default=0)
        self.clock = min([*self._due.values(), self._stopped])

    def next(self, slot: int, may_start: Callable[[int], bool]) -> optuna.Trial | None:
        """The trial for a free slot: one to be repeated that is due, or a new one.

        Args:
            slot: 0 ... K-1.
            may_start: whether the budget has room for one more and so many queued ones.
        """
        own = [trial for trial in self._queue if _start(trial)["slot"] % self._slots == slot]
        if own:
            if self._due[_start(own[0])["index"]] > self.clock or not may_start(0):
                return None
            self._queue.remove(own[0])
            return own[0]
        if self.clock < self._stopped or not may_start(len(self._queue)):
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
        ended = {
            (trial.user_attrs[START]["slot"], _end_of(trial)) for trial in unique if _end_of(trial)
        }
        for trial in self._study.get_trials(deepcopy=False):
            start = trial.user_attrs.get(START, {})
            running = trial.state == TrialState.RUNNING
            if start.get("owner") != self._owner or not (running or was_cut_short(trial)):
                continue
            if trial.number in latest:
                kept = {START: {**start, "survived": _survived(trial, ended)}}
                if AUDIT in trial.user_attrs:
                    kept[AUDIT] = trial.user_attrs[AUDIT]
                self._study.enqueue_trial(trial.params, user_attrs=kept)
            if running:
                self._study.tell(trial.number, state=TrialState.FAIL)

    def _ask(self, slot: int) -> optuna.Trial:
        """A trial from Optuna that says from its first moment on which one it is."""
        start = {
            "index": self._next_index,
            "slot": slot,
            "clock": self.clock,
            "owner": self._owner,
        }
        if not self._waiting():
            self._add(start)
        trial = self._study.ask()
        if START not in trial.user_attrs:  # queued by somebody else, from the dashboard say
            trial.set_user_attr(START, start)
        self._next_index = max(self._next_index, 1 + _start(trial)["index"])
        return trial

    def _add(self, start: dict[str, Any]) -> None:
        """A new trial, in a single entry of the storage where the sampler is ours."""
        if not isinstance(self._study.sampler, SurrogateSampler):
            self._study.enqueue_trial({}, user_attrs={START: start})
            return
        sampler = self._study.sampler
        params, distributions = sampler.draw(self._study, start["index"])
        schedule = self._space.schedule(params)
        self._study.add_trial(
            create_trial(
                state=TrialState.WAITING,
                params=params,
                distributions=distributions,
                user_attrs={START: start, SCHEDULE: schedule.to_json()},
            )
        )

    def _waiting(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))


def _start(trial: optuna.Trial) -> dict[str, Any]:
    found: dict[str, Any] = trial.user_attrs[START]
    return found


def _survived(trial: FrozenTrial, ended: set[tuple[int, int]]) -> int:
    """A trial that was cut short was not to be pruned at reports before this update.

    Nor at the last one, if a trial in a later slot ended in that segment: then slots had been
    looked at up to there. If none did, no more is known than was then, and the answer is the same.
    """
    start, last = trial.user_attrs[START], trial.last_step or 0
    clock = start["clock"] + len(trial.intermediate_values)
    decided = any(slot > start["slot"] and end == clock for slot, end in ended)
    return last + 1 if decided else last


def _end_of(trial: FrozenTrial) -> int:
    """The segment at which a trial ended, counted from the start of the search; 0 if it did not."""
    if RECORD not in trial.user_attrs or START not in trial.user_attrs:
        return 0
    segments = len(trial.user_attrs[RECORD]["curves"]["step"])
    return int(trial.user_attrs[START]["clock"]) + segments
