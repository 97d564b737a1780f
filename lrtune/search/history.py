"""The trials of a study by family, read once each: an ask must not cost all of the past."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from lrtune.schedule import Schedule
from lrtune.search.peak import BRANCHES, FLAT, Peak, Peaks
from lrtune.search.race import Standing, still_racing
from lrtune.search.space import FAMILY, SCHEDULE, SPLINE, Space
from lrtune.search.store import forecast_of, index_of, was_cut_short

REMEMBERED = 100  # trials of a family that its sampler sees, once there are more
BLOCK = 50  # and the newest ones since, fewer than this


ENDS = ("low", "high")  # of a forecast's interval


@dataclass
class _Family:
    """One family's trials in a study of their own, so that any sampler sees one space."""

    direction: StudyDirection
    space: dict[str, BaseDistribution]
    study: optuna.Study = field(init=False)
    ended: list[FrozenTrial] = field(default_factory=list)
    running: dict[int, FrozenTrial] = field(default_factory=dict)  # by number in the whole study

    def __post_init__(self) -> None:
        self._rebuild(())

    def start(self, trial: FrozenTrial) -> None:
        copy = self._copy(trial)
        if copy is not None:
            self._numbers[trial.number] = len(self.study.get_trials(deepcopy=False))
            self.running[trial.number] = copy
            self.study.add_trial(copy)

    def stop(self, number: int) -> None:
        if self.running.pop(number, None) is not None:
            self.study.tell(self._numbers.pop(number), state=TrialState.FAIL)

    def end(self, trial: FrozenTrial) -> bool:
        """Take in a trial that is over: does it lie in this space?"""
        copy = self._copy(trial)
        if copy is None:
            return False
        self.ended.append(copy)
        if len(self.ended) > REMEMBERED and len(self.ended) % BLOCK == 0:
            self._rebuild(_remembered(self.ended, self.direction))
        else:
            self.study.add_trial(copy)
        return True

    def _rebuild(self, trials: Sequence[FrozenTrial]) -> None:
        told = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # of studies that nobody else sees
        self.study = optuna.create_study(direction=self.direction)
        optuna.logging.set_verbosity(told)
        self.study.add_trials([*trials, *self.running.values()])
        self._numbers = {number: len(trials) + i for i, number in enumerate(self.running)}

    def _copy(self, trial: FrozenTrial) -> FrozenTrial | None:
        """The trial in this space; None if it lies outside, as one queued by hand may.

        A pruned trial counts with the value that it would have ended with: what Optuna knows of it
        otherwise is how long it lived.
        """
        seen = forecast_of(trial)
        complete = trial.state == TrialState.COMPLETE
        try:
            return create_trial(
                state=trial.state if seen is None else TrialState.COMPLETE,
                values=trial.values if complete else None if seen is None else [seen["final"]],
                params={name: trial.params[name] for name in self.space},
                distributions=self.space,
                intermediate_values=dict(list(trial.intermediate_values.items())[-1:]),
                constraints=trial.constraints,
            )
        except ValueError:
            return None


class History:
    """What has happened in a study, by family.

    What it tells is a function of the trials and the order in which they ended alone, so that a
    search that was stopped is told the same when it goes on.
    """

    def __init__(self, space: Space) -> None:
        """Start with nothing read."""
        self.standings = {family: Standing() for family in space.families}
        self.leader: Schedule | None = None  # of the open loops of named shape
        self._least = float("inf")  # its score
        self._space = space
        self._peaks = Peaks()
        self._families: dict[str, _Family] = {}
        self._started: dict[int, str] = {}  # number -> family, of trials that run
        self._read = 0  # trials whose number is below this are known, or in _open
        self._open: list[int] = []  # numbers of trials that were not over when last seen

    def read(self, study: optuna.Study, asked: int | None = None) -> None:
        """Take in what has happened since the last time; the trial being asked is left out."""
        if not self._families:
            self._families = {
                family: _Family(study.direction, self._space.distributions(family))
                for family in self._space.families
            }
        trials = study.get_trials(deepcopy=False)
        fresh = [trials[n] for n in (*self._open, *range(self._read, len(trials))) if n != asked]
        self._read = len(trials)
        self._open = [t.number for t in fresh if not t.state.is_finished()]
        if asked is not None:
            self._open.append(asked)
        over = [t for t in fresh if t.state.is_finished()]
        for trial in sorted(over, key=lambda t: (t.datetime_complete, t.number)):
            self._end(trial)
        for trial in sorted(fresh, key=index_of):
            if trial.state == TrialState.RUNNING:
                self._start(trial)

    @property
    def peak(self) -> Peak | None:
        """Where the flat families are settled, while there are trials to be drawn there."""
        racing = still_racing(self.standings)
        return self._peaks.settled if any(name in BRANCHES for name in racing) else None

    def study_of(self, family: str) -> optuna.Study:
        """The study that holds this family's trials alone."""
        return self._families[family].study

    def _start(self, trial: FrozenTrial) -> None:
        name = self._name_of(trial)
        if name is not None and trial.number not in self._started:
            self._started[trial.number] = name
            self.standings[name].started += 1
            self._families[name].start(trial)

    def _end(self, trial: FrozenTrial) -> None:
        name = self._name_of(trial)
        if name is None:
            return
        family, standing = self._families[name], self.standings[name]
        if self._started.pop(trial.number, None) is not None:
            family.stop(trial.number)
            standing.started -= 1
        if was_cut_short(trial):
            return
        standing.started += 1
        sign = 1 if family.direction == StudyDirection.MINIMIZE else -1
        score, seen = float("inf"), forecast_of(trial)
        if trial.state == TrialState.COMPLETE:
            score = sign * trial.values[0]
            standing.add(index_of(trial), score)
        elif seen is None:
            standing.add(index_of(trial), score)
        else:
            standing.add(
                index_of(trial), sign * seen["final"], *sorted(sign * seen[p] for p in ENDS)
            )
        if trial.state == TrialState.FAIL or not family.end(trial):
            return
        if score < self._least and name != SPLINE and SCHEDULE in trial.user_attrs:
            leader = Schedule.from_json(trial.user_attrs[SCHEDULE])
            if not leader.closed_loop:
                self._least, self.leader = score, leader
        if trial.state == TrialState.COMPLETE and name in FLAT:
            peak = Peak(trial.params[f"{name}.peak_lr"], trial.params[f"{name}.warmup"])
            self._peaks.add(score, index_of(trial), peak)

    def _name_of(self, trial: FrozenTrial) -> str | None:
        """Its family, once all of the family's knobs are there."""
        name = trial.params.get(FAMILY)
        if name not in self._families:
            return None
        return name if self._families[name].space.keys() <= trial.params.keys() else None


def racing(study: optuna.Study, space: Space) -> list[str]:
    """The families that have not dropped out of a study's race."""
    history = History(space)
    history.read(study)
    return still_racing(history.standings)


def _remembered(trials: Sequence[FrozenTrial], direction: StudyDirection) -> list[FrozenTrial]:
    """The newest half of REMEMBERED, and before them the best of what came earlier."""
    half = REMEMBERED // 2
    sign = 1 if direction == StudyDirection.MINIMIZE else -1
    complete = [t for t in trials[:-half] if t.state == TrialState.COMPLETE]
    return sorted(complete, key=lambda t: sign * t.values[0])[:half] + list(trials[-half:])
